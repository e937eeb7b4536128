"""What must be in the outputs of a simulated run: worked out with numpy from its truth alone.

Frame by frame, as the formats are written down; nothing of the program but the numbers of pixels is
used. Photons are summed over lit pixels only: most pixels of a frame are dark.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import reference
from mockrun import MockRun
from reference import window

FRAME_SHAPE = (16, 512, 128)
PLANCK, LIGHT_SPEED = 6.62607015e-34, 299792458.0


@dataclass
class Expected:
    """The answer for one simulated run and one set of options.

    Parameters
    ----------
    mock : MockRun
        With the truth of all frames (``truth="full"``).
    good : dict of int to ndarray, optional
        Good pixels of each cell, bool (module, ss, fs); default: all.
    region : ndarray, optional
        Hit-finding region, bool (module, ss, fs); default: everything.
    score, decide, sigma, fixed_threshold, miss_fraction, miss_base, min_scores, width, sigma_floor
        As the options of the main job; likewise those up to `excluded`.
    rows : (int, int or None)
        First and end of the frames that are processed, for ``--trains``.
    with_misses : bool
        Whether the CXI file has the misses too.
    bad : dict of int to ndarray
        By frame, pixels without a number of photons there, bool (module, ss, fs).
    """

    mock: MockRun
    good: dict[int, np.ndarray] | None = None
    region: np.ndarray | None = None
    score: str = "litpixels"
    decide: str = "auto"
    sigma: float = 4.0
    fixed_threshold: float | None = None
    miss_fraction: float = 1.0
    miss_base: str = "hits"
    min_scores: int = 100
    width: str = "lower"
    sigma_floor: str = "poisson"
    normalise: str = "none"
    min_score: float = -np.inf
    max_score: float = np.inf
    min_pulse_energy: float | None = None
    excluded: tuple[int, ...] = ()
    rows: tuple[int, int | None] = (0, None)
    with_misses: bool = False
    bad: dict[int, np.ndarray] = field(default_factory=dict)
    _frames: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a frame, (module, ss, fs)."""
        return self.mock.options.detector_type.frame_shape

    @cached_property
    def _all_good(self) -> np.ndarray:
        return np.ones(self.shape, bool)

    def column(self, name: str) -> np.ndarray:
        """Return a column of the truth."""
        return self.mock.truth[name][slice(*self.rows)]

    def __len__(self):
        return len(self.column("trainId"))

    def mask_of(self, row: int) -> np.ndarray:
        """Return the good pixels of a frame's cell by the masks, bool (module, ss, fs)."""
        return self._all_good if self.good is None else self.good[int(self.column("cellId")[row])]

    def good_of(self, row: int) -> np.ndarray:
        """Return the good pixels of a frame, bool (module, ss, fs)."""
        return self.mask_of(row) & ~self.bad[row] if row in self.bad else self.mask_of(row)

    def present(self, row: int) -> np.ndarray:
        """Return which modules have a frame, bool (module,)."""
        return (self.column("modules")[row] >> np.arange(self.shape[0]) & 1).astype(bool)

    def frame(self, row: int) -> np.ndarray:
        """Return the photons of a frame on its good pixels, uint16 (module, ss, fs)."""
        if row not in self._frames:
            self._frames[row] = self.mock.frame(row + self.rows[0]) * self.good_of(row)
        return self._frames[row]

    @cached_property
    def _lit(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        return {}

    def lit(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return where a frame has photons on its good pixels, int (entry,), and how many there."""
        if row not in self._lit:
            frame = self.frame(row).reshape(-1)
            places = np.flatnonzero(frame)
            self._lit[row] = places, frame[places]
        return self._lit[row]

    @cached_property
    def sums(self) -> dict[str, np.ndarray]:
        """Sums over the good pixels of every frame, and its score."""
        region = self._all_good if self.region is None else self.region
        sums = {
            n: np.zeros(len(self), np.int64) for n in ("lit", "photons", "ones", "peak", "score")
        }
        for row in range(len(self)):
            places, counts = self.lit(row)
            sums["lit"][row] = len(counts)
            sums["photons"][row] = counts.sum(dtype=np.int64)
            sums["ones"][row] = (counts == 1).sum()
            sums["peak"][row] = counts.max(initial=0)
            seen = counts[region.reshape(-1)[places]]
            counted = seen > 0 if self.score == "litpixels" else seen
            sums["score"][row] = counted.sum(dtype=np.int64)
        return sums | {"score": self._normalised(sums["score"], region)}

    @cached_property
    def good_in_region(self) -> np.ndarray:
        """Good pixels of the hit-finding region, in the modules of the run, int64 (frame,)."""
        region = self._all_good if self.region is None else self.region
        there = region & ~self.absent[:, None, None]
        return np.array([np.count_nonzero(self.good_of(row) & there) for row in range(len(self))])

    def _normalised(self, score: np.ndarray, region: np.ndarray) -> np.ndarray:
        seen = self.good_in_region > 0
        if self.normalise == "none":
            return np.where(seen, score, np.nan)
        if self.normalise == "unmasked":
            with np.errstate(divide="ignore", invalid="ignore"):
                return (score * (region.sum() / self.good_in_region)).astype(np.float32)
        energy = self.column("pulse_energy")
        factor = [np.mean(energy[self.window(row)]) / energy[row] for row in range(len(self))]
        enough = energy >= (self.min_pulse_energy or 0)
        return np.where(enough, score * np.array(factor), np.nan).astype(np.float32)

    def window(self, row: int) -> list[int]:
        """Return the frames that decide a frame's train with ``--decide window``."""
        own = np.flatnonzero(self.column("trainId") == self.column("trainId")[row])
        return window(self.usable.tolist(), own[0], own[-1] + 1, self.min_scores)

    @cached_property
    def usable(self) -> np.ndarray:
        """Whether a frame can be decided."""
        enough = True
        if self.min_pulse_energy is not None:
            enough = self.column("pulse_energy") >= self.min_pulse_energy
        enough &= self.good_in_region > 0
        return self.complete & enough & ~np.isin(self.column("cellId"), self.excluded)

    @cached_property
    def complete(self) -> np.ndarray:
        """Whether every module of the run has the frame."""
        modules = self.column("modules")
        return modules == np.bitwise_or.reduce(modules)

    @cached_property
    def statistics(self) -> dict[str, np.ndarray]:
        """Median, std, threshold and sigma, float64, NaN where undecidable; and `is_hit`."""
        n, score, trains = len(self), self.sums["score"], self.column("trainId")
        median, std, threshold = np.full((3, n), np.nan)
        kind = "half" if self.decide == "window" and self.width == "lower" else self.width
        floor, background = self.sigma_floor == "poisson", {}
        if self.decide == "auto":
            names = np.unique(trains)
            groups = [score[self.usable & (trains == name)] for name in names]
            found = reference.background(groups, self.min_scores, floor=floor)
            background = dict(zip(names.tolist(), found, strict=True))
        for row in np.flatnonzero(self.usable):
            if self.decide == "auto":
                median[row], std[row] = background[int(trains[row])]
                threshold[row] = reference.skewed_threshold(
                    median[row], std[row], self.sigma, floor=floor
                )
                continue
            if self.decide == "fixed":
                threshold[row] = self.fixed_threshold
                continue
            group = self.usable & ((trains == trains[row]) | (self.decide == "run"))
            if self.decide == "window":
                group = self.window(row)
            low, middle, high = np.percentile(score[group].astype(np.float64), (25, 50, 75))
            std[row] = {
                "lower": 1.4826 * (middle - low),
                "half": 2 * (middle - low) / 1.34896,
                "iqr": (high - low) / 1.34896,
            }[kind]
            if self.sigma_floor == "poisson":
                std[row] = max(std[row], np.sqrt(middle), 1)
            median[row] = middle
            threshold[row] = middle + self.sigma * std[row]
        in_range = (score >= self.min_score) & (score <= self.max_score)
        sigma = np.full(n, np.nan)
        np.divide(score - median, std, out=sigma, where=std > 0)
        return {
            "hit_median": median,
            "hit_std": std,
            "hit_threshold": threshold,
            "hit_sigma": sigma,
            "is_hit": (score > threshold) & in_range,
        }

    @cached_property
    def is_hit(self) -> np.ndarray:
        """Hits, bool (frame,)."""
        return self.statistics["is_hit"]

    @property
    def n_misses(self) -> int:
        """How many misses must be drawn."""
        others = int(self.non_hits.sum())
        base = int(self.is_hit.sum()) if self.miss_base == "hits" else others
        return min(others, round(self.miss_fraction * base))

    @property
    def non_hits(self) -> np.ndarray:
        """What misses may be drawn from, bool (frame,)."""
        return self.usable & ~self.is_hit & (self.sums["score"] <= self.max_score)

    def powder(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return photons and good frames of every pixel, over some frames, bool (frame,)."""
        photons, good = np.zeros(self.shape, np.uint64), np.zeros(self.shape, np.uint32)
        masks: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for row in np.flatnonzero(frames):
            places, counts = self.lit(row)
            photons.reshape(-1)[places] += counts
            if row in self.bad:
                good += self.good_of(row) & self.present(row)[:, None, None]
                continue
            # frames with the same mask: how many of them each module has
            cell = -1 if self.good is None else int(self.column("cellId")[row])
            none = self.mask_of(row), np.zeros(self.shape[0], np.uint32)
            masks.setdefault(cell, none)[1][:] += self.present(row)
        for mask, n_frames in masks.values():
            good += mask * n_frames[:, None, None]
        return photons, good

    @cached_property
    def background(self) -> np.ndarray:
        """Mean photons per good frame over all non-hits, float64, NaN where no frame was good."""
        photons, good = self.powder(~self.is_hit)
        with np.errstate(invalid="ignore"):
            return photons / np.where(good, good, np.nan)

    def weighting(self, rows: np.ndarray) -> np.ndarray:
        """Return what scales the background to each of some frames, float64 (frame,)."""
        trains, photons = self.column("trainId"), self.sums["photons"]
        energy = self.column("pulse_energy")
        others = self.complete & ~self.is_hit
        weights = []
        for row in rows:
            here = others & (trains == trains[row])
            factors = [
                energy[row] / np.mean(energy[~self.is_hit]) if (~self.is_hit).any() else 1.0,
                photons[here].mean() / photons[others].mean() if here.any() else 1.0,
            ]
            weights.append(np.prod(factors))
        return np.array(weights)

    @cached_property
    def ever_good(self) -> np.ndarray:
        """Good in at least one cell of the run, in a module that the run has."""
        good = np.zeros(self.shape, bool)
        for row in range(len(self)):
            good |= self.mask_of(row)
        return good & ~self.absent[:, None, None]

    @property
    def switched(self) -> np.ndarray:
        """Good pixels in medium and in low gain, of raw data, uint32 (frame, 2)."""
        return np.stack([self.column(f"{stage}_pixels") for stage in ("medium", "low")], axis=1)

    @property
    def absent(self) -> np.ndarray:
        """Modules that no frame has, bool (module,)."""
        return ~np.any([self.present(row) for row in range(len(self))], axis=0)
