"""The hits of several runs that ``xfelmpi merge`` has joined."""

from functools import cached_property
from pathlib import Path

import numpy as np

from xfelmpi.api.hits import Hits, hits_of
from xfelmpi.api.open_hits import OpenHits
from xfelmpi.core.config.options import Config
from xfelmpi.core.paths import MergedFiles
from xfelmpi.io.checked import checked_attribute
from xfelmpi.io.input_file import finished_file
from xfelmpi.output.cxi.reader import read_detector, read_positions
from xfelmpi.report.assembly import Assembler


class MergedRuns(OpenHits):
    """Hits of several runs; ``hit.run`` says which run one is of.

    Parameters
    ----------
    files : MergedFiles

    Raises
    ------
    InputError
        If there is no CXI file of that name.
    """

    def __init__(self, files: MergedFiles):
        self._files = files
        with finished_file(files.cxi, "a CXI file") as file:
            self._runs = tuple(int(run) for run in np.atleast_1d(file.attrs["run"]))
            self._where = checked_attribute(file, "where", str)
            self._settings = checked_attribute(file, "configuration", str)

    @property
    def _cxi(self) -> Path:
        return self._files.cxi

    @property
    def runs(self) -> tuple[int, ...]:
        """Run numbers."""
        return self._runs

    @property
    def where(self) -> str:
        """The condition that the hits fulfil; empty: all hits of the runs."""
        return self._where

    @property
    def settings(self) -> dict:
        """The settings that the runs were merged with."""
        return vars(Config.from_json(self._settings)).copy()

    @cached_property
    def _assembler(self) -> Assembler:
        return Assembler(read_positions(self._cxi), read_detector(self._cxi))

    @cached_property
    def hits(self) -> Hits:
        """The hits, in the order of the CXI file."""
        return hits_of(self._files.cxi, self._frames, self._assembler, self._files.name)

    def __repr__(self) -> str:
        runs = ", ".join(map(str, self.runs))
        return f"<{self._files.name}: {len(self.hits):,} hits of the runs {runs}>"

    def _repr_html_(self) -> str:
        from xfelmpi.api.html import block

        return block(repr(self).strip("<>"), self.hits._repr_html_())
