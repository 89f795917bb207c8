"""Tiny checkpoints of real families: the real classes and processors, two layers, random weights.

    folder = build("gemma3", tmp_path / "gemma3")

Each takes about a second and 2 MB, so they are built when a session starts and none is committed.
Their widths are the least that vLLM's attention on a CPU takes (heads of 32). They say nonsense,
but nonsense that depends on every image and word: weights are drawn wide (0.3), and what starts
as zeros is filled.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loaders.torchvision_repair import repair_torchvision

WIDE = 0.3
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "<end>")
PROSE = (
    "The mill stands by the river, and its wheel turns all day. Twelve sacks of flour were sold "
    "in the month of October 1974. Transcribe the text of this page. Describe this image. user "
    "assistant Read. page line"
)
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "initializer_range": WIDE,
    "tie_word_embeddings": False,
}
EYES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
    "initializer_range": WIDE,
}
TEMPLATE = (
    "{%- for message in messages -%}<turn>{{ message['role'] }}\n"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for item in message['content'] -%}"
    "{%- if item['type'] == 'image' -%}IMAGE{%- else -%}{{ item['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<end>{%- endfor -%}"
    "{%- if add_generation_prompt -%}<turn>assistant\n{%- endif -%}"
)


def build(family: str, folder: Path, for_vllm: bool = False) -> Path:
    """Write the tiny checkpoint of a family; the same bytes each time.

    Parameters
    ----------
    family : str
        A key of `BUILDERS`.
    folder : pathlib.Path
        Made where it does not exist.
    for_vllm : bool
        Name Gemma 3's tensors as its published checkpoints do, which is what vLLM reads;
        transformers reads both.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    repair_torchvision()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = BUILDERS[family]()
    end = processor.tokenizer.eos_token_id
    model.generation_config.update(eos_token_id=end, pad_token_id=processor.tokenizer.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if for_vllm and family == "gemma3":
        _rename_tensors(folder, "vision_tower.", "vision_tower.vision_model.")
    return folder


def _rename_tensors(folder: Path, prefix: str, wanted: str) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {
        name if wanted in name else name.replace(prefix, wanted): tensor
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _tokenizer(images: dict[str, str] | None = None, *others: str) -> Any:
    """A byte-level BPE of about 400 tokens.

    Parameters
    ----------
    images : dict of str to str, optional
        Tokens that become attributes of the tokenizer.
    others : str
        Further special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE(unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[*SPECIALS, *(images or {}).values(), *others],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator([PROSE] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        extra_special_tokens=images or {},
    )


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """The language model's config with this tokenizer's ids."""
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in IDS}
    return {**TEXT, **ids, "vocab_size": len(tokenizer), **changes}


IDS = ("pad", "eos", "bos")


def _template(image: str) -> str:
    return TEMPLATE.replace("IMAGE", image)


def _llama4() -> tuple[Any, Any]:
    import transformers as hf

    image = "<|image|>"
    parts = ("<|image_start|>", "<|image_end|>", "<|patch|>")
    tiles = ("<|tile_x_separator|>", "<|tile_y_separator|>")
    tokenizer = _tokenizer(None, image, *parts, *tiles)
    start, end, patch = tokenizer.convert_tokens_to_ids(list(parts))
    config = hf.Llama4Config(
        text_config=_text(
            tokenizer,
            intermediate_size_mlp=256,
            num_local_experts=4,
            num_experts_per_tok=1,
            interleave_moe_layer_step=2,  # as in Maverick: every second layer has experts
            no_rope_layer_interval=2,
            use_qk_norm=False,
            floor_scale=8192,
        ),
        vision_config={
            **EYES,
            "intermediate_size": 4 * EYES["hidden_size"],  # what the pixel shuffle gives
            "projector_input_dim": 128,
            "projector_output_dim": 128,
            "vision_output_dim": 128,
        },
        boi_token_index=start,
        eoi_token_index=end,
        image_token_index=patch,
    )
    processor = hf.Llama4Processor(
        image_processor=hf.Llama4ImageProcessor(size={"height": 56, "width": 56}, max_patches=4),
        tokenizer=tokenizer,
        chat_template=_template(image),
    )
    return hf.Llama4ForConditionalGeneration(config), processor


def _gemma3() -> tuple[Any, Any]:
    import torch
    import transformers as hf

    image = "<start_of_image>"
    names = {"boi_token": image, "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer = _tokenizer(names)
    tokenizer.add_tokens(["\n" * lines for lines in range(1, 5)])  # vLLM looks for them
    config = hf.Gemma3Config(
        text_config=_text(
            tokenizer,
            query_pre_attn_scalar=32,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=EYES,
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        tie_word_embeddings=False,
        initializer_range=WIDE,
    )
    model = hf.Gemma3ForConditionalGeneration(config)
    # It starts as zeros, and the model would be blind.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight)
    processor = hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer=tokenizer,
        chat_template=_template(image),
        image_seq_length=4,
    )
    return model, processor


def _internvl3() -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _tokenizer(names)
    config = hf.InternVLConfig(
        text_config={"model_type": "qwen2", **_text(tokenizer)},
        vision_config={
            **EYES,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "layer_scale_init_value": 1.0,
        },
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    size = {"height": 56, "width": 56}
    processor = hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=4),
        tokenizer=tokenizer,
        video_processor=hf.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>"),
    )
    return hf.InternVLForConditionalGeneration(config), processor


def _pixtral() -> tuple[Any, Any]:
    import transformers as hf

    tokenizer = _tokenizer(None, "[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = hf.LlavaConfig(
        text_config={"model_type": "mistral", **_text(tokenizer), "sliding_window": None},
        vision_config={
            **EYES,
            "model_type": "pixtral",
            "head_dim": 16,
            "image_size": 128,
            "patch_size": 16,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="gelu",
        multimodal_projector_bias=False,
        tie_word_embeddings=False,
    )
    processor = hf.PixtralProcessor(
        image_processor=hf.PixtralImageProcessor(
            size={"longest_edge": 128}, patch_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=16,
        chat_template=_template("[IMG]"),
    )
    return hf.LlavaForConditionalGeneration(config), processor


def _qwen25vl() -> tuple[Any, Any]:
    import transformers as hf

    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    tokenizer = _tokenizer(names)
    config = hf.Qwen2_5_VLConfig(
        text_config=_text(
            tokenizer,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 6, 6],  # sums to half a head
            },
        ),
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
            "initializer_range": WIDE,
        },
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
        tie_word_embeddings=False,
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 64}
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(size=size),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config), processor


def _mllama() -> tuple[Any, Any]:
    """Llama 3.2 Vision: images come in by cross-attention, not as tokens."""
    import torch
    import transformers as hf

    tokenizer = _tokenizer({"image_token": "<|image|>"}, "<|python_tag|>")
    text = _text(tokenizer, cross_attention_layers=[1])
    text.pop("head_dim")
    eyes = {name: EYES[name] for name in EYES if name != "num_attention_heads"}
    config = hf.MllamaConfig(
        text_config=text,
        vision_config={
            **eyes,
            "attention_heads": 4,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 3 * EYES["hidden_size"],
            "max_num_tiles": 4,
        },
        image_token_index=tokenizer.image_token_id,
    )
    model = hf.MllamaForConditionalGeneration(config)
    # Gates start closed, and the model would be blind.
    for name, gate in model.named_parameters():
        if name.endswith(("gate", "gate_attn", "gate_mlp", "gate_ffn")):
            torch.nn.init.ones_(gate)
    processor = hf.MllamaProcessor(
        image_processor=hf.MllamaImageProcessor(
            size={"height": 56, "width": 56}, max_image_tiles=4
        ),
        tokenizer=tokenizer,
        chat_template=_template("<|image|>"),
    )
    return model, processor


BUILDERS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llama4": _llama4,
    "gemma3": _gemma3,
    "internvl3": _internvl3,
    "pixtral": _pixtral,
    "qwen25vl": _qwen25vl,
    "mllama": _mllama,
}
FAMILIES = ("llama4", "gemma3", "internvl3", "pixtral", "qwen25vl")
"""Those with a loader of their own."""
