"""From photons to what a raw file holds: an analogue and a digital number for every pixel.

A pixel starts in high gain. If its analogue output would exceed `SWITCH_LEVEL`, it goes to medium
gain, and if that is too much as well, to low gain; the digital number tells which.

The photons of a file are *defined* by what a perfect reader gets from it: it takes the stage from
the digital number and the photons from floor(signal / adu_per_photon + 0.3) with
signal = (analogue - offset[stage]) * gain[stage] - common mode. In high gain that gives back the
photons that were drawn as long as the noise stays below 0.25 photons, as it does by default. In
the other stages one ADU is about as much as a photon, or a few, so that is not possible: there
the photons of the truth are those of the formula.
"""

from dataclasses import dataclass

import numpy as np

from xfelmpi.detectors.agipd import ASIC_SIZE, MODULE_PIXELS, MODULE_SHAPE
from xfelmpi.simulate.constants import DEAD, GOOD, HOT, NOISY, NOISY_FACTOR, PixelConstants
from xfelmpi.simulate.model import ModulePhotons
from xfelmpi.simulate.options import STAGES, SimulationOptions
from xfelmpi.simulate.plan import TrainPlan

SWITCH_LEVEL = 12000
"""Analogue output in ADU above which a pixel goes to the next gain stage."""

ANALOGUE_MAX = 16383
"""The largest number that the converters (14 bits) give."""

STAGE_NOISE = 2.0
"""Analogue noise in medium and low gain in ADU, if that of high gain is not smaller."""

DIGITAL_NOISE = 20.0
"""Standard deviation of the digital number in ADU."""

PHOTON_THRESHOLD = 0.7

EDGE = 0.03
EDGE_STEPS = 16
"""Pixels in medium and low gain keep off the edges between two photon counts by this many
photons, so that the order of float operations, or the small error of a measured common mode,
changes nothing. They are lowered ADU by ADU, at most so often; few need it at all."""

_SIGNAL = 4
"""Second number of the generators' seeds; other modules use others."""


def _normal_table() -> np.ndarray:
    """Return the digital noise for every value of a random byte, int16 (256,) ADU.

    Equally likely steps of a normal distribution, from the cumulative sum of its density. Being
    bounded, it can never take a pixel across a threshold.
    """
    x = np.linspace(-6, 6, 24001)
    density = np.exp(-(x**2) / 2)
    quantiles = np.interp((np.arange(256) + 0.5) / 256, np.cumsum(density) / density.sum(), x)
    return np.rint(quantiles * DIGITAL_NOISE).astype(np.int16)


_DIGITAL_NOISE_OF_BYTE = _normal_table()


@dataclass
class _Frame:
    """A frame in the making, flat images of the module.

    Parameters
    ----------
    cell : int
        Memory cell.
    kind : ndarray, uint8 (pixel,)
        What is wrong with the pixel, an index of `BAD_KINDS`.
    drift : ndarray, float32 (pixel,)
        What the common mode of the ASICs adds to the signal, in ADU of the high stage.
    signal : ndarray, float32 (pixel,)
        Signal in ADU of the high stage, with drift and noise.
    analogue : ndarray, float32 (pixel,)
        Whole numbers.
    stage : ndarray, uint8 (pixel,)
        Gain stage.
    """

    cell: int
    kind: np.ndarray
    drift: np.ndarray
    signal: np.ndarray
    analogue: np.ndarray
    stage: np.ndarray


class RawSignal:
    """Turns the photons of one module into raw images.

    Parameters
    ----------
    options : SimulationOptions
        The options of the run.
    module : int
        Module number.
    """

    def __init__(self, options: SimulationOptions, module: int):
        self._options = options
        self._module = module
        self._pixels = PixelConstants(options, module)
        self._stage = STAGES.index(options.gain_stage) if options.kind == "dark" else 0
        self._adu = np.float32(options.signal_per_photon)
        self._per_gain = 1 / self._pixels.gain
        self._stage_noise = np.float32(min(STAGE_NOISE, options.noise * self._adu))

    def generator(self, plan: TrainPlan) -> np.random.Generator:
        """Return the random numbers for all frames of a train, to be used in file order."""
        return np.random.default_rng([self._options.seed, _SIGNAL, plan.position, self._module])

    def fill(self, image, rng, cell: int, photons, noise) -> list[int]:
        """Make one frame.

        Parameters
        ----------
        image : ndarray, uint16 (2 * pixel,)
            Gets the analogue numbers, then the digital ones.
        rng : Generator
            That of the train.
        cell : int
            Memory cell.
        photons : ndarray, uint16 (pixel,)
            The photons that were drawn; become those of the truth, 0 in bad pixels.
        noise : ndarray, float32 (pixel,)
            Noise in photons; used up.

        Returns
        -------
        list of int
            Good pixels in medium and in low gain.
        """
        frame = self._frame(rng, cell, photons, noise)
        if self._options.kind == "raw":
            self._settle(frame, photons)
        image[:MODULE_PIXELS] = np.clip(self._with_bad_pixels(frame), 0, ANALOGUE_MAX)
        image[MODULE_PIXELS:] = self._digital(frame, rng)
        bad = frame.kind != GOOD
        photons[bad] = 0
        frame.stage[bad] = 0
        return [int(np.count_nonzero(frame.stage == stage)) for stage in (1, 2)]

    def _frame(self, rng, cell, photons, noise) -> _Frame:
        """Return a frame with the analogue numbers that good pixels give."""
        kind = self._pixels.bad_kind(cell)
        noise[kind == NOISY] *= NOISY_FACTOR
        drift = self._drift(rng)
        noise += photons
        noise *= self._adu
        noise += drift
        stage = np.full(MODULE_PIXELS, self._stage, np.uint8)
        frame = _Frame(cell, kind, drift, noise, np.empty(0), stage)
        if self._stage:
            noise = rng.standard_normal(MODULE_PIXELS, np.float32)
            noise[kind == NOISY] *= NOISY_FACTOR
            frame.signal = drift
            frame.analogue = self._analogue(frame, self._stage, slice(None), noise)
        else:
            frame.analogue = self._analogue(frame, 0)
            self._switch(frame, rng)
        return frame

    def _drift(self, rng) -> np.ndarray:
        """Return the common mode of all ASICs, float32 (pixel,) ADU."""
        if not self._options.common_mode:
            return np.zeros(MODULE_PIXELS, np.float32)
        shape = tuple(n // ASIC_SIZE for n in MODULE_SHAPE)
        drift = rng.standard_normal(shape, np.float32) * np.float32(self._options.common_mode)
        return np.repeat(np.repeat(drift, ASIC_SIZE, axis=0), ASIC_SIZE, axis=1).reshape(-1)

    def _analogue(self, frame: _Frame, stage: int, at=slice(None), noise=None) -> np.ndarray:
        """Return the analogue numbers of some pixels in a stage, float32 (pixel,).

        `noise` has the standard deviation 1; without it, that of the signal is all there is.
        """
        analogue = frame.signal[at] * self._per_gain[stage, at]
        analogue += self._pixels.offset(stage, frame.cell)[at]
        if noise is not None:
            analogue += noise * self._stage_noise
        return np.rint(analogue, out=analogue)

    def _switch(self, frame: _Frame, rng) -> None:
        """Put the pixels with too much signal for high gain into medium or low gain."""
        for stage in (1, 2):
            (bright,) = np.nonzero(frame.analogue > SWITCH_LEVEL)
            if not len(bright):
                return
            noise = rng.standard_normal(len(bright), np.float32)
            frame.stage[bright] = stage
            frame.analogue[bright] = self._analogue(frame, stage, bright, noise)
        np.minimum(frame.analogue, ANALOGUE_MAX, out=frame.analogue)

    def _settle(self, frame: _Frame, photons: np.ndarray) -> None:
        """Set the photons of switched pixels to what the formula gives, and keep off its edges."""
        for stage in (1, 2):
            (at,) = np.nonzero(frame.stage == stage)
            if not len(at):
                continue
            offset = self._pixels.offset(stage, frame.cell)[at].astype(np.float32)
            analogue = frame.analogue[at]
            for _ in range(EDGE_STEPS):
                exact = self._exact_photons(frame, analogue - offset, stage, at)
                near = np.abs(exact - np.rint(exact)) < EDGE
                if not near.any():
                    break
                analogue[near] -= 1
            exact = self._exact_photons(frame, analogue - offset, stage, at)
            frame.analogue[at] = analogue
            photons[at] = np.maximum(np.floor(exact), 0)

    def _exact_photons(self, frame: _Frame, analogue, stage: int, at) -> np.ndarray:
        """Return the photons of pixels before they are rounded down, float32 (pixel,)."""
        signal = analogue * self._pixels.gain[stage, at] - frame.drift[at]
        return signal / self._adu + np.float32(1 - PHOTON_THRESHOLD)

    def _with_bad_pixels(self, frame: _Frame) -> np.ndarray:
        """Return the analogue numbers with those of bad pixels, float32 (pixel,)."""
        dead, hot = frame.kind == DEAD, frame.kind == HOT
        frame.analogue[dead] = self._pixels.dead_level[dead]
        frame.analogue[hot] += self._pixels.hot_shift[hot]
        return frame.analogue

    def _digital(self, frame: _Frame, rng) -> np.ndarray:
        """Return the digital numbers, int16 or int32 (pixel,)."""
        level = self._pixels.digital_level(self._stage, frame.cell)
        for stage in (1, 2):
            (at,) = np.nonzero(frame.stage == stage)
            if self._stage == 0 and len(at):
                level[at] = self._pixels.digital_level(stage, frame.cell)[at]
        level += _DIGITAL_NOISE_OF_BYTE[np.frombuffer(rng.bytes(MODULE_PIXELS), np.uint8)]
        dead = frame.kind == DEAD
        level[dead] = self._pixels.dead_level[dead]
        return level


class TruePhotons:
    """Collects the photons of a train frame by frame, in any order.

    Parameters
    ----------
    n_frames : int
        Frames of the train.
    """

    def __init__(self, n_frames: int):
        empty = np.empty(0, np.uint16)
        self._pixel = [empty] * n_frames
        self._count = [empty] * n_frames
        self._switched = np.zeros((n_frames, 2), np.uint32)

    def put(self, frame: int, photons: np.ndarray, switched: list[int]) -> None:
        """Take the photons and switched pixels of `RawSignal.fill` for a frame."""
        (pixel,) = np.nonzero(photons)
        self._pixel[frame] = pixel.astype(np.uint16)
        self._count[frame] = photons[pixel]
        self._switched[frame] = switched

    def together(self) -> ModulePhotons:
        """Return the photons of the train."""
        lengths = [len(pixel) for pixel in self._pixel]
        return ModulePhotons(
            indptr=np.cumsum([0, *lengths]),
            pixel=np.concatenate(self._pixel),
            count=np.concatenate(self._count),
            switched=self._switched,
        )
