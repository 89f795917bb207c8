"""The fields of the forms in the Prefect UI, and the settings that they make.

Every field has a type, a default and a line of help, so that the form explains itself. A field
that is left as it is leaves the config as it is. What a form can tell is refused there; fields
that do not go together are refused at the start of the run, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from pagemill.config import CONFIGS, load_settings
from pagemill.errors import UsageError
from pagemill.settings import Runner, Settings

AS_CONFIGURED = "as configured"


class _ConfigNames:
    """Offers the configs of `configs/` as a list; the command line takes paths, too."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
        return {**handler(schema), "enum": names}


Url = Annotated[str, Field(min_length=1)]
Config = Annotated[str, _ConfigNames()]
Overrides = dict[str, Any]


class How(BaseModel):
    """How the pages are read. What is left as it is comes from the config."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Literal[
        "as configured", "qwen25vl", "gemma3", "internvl3", "pixtral", "llama4-maverick", "auto"
    ] = Field("as configured", description="Family of the model; name its checkpoint, too.")
    checkpoint: str = Field(
        "", description="Hub id, or a folder on the worker's host (/…). Empty: as configured."
    )
    quantization: Literal["as configured", "none", "4bit", "8bit", "awq"] = Field(
        "as configured", description="How the weights are kept. Another one is another recipe."
    )
    runner: Literal["as configured", "thread", "process", "ray"] = Field(
        "as configured",
        description="Where engines live: in the run's own process, in a child for each GPU of the "
        "host, or on a Ray cluster.",
    )
    workers: int = Field(
        0, ge=0, le=1024, description="For process and ray. 0: as configured, else one a GPU."
    )
    ray_address: str = Field(
        "", description="host:port of the Ray cluster. Empty: as configured, else RAY_ADDRESS."
    )
    when_busy: Literal["as configured", "wait", "stop", "share"] = Field(
        "as configured",
        description="When another run works on the same recipe: wait for it, stop and say who it "
        "is, or share the work (the rows stay right, some pages may be read twice).",
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> How:
        if self.model != AS_CONFIGURED and not self.checkpoint:
            raise ValueError(f"checkpoint: name the checkpoint that model {self.model} is to load")
        if self.ray_address and self.runner != "ray":
            raise ValueError("ray_address: it needs runner: ray")
        if self.workers and self.runner == "thread":
            raise ValueError(f"workers: {self.workers} workers need runner: process or ray")
        return self

    def overrides(self) -> Overrides:
        """The settings that differ from the config, by their dotted names."""
        settings = {
            "model.name": self.model,
            "model.id": self.checkpoint,
            "model.quantization": self.quantization,
            "work.runner": self.runner,
            "work.workers": self.workers,
            "work.ray_address": self.ray_address,
            "work.when_busy": self.when_busy,
        }
        return {k: v for k, v in settings.items() if v and v != AS_CONFIGURED}


def settings_of(config: str, overrides: Mapping[str, Any], how: How) -> Settings:
    """The settings that a form makes.

    Raises
    ------
    UsageError
        A value or a combination that cannot be right; the message names the field.
    """
    settings = load_settings(config, {**how.overrides(), **overrides})
    if settings.work.workers and settings.work.runner == Runner.THREAD:
        raise UsageError(
            f"workers: {settings.work.workers} workers need runner: process or ray; thread, as the "
            "config says, has one"
        )
    return settings
