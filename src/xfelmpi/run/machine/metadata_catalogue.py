"""Sample and type of a run from the facility's metadata catalogue, asked in the background.

By ``extra_proposal`` (``Proposal.run_sample_name``, ``run_type``), if it is installed. It needs the
site's network and credentials: whatever goes wrong is only a note.
"""

import importlib.util
import os
import threading
from pathlib import Path
from time import monotonic

from xfelmpi.core.text import printable

SECONDS = 5.0
"""An answer that takes longer is not waited for."""

_LONGEST = 200


class CatalogueQuery:
    """A question to the catalogue; asked at once, in a thread of its own.

    Parameters
    ----------
    proposal : int
        0: unknown, so that nothing can be asked.
    run : int
    allowed : bool
    """

    def __init__(self, proposal: int, run: int, *, allowed: bool = True):
        self._asked = proposal, run
        self._answer: dict[str, str] = {}
        self._error = ""
        self._begin = monotonic()
        self._thread = None
        if allowed and proposal and importlib.util.find_spec("extra_proposal") is not None:
            # a daemon: it must not keep the job from ending
            self._thread = threading.Thread(target=self._ask, daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        proposal, run = self._asked
        # elsewhere no proposal can be found, and the import alone takes 80 ms
        root = Path(os.environ.get("EXTRA_DATA_DATA_ROOT", "/gpfs/exfel/exp"))
        if not root.is_dir():
            self._error = f"not asked: no folder {root} (EXTRA_DATA_DATA_ROOT)"
            return
        try:
            from extra_proposal import Proposal

            catalogue = Proposal(proposal)
            for name, ask in (
                ("sample", catalogue.run_sample_name),
                ("run_type", catalogue.run_type),
            ):
                value = ask(run)
                if isinstance(value, str):
                    self._answer[name] = printable(value.strip())[:_LONGEST]
        # without network or credentials, it may raise anything
        except BaseException as error:
            self._error = str(error).split("\n")[0].strip() or type(error).__name__

    def answer(self) -> tuple[dict[str, str], str]:
        """Wait for the answer, no longer than 5 s since the question.

        Returns
        -------
        dict of str
            ``sample`` and ``run_type``, as far as they are known.
        str
            Why there is less, for the log; empty if nothing is to be said.
        """
        if self._thread is None:
            return {}, ""
        self._thread.join(max(0.0, self._begin + SECONDS - monotonic()))
        if self._thread.is_alive():
            return dict(self._answer), f"metadata catalogue: no answer within {SECONDS:g} s"
        why = f"metadata catalogue: {self._error[:_LONGEST]}" if self._error else ""
        return dict(self._answer), why
