"""Whether dark runs come in the order of their gain stages: by the digital level. Pure."""

from dataclasses import dataclass, field

import numpy as np

from xfelmpi.calibration.constants_file import STAGES
from xfelmpi.calibration.dark_statistics import StageStatistics


@dataclass
class StageOrder:
    """How the digital levels of consecutive stages compare, over some modules and cells.

    The level tells which gain a pixel has switched to. It is lowest in high gain, highest in low.

    Parameters
    ----------
    rising, compared : ndarray, int64 (2,)
        Pixels whose level rises from the first to the second stage, and from there to the third;
        all pixels that have both.
    total, n : ndarray, float64 (3,)
        Sum of the levels of a stage, and of how many pixels.
    """

    rising: np.ndarray = field(default_factory=lambda: np.zeros(STAGES - 1, np.int64))
    compared: np.ndarray = field(default_factory=lambda: np.zeros(STAGES - 1, np.int64))
    total: np.ndarray = field(default_factory=lambda: np.zeros(STAGES))
    n: np.ndarray = field(default_factory=lambda: np.zeros(STAGES))

    def add(self, stages: list[StageStatistics | None]) -> None:
        """Count the pixels of one module and cell."""
        for i, stage in enumerate(stages):
            if stage is None:
                continue
            known = ~np.isnan(stage.digital)
            self.total[i] += stage.digital[known].sum()
            self.n[i] += known.sum()
            before = stages[i - 1] if i else None
            if before is not None:
                known &= ~np.isnan(before.digital)
                self.compared[i - 1] += known.sum()
                self.rising[i - 1] += (stage.digital > before.digital)[known].sum()

    def wrong(self, runs: list[int]) -> str:
        """Return what is wrong with the order of the runs, nothing if it is right.

        A few pixels may do anything: most must rise.
        """
        if (2 * self.rising >= self.compared).all():
            return ""
        levels = self.total[: len(runs)] / np.maximum(self.n[: len(runs)], 1)
        found = ", ".join(f"{run}: {level:,.0f}" for run, level in zip(runs, levels, strict=True))
        better = " ".join(str(runs[i]) for i in np.argsort(levels, kind="stable"))
        text = f"dark runs {' '.join(map(str, runs))} have mean digital levels of {found} ADU; "
        text += "expected high, medium and low gain in this order, whose levels rise"
        return text if better == " ".join(map(str, runs)) else f"{text}; by their levels: {better}"
