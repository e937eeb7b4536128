"""What a detector is, as a description: its modules, pixels and memory cells, and where they lie.

Axis order everywhere: (module, ss, fs), slow scan before fast scan. A *pixel number* counts the
pixels of a frame in this order: ``(module * n_ss + ss) * n_fs + fs``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

XTDF_SOURCE = r"/(?:CORR|DET)/(\d+)CH0:(?:output|xtdf)"
"""`Detector.source` of detectors in the facility's train format: corrected data have a source of
their own, or in older files that of the raw data."""


@dataclass(frozen=True)
class FrameDatasets:
    """Where frames and their ids are, below the source's group in a module's file.

    Parameters
    ----------
    data : str
        Frames, (N, ss, fs), in raw files with the planes of a pixel before ss; with `by_train`,
        (train, cell, ss, fs).
    mask : str
        Bad pixels of each frame, u4, one bit per reason.
    cell_id, train_id : str
        Ids of the frames.
    pulse_id : str or None
        None if the detector does not tell; then the place of a frame in its train stands for it.
    by_train : bool
        A row holds the frames of a train, as many in every train, and so do the ids of the cells.
    """

    data: str = "image/data"
    mask: str = "image/mask"
    cell_id: str = "image/cellId"
    train_id: str = "image/trainId"
    pulse_id: str | None = "image/pulseId"
    by_train: bool = False

    @property
    def group(self) -> str:
        """Where ``INDEX`` says which rows belong to which train."""
        return self.data.partition("/")[0]


@dataclass(frozen=True, kw_only=True)
class DetectorMotors:
    """The motors that move a detector: devices by the topic that its name begins with, e.g. SPB.

    Parameters
    ----------
    quadrants : dict of str to str
        Start of the names of those that move the quadrants, Q1M1 … Q4M2.
    along_beam : dict of str to (str, tuple of str)
        The one along the beam, and the keys of its position in mm, the best one first.
    geometry : str
        Class of ``extra_geom.motors`` that moves the quadrants of a geometry; empty: none.
    """

    quadrants: Mapping[str, str] = field(default_factory=dict)
    along_beam: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    geometry: str = ""


@dataclass(frozen=True, kw_only=True)
class DetectorControl:
    """The device that controls a detector, and says when its frames are open.

    Parameters
    ----------
    device : str
        End of its name.
    generations : dict of str to int
        Which settings it has, 1 or 2, by its class.
    clocks_per_pulse : int
        Clocks, in which ``integrationTime`` is given, between bunch slots.
    """

    device: str
    generations: Mapping[str, int]
    clocks_per_pulse: int


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A detector of several modules of the same shape.

    Parameters
    ----------
    name : str
        E.g. ``AGIPD-1M``.
    module_name : str
        Start of the modules' names, as the outputs have them: ``AGIPD`` for ``AGIPD00``.
    file_name : str
        Start of the modules' names in the names of the facility's files.
    device : str
        Regular expression of the facility's names of such detectors, e.g. ``SPB_DET_AGIPD1M-1``.
    source : str
        Regular expression of what follows in the names of the modules' sources; group 1 is the
        module as the facility counts it.
    sources : (str, str)
        The same as simulated files have it, of corrected and of raw images: ``{}`` is the module.
    n_modules : int
    first_module : int
        Number of the first module in the facility's names. Inside, modules count from 0.
    module_shape : (int, int)
        Pixels of a module, (ss, fs).
    asic_shape : (int, int)
        Pixels of an ASIC or tile, (ss, fs), which divides `module_shape`.
    tile_shape : (int, int)
        Pixels of the parts of a module without gaps, (ss, fs), one or several ASICs. Default:
        `asic_shape`.
    uniform_tiles : bool
        Every tile has all its pixels at equal steps; else, some pixels at its edges are wider.
    pixel_size : (float, float)
        Step from pixel to pixel in m, (ss, fs).
    pixel_area : float or ndarray
        In m²; float64 (ss, fs) of a module where pixels differ. Default: step times step.
    max_cells : int
        Memory cells of every pixel; a cellId is below it.
    geometry : str
        EXtra-geom's class of the detector.
    dark_first_cell : bool
        Memory cell 0 is assumed to see no pulse where nothing tells which cell sees the first one
        (EXtra-redu's ``referenceFrame`` 1); else, pulse numbers are taken as they are.
    raw_planes : int
        Values per pixel in raw files: 2 for analogue and digital. 0: raw data are not processed.
    nominal_gains : tuple of float
        ADU of the high gain stage per ADU of each stage, for raw data.
    datasets : FrameDatasets
    motors : DetectorMotors
    control : DetectorControl or None
        None if its settings do not tell which pulses a frame saw.

    Raises
    ------
    ValueError
        If the tiles do not fill a module, there are more cells than the 65536 that a cellId of 16
        bits can name, or more modules than the 16 bits of `FrameSums.modules`.
    """

    name: str
    module_name: str
    file_name: str
    device: str
    source: str
    n_modules: int
    module_shape: tuple[int, int]
    asic_shape: tuple[int, int]
    pixel_size: tuple[float, float]
    max_cells: int
    first_module: int = 0
    sources: tuple[str, str] = ("CORR/{}CH0:output", "DET/{}CH0:xtdf")
    tile_shape: tuple[int, int] | None = None
    uniform_tiles: bool = True
    pixel_area: float | np.ndarray | None = field(default=None, compare=False)
    geometry: str = ""
    dark_first_cell: bool = False
    raw_planes: int = 0
    nominal_gains: tuple[float, ...] = ()
    datasets: FrameDatasets = FrameDatasets()
    motors: DetectorMotors = field(default_factory=DetectorMotors, compare=False)
    control: DetectorControl | None = field(default=None, compare=False)

    def __post_init__(self):
        if any(n % tile for n, tile in zip(self.module_shape, self.asic_shape, strict=True)):
            raise ValueError(
                f"{self.name}: tiles of {self.asic_shape} pixels do not fill a module of "
                f"{self.module_shape}"
            )
        if not 0 < self.max_cells <= 1 << 16:
            raise ValueError(f"{self.name}: {self.max_cells} memory cells, expected 1 … 65536")
        if not 0 < self.n_modules <= 16:
            raise ValueError(f"{self.name}: {self.n_modules} modules, expected 1 … 16")
        if self.tile_shape is None:
            object.__setattr__(self, "tile_shape", self.asic_shape)
        if self.pixel_area is None:
            object.__setattr__(self, "pixel_area", math.prod(self.pixel_size))

    @property
    def title(self) -> str:
        """What messages call it, e.g. ``an AGIPD-1M (16 modules of 8 panels)``."""
        article = "an" if self.name[0] in "AL" else "a"
        panels = len(self.tile_names) // self.n_modules
        return f"{article} {self.name} ({self.n_modules} modules of {panels} panels)"

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Pixels of a frame, (module, ss, fs)."""
        return (self.n_modules, *self.module_shape)

    @property
    def module_pixels(self) -> int:
        """Number of pixels of a module."""
        return math.prod(self.module_shape)

    @property
    def frame_pixels(self) -> int:
        """Number of pixels of a frame."""
        return self.n_modules * self.module_pixels

    @property
    def module_bytes(self) -> int:
        """Bytes of a mask of one module, one bit per pixel."""
        return self.module_pixels // 8

    def rows_of_cells(self, cells: np.ndarray) -> np.ndarray:
        """Return the row of every memory cell where only some have rows, int32 (max_cells,).

        Parameters
        ----------
        cells : ndarray, int (row,)
            The cell of every row. Others are said to be in the first.
        """
        row_of_cell = np.zeros(self.max_cells, np.int32)
        row_of_cell[cells] = np.arange(len(cells))
        return row_of_cell

    @cached_property
    def module_names(self) -> tuple[str, ...]:
        """Names of the modules as the facility counts them, e.g. ``AGIPD00``."""
        numbers = range(self.first_module, self.first_module + self.n_modules)
        return tuple(f"{self.module_name}{number:02}" for number in numbers)

    @cached_property
    def tile_names(self) -> tuple[str, ...]:
        """Names of the tiles, module by module, e.g. ``AGIPD00T0``."""
        n = self.module_pixels // math.prod(self.tile_shape or self.asic_shape)
        return tuple(f"{module}T{tile}" for module in self.module_names for tile in range(n))
