"""``[sink.mlflow]``: every option."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

__all__ = ["MlflowConfig"]


class MlflowConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.mlflow]``. What is unset falls through to MLflow's own settings: ``MLFLOW_*``."""

    tracking_uri: Annotated[
        str,
        Meta(
            description="http(s)://SERVER, sqlite:///FILE or a folder; unset: MLFLOW_TRACKING_URI, else MLflow's "
            "default, sqlite:///mlflow.db where you are. Users and passwords belong in MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        ),
    ] = ""
    experiment: Annotated[
        str, Meta(description="the experiment, made when absent; unset: MLFLOW_EXPERIMENT_NAME, else esper")
    ] = ""
    step: Annotated[
        Literal["update_id", "env_steps"],
        Meta(
            description="the horizontal axis; env_steps lays the curves beside those of other libraries, and needs a "
            "loop that counts them"
        ),
    ] = "update_id"
