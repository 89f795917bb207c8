"""Prompts as vLLM takes them: laid out and tokenized as transformers does it, images prepared."""

from __future__ import annotations

from typing import Any

from loaders.engine import Request
from loaders.pictures import data_url, for_model
from loaders.visits import Visit
from loaders.vlm_loader import VLMConfig


class TemplatePrompter:
    """Prompts by the chat template of the checkpoint's Hugging Face processor."""

    def __init__(self, config: VLMConfig) -> None:
        from loaders import transformers_model
        from loaders.torchvision_repair import repair_torchvision

        repair_torchvision()
        self._processor = transformers_model.load_processor(config)
        self._special = transformers_model.special_tokens(self._processor)

    def refusal(self, request: Request) -> str | None:
        """A special token in the prompt would break it."""
        found = next((token for token in self._special if token in request.prompt), None)
        return f"the prompt contains the special token {found!r}: reword it" if found else None

    async def render(self, renderer: Any, request: Request, visit: Visit) -> dict[str, Any]:
        """The prompt as vLLM takes it."""
        content = [*({"type": "image"} for _ in request.images)]
        content.append({"type": "text", "text": request.prompt})
        text = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        tokenizer = self._processor.tokenizer
        # As transformers does it: some templates write the first token, others leave it.
        begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        ids: list[int] = tokenizer(text, add_special_tokens=not begun)["input_ids"]
        if (ready := visit.prompt_for(ids)) is not None:
            return ready
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if request.images:
            names = [f"{visit.name}-{number}" for number in range(len(request.images))]
            prompt["multi_modal_data"] = {"image": [for_model(image) for image in request.images]}
            prompt["multi_modal_uuids"] = {"image": names}  # or vLLM would hash the pixels
        (rendered,) = await renderer.render_cmpl_async([prompt])
        visit.keep(ids, rendered)
        return dict(rendered)


class MistralPrompter:
    """Prompts by mistral_common, for Mistral's own format, which has no chat template."""

    def refusal(self, request: Request) -> str | None:
        """None: mistral_common reads a special token in a prompt as plain text."""
        return None

    async def render(self, renderer: Any, request: Request, _: Visit) -> dict[str, Any]:
        """The prompt as vLLM takes it."""
        from vllm.renderers import ChatParams

        # mistral_common knows no other form of an image that is already in memory.
        images = [
            {"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images
        ]
        message = {
            "role": "user",
            "content": [*images, {"type": "text", "text": request.prompt}],
        }
        _, (prompt,) = await renderer.render_chat_async([[message]], ChatParams())
        return dict(prompt)
