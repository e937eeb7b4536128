"""What runs and merged runs have in common: a CXI file that is opened once, and closed."""

from functools import cached_property
from pathlib import Path
from typing import Self

from xfelmpi.output.cxi.frames import HitFrames


class OpenHits:
    """Something with hits in a CXI file; a context manager that closes it."""

    @property
    def _cxi(self) -> Path:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error) -> None:
        self.close()

    def close(self) -> None:
        """Close the file of the hits, if it is open."""
        if "_frames" in self.__dict__:
            self.__dict__.pop("_frames").close()
            self.__dict__.pop("hits", None)

    @cached_property
    def _frames(self) -> HitFrames:
        return HitFrames(self._cxi)
