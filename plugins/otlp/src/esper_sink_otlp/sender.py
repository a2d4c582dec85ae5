"""The SDK's own exporter of one signal, one request a call, and what became of that request.

The exporters of ``opentelemetry-exporter-otlp`` encode, compress, sign in and speak; proxies, certificates and
credential providers are theirs. What they answer is success or failure alone, so a ``Watch`` stands where the
request leaves them (the session over HTTP, the stub over gRPC) and notes the status, Retry-After, partial success or
the exception.
"""

from __future__ import annotations

import logging
import ssl
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from esper_core.errors import SinkError
from esper_sink_otlp.answer import Answer
from esper_sink_otlp.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    from esper_sink_otlp.settings import SignalSettings

__all__ = ["Sender", "check_files"]

_LOGGERS: Final = tuple(
    f"opentelemetry.exporter.otlp.proto.{name}"
    for name in (
        *("http.trace_exporter", "http.metric_exporter", "http._log_exporter", "http._common"),
        *("grpc.exporter", "grpc.trace_exporter", "grpc.metric_exporter", "grpc._log_exporter"),
    )
)
_here = threading.local()


class Sender:
    """One signal's exporter. ``send`` is called by one thread; ``close`` may come from another.

    Args:
        settings: of the signal.
        redact: every text of an answer passes it.

    Raises:
        SinkError: a certificate file or the credential provider cannot be used.
    """

    def __init__(self, settings: SignalSettings, redact: Callable[[str], str]) -> None:
        check_files(settings)
        self._redact = redact
        self._watch = Watch(settings)
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(_overheard)
        self._exporter = _open(self._watch)

    def send(self, payload: Any, timeout_s: float) -> Answer:
        """Send one request with what ``export`` of the signal's exporter takes. Waits at most about ``timeout_s``.

        Returns:
            What became of it; never raises.
        """
        self._watch.begin(timeout_s)
        _here.watch = self._watch
        raised = ""
        try:
            self._exporter.export(payload)
        except Exception as error:  # noqa: BLE001  # the exporter's encoder raises what it likes, 1.43 does not catch it
            raised = f"{type(error).__name__}: {error}"
        finally:
            _here.watch = None
        answer = self._watch.answer
        if answer is None:
            answer = Answer(
                ok=False,
                cause=f"it cannot be encoded: {raised or self._watch.said or 'the exporter did not say why'}",
                hint="an attribute has a value that OTLP does not know",
                divisible=True,
            )
        return replace(answer, cause=self._redact(answer.cause), hint=self._redact(answer.hint))

    def close(self) -> None:
        """Let go of connections. Over gRPC a call under way is cancelled; over HTTP it ends by its own timeout."""
        _here.watch = self._watch
        try:
            self._exporter.shutdown()
        finally:
            _here.watch = None


def _open(watch: Watch) -> Any:
    """The exporter of the signal, by the protocol in use: only that one is imported."""
    if watch.settings.protocol == "grpc":
        from esper_sink_otlp.grpc_exporter import grpc_exporter  # noqa: PLC0415  # only the protocol in use

        return grpc_exporter(watch)
    from esper_sink_otlp.http_exporter import http_exporter  # noqa: PLC0415  # only the protocol in use

    return http_exporter(watch)


def _overheard(record: logging.LogRecord) -> bool:
    """Keep what an exporter of ours logs: it repeats itself on each failure, and quotes URLs. Others' lines pass."""
    watch: Watch | None = getattr(_here, "watch", None)
    if watch is not None:
        watch.said = record.getMessage()
    return watch is None


def check_files(settings: SignalSettings) -> None:
    """Read the certificate files once: over gRPC the exporter ignores what is missing, over HTTP it fails each time.

    Raises:
        SinkError: a file cannot be read, or is no PEM file.
    """
    files = ", ".join(filter(None, (settings.certificate, settings.client_certificate, settings.client_key)))
    if not files:
        return
    try:
        context = ssl.create_default_context(cafile=settings.certificate)
        if settings.client_certificate and settings.client_key:
            context.load_cert_chain(settings.client_certificate, settings.client_key)
    except (OSError, ssl.SSLError) as error:
        raise SinkError(
            f"the otlp sink cannot use its certificate files ({files}): {error}",
            hint="they are PEM files: [sink.otlp] certificate, client_certificate, client_key",
        ) from error
