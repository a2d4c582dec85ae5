"""The sink: a page, and a reader that fills it when it is read."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, ClassVar, Final

from esper_core.errors import SinkError
from esper_core.hooks import SinkContext, hookimpl
from esper_sink_prometheus.config import PrometheusConfig, address
from esper_sink_prometheus.page import ScrapePage
from esper_sink_prometheus.reader import PageReader

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader

__all__ = ["PrometheusSink"]

_CHECK_S: Final = 5.0


class PrometheusSink:
    """Serves the run's metrics on a page that Prometheus scrapes.

    Args:
        config: ``[sink.prometheus]``; what is unset falls through to ``OTEL_EXPORTER_PROMETHEUS_*``.

    Raises:
        ConfigError: a variable cannot be used.
    """

    Config: ClassVar[type[PrometheusConfig]] = PrometheusConfig

    def __init__(self, config: PrometheusConfig) -> None:
        self._config = config
        self._host, self._port = address(config, os.environ)
        self._page: ScrapePage | None = None
        self._linger_s = 0.0

    @property
    def url(self) -> str:
        """Where the page is, once the run has begun; empty when nothing is served."""
        return self._page.url if self._page is not None else ""

    @hookimpl
    def esper_metric_readers(self, context: SinkContext) -> list[MetricReader]:
        """One reader: it collects when the page is read. The port is taken here, before training.

        Raises:
            SinkError: the address cannot be served on.
        """
        self._linger_s = self._config.linger_s if context.mode == "live" else 0.0
        page = self._page = ScrapePage(self._host, self._port)
        return [PageReader(page.registry, lambda: page.close(self._linger_s))]

    @hookimpl
    def esper_sink_opened(self, context: SinkContext) -> None:
        """Begin to answer. Nothing is served under an application's own SDK, which exports for itself.

        Raises:
            SinkError: a replay: a scrape reads the present alone.
        """
        if context.mode == "replay":
            raise SinkError(
                'sink "prometheus" cannot be replayed into: a scrape reads what is now, not what was',
                hint="use: esper replay RUN --to otlp, which sends points with their own times",
            )
        if self._page is None:
            context.logger.warning(
                "prometheus serves nothing: the application has set up OpenTelemetry itself and exports "
                "what Esper records, or OTEL_SDK_DISABLED is set"
            )
            return
        self._page.start()
        context.logger.info("prometheus: serves %s", self.url)

    @hookimpl
    def esper_sink_closed(self) -> None:
        """Wait ``linger_s`` for a scrape that reads how the run ended, then end the server."""
        if self._page is not None:
            self._page.close(self._linger_s)

    def check_report(self) -> str:
        """Read the page and say where it is and what it holds.

        Raises:
            SinkError: it cannot be read.
        """
        if self._page is None:
            return "serves nothing: OpenTelemetry is the application's own, or disabled"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy leads to this process
        try:
            with opener.open(_reachable(self.url), timeout=_CHECK_S) as answer:
                text = answer.read().decode()
        except (OSError, urllib.error.URLError) as error:
            raise SinkError(f"{self.url} cannot be read: {error}") from None
        series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
        return f"served {series} series on {self.url}"


def _reachable(url: str) -> str:
    """The page by an address that leads here, where it is served on all of them."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
