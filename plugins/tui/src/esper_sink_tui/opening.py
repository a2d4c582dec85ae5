"""What opens above the main screen: lists, plots, pages, questions. Each is loaded when it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from esper_core.reading.alerts import AlertBook, Alerts
from esper_core.terminal import one_line
from esper_sink_tui.taking import Taking

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from esper_sink_tui.watch import Watch

__all__ = ["Opening"]


class Opening(Taking):
    """The keys that open another screen.

    Args:
        watch: the runs.
        ascii_only: draw with ASCII signs and without the plot widget.
        export_dir: the folder for exports.
        request_stop: asks the trainer of a run to stop; returns what it did, or why it could not.
    """

    def __init__(
        self,
        watch: Watch,
        *,
        ascii_only: bool = False,
        export_dir: Path | None = None,
        request_stop: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(watch, ascii_only=ascii_only, export_dir=export_dir)
        self.alerts = Alerts()
        self._book = AlertBook()
        self._request_stop = request_stop

    def action_alerts(self) -> None:
        """Open the list of changes of the verdict, of all runs."""
        from esper_sink_tui.screens.alerts import AlertsScreen  # noqa: PLC0415  # screens load when opened

        screen = AlertsScreen(self.watch_runs, self.alerts.history, self._book, ascii_only=self.ascii_only)
        self.push_screen(screen)

    def action_help(self) -> None:
        """Open the help: keys and signs."""
        from esper_sink_tui.screens.help import HelpScreen  # noqa: PLC0415  # screens load when opened

        self.push_screen(HelpScreen(ascii_only=self.ascii_only))

    def action_history(self) -> None:
        """Open the plots of the whole run."""
        watched = self.watch_runs.watched()
        if watched is None:
            self.notify("no run yet", severity="warning")
            return
        from esper_sink_tui.screens.plots import PlotsScreen  # noqa: PLC0415  # screens load when opened

        self.push_screen(PlotsScreen([watched], ascii_only=self.ascii_only))

    def action_runs(self) -> None:
        """Open the list of runs."""
        from esper_sink_tui.screens.runs import RunsScreen  # noqa: PLC0415  # screens load when opened

        def closed(answer: str | None) -> None:
            if answer == "compare":
                self.action_compare()
            elif answer == "differences":
                self.action_differences()
            self.draw()

        self.push_screen(RunsScreen(self.watch_runs, ascii_only=self.ascii_only), closed)

    def action_compare(self) -> None:
        """Open the plots of the marked runs; of the listed ones when fewer than two are marked."""
        runs = [item for item in self.watch_runs.all() if item.marked]
        if len(runs) < 2:
            runs = [item for item in self.watch_runs.all() if item.snapshot.last is not None]
        if not runs:
            self.notify("no run with an update yet", severity="warning")
            return
        from esper_sink_tui.screens.plots import PlotsScreen  # noqa: PLC0415  # screens load when opened

        self.push_screen(PlotsScreen(runs, ascii_only=self.ascii_only))

    def action_overview(self) -> None:
        """Open what describes the run: configuration, command line, files, versions."""
        watched = self.watch_runs.watched()
        if watched is None:
            self.notify("no run yet", severity="warning")
            return
        from esper_sink_tui.screens.overview import overview_text  # noqa: PLC0415  # screens load when opened
        from esper_sink_tui.screens.page import Page  # noqa: PLC0415  # as above

        title = f"{one_line(self.model.label)} (escape closes)"
        self.push_screen(Page(title, overview_text(watched.overview()), ascii_only=self.ascii_only))

    def action_log(self) -> None:
        """Open the end of the trainer's log."""
        directory = self.watch_runs.directory()
        if directory is None:
            self.notify("the log of a run that is received over the network stays where it runs", severity="warning")
            return
        from esper_sink_tui.screens.log import LogScreen  # noqa: PLC0415  # screens load when opened

        self.push_screen(LogScreen(directory, ascii_only=self.ascii_only))

    def action_differences(self) -> None:
        """Open what differs in configuration between the marked runs."""
        runs = [item for item in self.watch_runs.all() if item.marked and item.directory is not None]
        if len(runs) < 2:
            self.notify("mark two runs of this disk first, with m or in the list", severity="warning")
            return
        from esper_sink_tui.screens.overview import differences  # noqa: PLC0415  # screens load when opened
        from esper_sink_tui.screens.page import Page  # noqa: PLC0415  # as above

        text = differences([item.source.label for item in runs], [item.directory for item in runs if item.directory])
        self.push_screen(Page("What differs in configuration (escape closes)", text, ascii_only=self.ascii_only))

    def action_stop_training(self) -> None:
        """Ask the user for confirmation, then ask the trainer to stop."""
        if self._request_stop is None or not self.watch_runs.selected:
            self.notify("this run's trainer cannot be stopped from here", severity="warning")
            return
        if self.model.life.state.ended:
            self.notify(f"this run has ended: {self.model.life.state.value}", severity="warning")
            return
        from esper_sink_tui.screens.confirm_stop import ConfirmStop  # noqa: PLC0415  # screens load when opened

        run_id, request = self.watch_runs.selected, self._request_stop

        def answered(yes: bool | None) -> None:
            if yes:
                self.notify(request(run_id), markup=False)

        self.push_screen(ConfirmStop(one_line(self.model.snapshot.plan.run_name or run_id)), answered)
