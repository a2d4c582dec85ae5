"""``[sink.wandb]``: every option."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["WandbConfig"]


class WandbConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.wandb]``. What is unset falls through to wandb's own settings: ``WANDB_*``, ``wandb offline``."""

    mode: Annotated[
        Literal["", "online", "offline"],
        Meta(description="online or offline; unset: WANDB_MODE, `wandb offline`, else online"),
    ] = ""
    project: Annotated[str, Meta(description="the project; unset: WANDB_PROJECT, else esper")] = ""
    entity: Annotated[str, Meta(description="the user or team; unset: WANDB_ENTITY, else your default")] = ""
    group: Annotated[str, Meta(description="the group of the run; unset: WANDB_RUN_GROUP")] = ""
    tags: Annotated[tuple[str, ...], Meta(description="tags beside that of the policy's level")] = ()
    dir: Annotated[
        str, Meta(description="the folder in which wandb makes its folder wandb/; unset: WANDB_DIR, else where you are")
    ] = ""
    step: Annotated[
        Literal["update_id", "env_steps"],
        Meta(
            description="the horizontal axis that charts begin with; env_steps needs a loop that counts them. Both are "
            "logged"
        ),
    ] = "update_id"
