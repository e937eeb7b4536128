"""Module frames → sparse lists of photons, their sums per frame, and the powder: the one pass.

A frame is dense only inside the kernel; out of it come lists of (pixel number, count).
"""

import numpy as np

from xfelmpi._kernels import _raw, _sparse
from xfelmpi._kernels._frames import (
    NO_CHUNK,
    OK,
    DecodeBuffers,
    EntryList,
    FrameOutputs,
    Inflater,
    PhotonRule,
    PixelMasks,
    PowderView,
)
from xfelmpi.calibration.constants import Calibration
from xfelmpi.calibration.pixel_mask import Masks
from xfelmpi.core.frame_table import FrameTable
from xfelmpi.core.hdf5_locks import advice
from xfelmpi.core.problems import Problem
from xfelmpi.core.sparse_frames import MAX_COUNT, FrameBlock, FrameSums
from xfelmpi.reduction.invalid_pixels import count_invalid, unexplained
from xfelmpi.reduction.powder import PowderSum
from xfelmpi.run.frames.file_pool import FilePool
from xfelmpi.run.frames.frame_bytes import FRAME_STATUS, READ_ERRORS, FrameBytes, make_buffers
from xfelmpi.run.frames.frame_masks import MaskReader

H5PY_FRAMES = 32
"""Frames at a time of layouts that only h5py can read, which are dense in memory."""

MASKED_FRAMES = 512
"""Frames at a time with masks of their own, 8 KiB each; a train of 352 is not divided."""

RAW_PLANES = 2
"""Values of a pixel in raw frames: the analogue signal, and the digital level of the gain."""

PHOTONS_THEMSELVES = PhotonRule(one_photon_threshold=1.0, adu_per_photon=1.0, threshold=1.0)
"""Of floats that were integers in the file."""

_NO_MASKS = np.empty((0, 1), np.uint8)

_MISSING = "frames count as missing in this module"


def one_photon_threshold(adu_per_photon: float, threshold: float) -> float:
    """Return the smallest float32 signal that is one photon.

    photons = floor(signal / adu_per_photon + 1 - threshold), every step in float32, grows with
    the signal, so that one comparison settles a pixel without photons.
    """
    adu, threshold = np.float32(adu_per_photon), np.float32(threshold)

    # the bits of floats from 0 on, read as integers, are in the order of the floats
    low, high = 0, int(np.finfo(np.float32).max.view(np.uint32))
    with np.errstate(over="ignore"):
        while low < high:
            middle = (low + high) // 2
            signal = np.uint32(middle).view(np.float32)
            if np.floor(signal / adu + 1 - threshold) >= 1:
                high = middle
            else:
                low = middle + 1
    return float(np.uint32(low).view(np.float32))


def full_frame(masks: Masks) -> int:
    """Return the most entries that a frame can have: one per pixel."""
    return masks.n_modules * masks.module_pixels


class Sparsifier:
    """Turns frames into sparse lists with one set of buffers.

    Parameters
    ----------
    files : FilePool
    masks : Masks
    adu_per_photon, photon_threshold : float
        How float and raw signals become photons.
    capacity : int
        Entries that the sparse buffer holds, at least one full frame; frames that do not fit are
        counted but not stored.
    calibration : Calibration, optional
        Constants, for raw data.
    inflater : Inflater, optional
        With another limit of chunks that are never dense.
    """

    def __init__(
        self,
        files: FilePool,
        masks: Masks,
        adu_per_photon: float,
        photon_threshold: float,
        capacity: int,
        calibration: Calibration | None = None,
        inflater: Inflater | None = None,
    ):
        self.files = self._files = files
        self._masks = masks
        self._calibration = calibration
        self._rule = PhotonRule(
            one_photon_threshold=one_photon_threshold(adu_per_photon, photon_threshold),
            adu_per_photon=adu_per_photon,
            threshold=photon_threshold,
        )
        self.capacity = max(capacity, full_frame(masks))
        self._inflater = inflater or Inflater()
        self._frame_masks = MaskReader(files)
        self._pixel = np.empty(self.capacity, np.uint32)
        self._count = np.empty(self.capacity, np.uint16)
        self._entries = EntryList(pixel=self._pixel, count=self._count)
        self._buffers, self._chunk_bytes = None, 0
        self.problems: list[Problem] = []
        self._bytes_read = 0

    @property
    def row_of_cell(self) -> np.ndarray:
        """Mask row of every memory cell, int32 (cell,)."""
        return self._masks.row_of_cell

    @property
    def bytes_read(self) -> int:
        """Bytes of frames and of their masks, as they are in the files."""
        return self._bytes_read + self._frame_masks.bytes_read

    @property
    def n_sparse(self) -> int:
        """Frames that never were dense."""
        return self._inflater.n_sparse

    def frames(
        self, table: FrameTable, powder: PowderSum, *, name_invalid: bool = False
    ) -> FrameBlock:
        """Read frames of all modules and add them to `powder`.

        What cannot be read becomes a problem, and that module's bit stays unset in the frame.
        With `name_invalid`, so do pixels of corrected data that are not valid photon counts
        although no mask calls them bad; whoever reads frames once more need not hear of these
        again.
        """
        # what saturates, or has switched to a stage without constants, is usual in raw data
        name_invalid = name_invalid and self._calibration is None
        n = len(table)
        segments = np.zeros((2, n, table.n_modules), np.int64)
        block = FrameBlock(FrameSums.zeros(n), *segments, self._pixel, self._count)
        self._entries.n_entries = 0
        for module in range(table.n_modules):
            file = table.file_of(slice(None), module)
            for number in np.unique(file):
                if number < 0:
                    continue
                these = np.flatnonzero(file == number)
                if self._calibration:
                    # frames of one cell together: its constants stay in the cache
                    these = these[np.argsort(table.cell_id[these], kind="stable")]
                self._one_file(table, block, module, int(number), these, powder, name_invalid)
        return block

    def _one_file(self, table, block, module, number, these, powder, name_invalid) -> None:
        if self._calibration and module in self._calibration.lacking:
            # no constants: the masks call all of its pixels bad
            good = np.ones(len(these), bool)
            block.sums.add_module(module, these, FrameSums.zeros(len(these)), good)
            return
        try:
            file = self._files.get(number)
        except (OSError, KeyError) as error:
            what = f"file cannot be opened: {advice(str(error))}"
            self._report(what, number, module, table.train_id[these])
            return
        step = len(these) if file.direct else H5PY_FRAMES
        if self._masks.frame_bits:
            step = min(step, MASKED_FRAMES)
        for a in range(0, len(these), step):
            part, masked = self._masked_in_frames(these[a : a + step], table, number, module)
            if not len(part):
                continue
            try:
                source = file.frames(table.row[part, module])
            except (OSError, ValueError, RuntimeError) as error:
                self._report(
                    f"frames cannot be located: {error}", number, module, table.train_id[part]
                )
                continue
            cells = table.cell_id[part]
            sums, status = self._run(source, block, module, part, cells, masked, powder)
            trains = table.train_id[part]
            self._report_status(status, "", number, module, trains, source.lacking)
            if name_invalid:
                good = self._masks.good[module]
                invalid = count_invalid(sums, masked, good, self._masks.row_of_cell[cells])
                self._report_invalid(invalid, table, block, module, number, part)

    def _masked_in_frames(self, part, table: FrameTable, number: int, module: int):
        """Return the frames whose own masks can be read, if these count, and their bad pixels."""
        if not self._masks.frame_bits:
            return part, _NO_MASKS
        trains = table.train_id[part]
        try:
            bad, status = self._frame_masks.bad_pixels(
                number, table.row[part, module], self._masks.frame_bits
            )
        except READ_ERRORS as error:
            self._report(f"image/mask cannot be used: {error}", number, module, trains)
            return part[:0], _NO_MASKS
        lacking = self._frame_masks.lacking
        self._report_status(status, "image/mask: ", number, module, trains, lacking)
        known = status == OK
        # a copy of all bits would take as long as folding them
        return (part, bad) if known.all() else (part[known], bad[known])

    def _run(self, source: FrameBytes, block: FrameBlock, module, part, cells, masked, powder):
        """Run the kernel on frames of one file; returns their sums and their status."""
        n = len(part)
        sums = FrameSums.zeros(n)
        start, stop = np.zeros((2, n), np.int64)
        status = np.full(n, OK, np.uint8)
        mask_row = self._masks.row_of_cell[cells]
        planes = RAW_PLANES if self._calibration else 1
        views = {
            "source": source.for_kernel(self._masks.module_pixels, planes),
            "buffers": self._buffers_for(source),
            "masks": PixelMasks(
                good=self._masks.good[module],
                mask_row=mask_row,
                roi=self._masks.region[module],
                masked_in_frame=masked if self._masks.frame_bits else None,
                pixel_offset=module * self._masks.module_pixels,
            ),
            "entries": self._entries,
            "out": _outputs(sums, start, stop, status),
            "powder": PowderView(photons=powder.photons[module], invalid=powder.invalid[module]),
        }
        if self._calibration:
            _raw.sparsify_raw(constants=self._raw_constants(module, cells), **views)
        else:
            rule = PHOTONS_THEMSELVES if source.from_integers else self._rule
            _sparse.sparsify(rule=rule, **views)
        # frames of one chunk share its bytes
        _, chunks = np.unique(source.offset[status == OK], return_index=True)
        self._bytes_read += int(source.size[status == OK][chunks].sum())
        block.start[part, module], block.stop[part, module] = start, stop
        block.sums.add_module(module, part, sums, status == OK)
        powder.add_frames(module, mask_row[status == OK])
        return sums, status

    def _raw_constants(self, module: int, cells: np.ndarray) -> _raw.RawConstants:
        constants = self._calibration.modules[module]
        return _raw.RawConstants(
            row=self._calibration.row_of_cell[cells],
            one_photon_adc=constants.one_photon_adc,
            lowest1=constants.lowest1,
            level1=constants.level1,
            level2=constants.level2,
            bad_medium=constants.bad[1],
            bad_low=constants.bad[2],
            offset=constants.offset,
            gain=constants.gain,
            common_mode=self._calibration.common_mode,
            rule=self._rule,
        )

    def _buffers_for(self, source: FrameBytes) -> DecodeBuffers:
        planes = RAW_PLANES if self._calibration else 1
        need = source.chunk_frames * planes * self._masks.module_pixels * source.dtype.itemsize
        if self._chunk_bytes < need:
            self._buffers = make_buffers(need, self._masks.module_pixels, self._inflater)
            self._chunk_bytes = need
        return self._buffers

    def _report_status(self, status, prefix: str, number, module, trains, lacking: str) -> None:
        for code, text in FRAME_STATUS.items():
            if (status == code).any():
                text = lacking if lacking and code == NO_CHUNK else text
                self._report(prefix + text, number, module, trains[status == code])

    def _report_invalid(self, invalid, table, block, module, number, part) -> None:
        if invalid.any() and not self._masks.frame_bits:
            rows = table.row[part, module]
            invalid = unexplained(self._frame_masks, number, rows, invalid, block, part, module)
        trains = table.train_id[part]
        for train in np.unique(trains[invalid > 0]):
            here = (trains == train) & (invalid > 0)
            what = f"{invalid[here].sum()} pixels are not valid photon counts (NaN, infinite or "
            what += f"above {MAX_COUNT}), though no mask calls them bad"
            self._report(what, number, module, trains[here], "bad pixels of these frames")

    def _report(
        self, what: str, number: int, module: int, trains: np.ndarray, action: str = _MISSING
    ) -> None:
        name = self._files.name(number)
        for train, n in zip(*np.unique(trains, return_counts=True), strict=True):
            self.problems.append(Problem(f"{n} frames: {what}", name, module, int(train), action))


def _outputs(sums: FrameSums, start, stop, status) -> FrameOutputs:
    """Return a view of what a kernel says of frames."""
    return FrameOutputs(
        start=start,
        stop=stop,
        status=status,
        lit=sums.lit,
        photons=sums.photons,
        roi_lit=sums.region_lit,
        roi_photons=sums.region_photons,
        roi_bad=sums.region_bad,
        n_single=sums.ones,
        max_count=sums.peak,
        nnz=sums.entries,
        switched=sums.switched,
    )
