"""What one process that watches knows: the state, which is on disk before anything is done."""

from collections.abc import Callable
from time import time

from xfelmpi.core.log import log
from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import FAILED, WatchedRun, WatchState, read_state, write_state


class Ledger:
    """The state of all runs, in memory and on disk.

    Parameters
    ----------
    files : WatchFiles
    clock : callable
        Seconds since 1970.
    show : callable
        Called when the state has changed and is on disk.
    """

    def __init__(
        self,
        files: WatchFiles,
        clock: Callable[[], float] = time,
        show: Callable[[WatchState], None] = lambda _state: None,
    ):
        self.files, self.clock, self._show = files, clock, show
        self.state = read_state(files.state)
        self.failures: set[int] = set()
        self._saved = repr(self.state)

    def save(self) -> None:
        """Write the state, if it is another one than before, and show it."""
        now = repr(self.state)
        if now != self._saved:
            write_state(self.files.state, self.state)
            self._saved = now
            self._show(self.state)

    def change(self, run: int, **values) -> WatchedRun:
        """Change what is known of a run, and return it."""
        return self.state.change(run, **values)

    def tell(self, run: int, about: str, **values) -> None:
        """Take note of something about a run, and say it if it is new."""
        before = self.state.runs[run]
        if values.get("state") == FAILED:
            self.failures.add(run)
        if about != before.about or values:
            log.info("run %d: %s", run, about)
            values = {"since": self.clock(), **values}
        self.state.change(run, about=about, **values)
