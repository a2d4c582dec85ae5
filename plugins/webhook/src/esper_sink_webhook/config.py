"""``[sink.webhook]``: every option and its unit."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from esper_core.hooks import Secret  # noqa: TC001  # as below
from esper_sink_webhook.shapes import Occasion, Shape  # noqa: TC001  # msgspec resolves them at run time

__all__ = ["WebhookConfig"]

_OCCASIONS: Final[tuple[Occasion, ...]] = ("started", "worsened", "recovered", "finished", "crashed")
Seconds = Annotated[float, Meta(gt=0, le=86400)]


class WebhookConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sink.webhook]``."""

    url: Annotated[
        Secret | None,
        Meta(description="where messages are posted; required, and a secret, because for most services it is one"),
    ] = None
    token: Annotated[
        Secret | None, Meta(description="sent as Authorization: Bearer, for example to a protected ntfy topic")
    ] = None
    shape: Annotated[
        Shape, Meta(description="what is posted: a JSON object, ntfy's text with headers, Slack's text")
    ] = "json"
    on: Annotated[tuple[Occasion, ...], Meta(description="which messages are sent")] = _OCCASIONS
    least: Annotated[
        Literal["warning", "critical"], Meta(description="the level from which on the policy has worsened")
    ] = "warning"
    pause_s: Annotated[
        float,
        Meta(
            description="least seconds between two messages about the level, so that one that wavers tells no story; "
            "a worse level is told at once",
            ge=0,
            le=86400,
        ),
    ] = 60.0
    timeout_s: Annotated[Seconds, Meta(description="seconds for one request")] = 10.0
    retry_s: Annotated[
        Seconds, Meta(description="seconds for which one message is tried; then it is lost, and counted")
    ] = 300.0
    close_timeout_s: Annotated[
        Seconds, Meta(description="seconds to send what is left when the run ends; keep it below run.close_timeout_s")
    ] = 2.5
