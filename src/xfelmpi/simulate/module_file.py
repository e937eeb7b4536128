"""Writing the images of one detector module into a European XFEL file, corrected or raw."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from xfelmpi.simulate import exdf
from xfelmpi.simulate.frame_masks import FrameMasks
from xfelmpi.simulate.frame_writer import FrameWriter
from xfelmpi.simulate.model import ModulePhotons
from xfelmpi.simulate.options import SimulationOptions
from xfelmpi.simulate.plan import TrainPlan
from xfelmpi.simulate.raw import RawSignal, TruePhotons


def source_name(options: SimulationOptions, module: int) -> str:
    """Return the source of a module's images."""
    if _is_modern(options):
        return _name(options, module, 0)
    return raw_name(options, module)


def _name(options: SimulationOptions, module: int, which: int) -> str:
    about = options.detector_type
    return f"{options.device}/{about.sources[which].format(about.first_module + module)}"


def _is_modern(options: SimulationOptions) -> bool:
    """Whether the images are corrected ones with a source of their own."""
    return options.kind == "proc" and options.layout == "modern"


def raw_name(options: SimulationOptions, module: int) -> str:
    """Return the source of raw images, which corrected ones used to share."""
    return _name(options, module, 1)


@contextmanager
def module_file(
    path: Path,
    plans: list[TrainPlan],
    *,
    module: int,
    sequence: int,
    proposal: int,
    options: SimulationOptions,
):
    """Write a file of one module, all but the images, and give what takes those.

    Parameters
    ----------
    path : Path
        The file.
    plans : list of TrainPlan
        The trains with data, in order.
    module, sequence, proposal : int
        Numbers of the module, of the file among the module's, and of the proposal.
    options : SimulationOptions
        For layout, types and missing trains.

    Yields
    ------
    ProcImages or RawImages
        To be given the photons of all `plans` in order.
    """
    source = source_name(options, module)
    modern = _is_modern(options)
    datasets = options.detector_type.datasets
    with_header = not (modern or datasets.by_train)
    groups = ["header", "image", "trailer"] if with_header else [datasets.group]
    sources = [f"INSTRUMENT/{source}/{group}" for group in groups]
    if modern:
        sources.append(f"INSTRUMENT/{raw_name(options, module)}/{datasets.group}")
    listed = [p for p in plans if len(p)] if options.missing_style == "gone" else plans
    train_ids = np.array([plan.train_id for plan in listed], np.uint64)
    counts = np.array([len(plan) for plan in listed], np.int64)
    with exdf.unfinished(path) as file:
        exdf.write_common(
            file,
            sources,
            train_ids,
            options=options,
            proposal=proposal,
            sequence=sequence,
            version="1.2" if options.layout == "modern" else "1.0",
        )
        rows = np.minimum(counts, 1) if datasets.by_train else counts
        exdf.write_index(file, f"{source}/{datasets.group}", rows)
        if with_header:
            _write_header_and_trailer(file, source, train_ids, counts)
        images = file.create_group(f"INSTRUMENT/{source}/{datasets.group}")
        if datasets.by_train:
            _write_burst_ids(images, [plan for plan in plans if len(plan)])
        else:
            _write_ids(images, plans, options)
        with _image_writer(images, int(counts.sum()), module, options) as writer:
            yield writer
        if modern:
            for section in ("INDEX", "INSTRUMENT"):
                link = h5py.SoftLink(f"/{section}/{source}")
                file[f"{section}/{raw_name(options, module)}"] = link


def _write_ids(images: h5py.Group, plans: list[TrainPlan], options: SimulationOptions) -> None:
    """Write train, cell and pulse of every frame, in the order of the file.

    Raw files have columns that can grow, (frame, 1), and what the detector says of each frame.
    """
    ids = {
        "trainId": [np.full(len(plan), plan.train_id, np.uint64) for plan in plans],
        "cellId": [plan.cells[plan.order] for plan in plans],
        "pulseId": [plan.pulse_ids[plan.order] for plan in plans],
    }
    columns = {name: np.concatenate(parts) for name, parts in ids.items()}
    if options.kind == "proc":
        for name, values in columns.items():
            images[name] = values
        return
    n_frames = len(columns["trainId"])
    columns["length"] = np.full(n_frames, 2 * options.detector_type.module_pixels * 2, np.uint32)
    columns["status"] = np.zeros(n_frames, np.uint16)
    for name, values in columns.items():
        images.create_dataset(name, data=values[:, None], maxshape=(None, 1))


def _write_burst_ids(data: h5py.Group, plans: list[TrainPlan]) -> None:
    """Write train, and cells of its frames, as EXtra-data's mock files of a JUNGFRAU have them."""
    n = len(plans[0]) if plans else 0
    trains = np.array([plan.train_id for plan in plans], np.uint64)
    number = np.arange(len(plans) * n, dtype=np.uint64).reshape(len(plans), n)
    data["trainId"] = trains
    data["memoryCell"] = np.array([plan.cells for plan in plans], np.uint8).reshape(number.shape)
    data["frameNumber"] = number
    data["timestamp"] = number.astype(np.float64)


def _write_header_and_trailer(file, source, train_ids, counts) -> None:
    """Write what the detector's own train format has around the images."""
    for part, key, values in (
        ("header", "pulseCount", counts.astype(np.uint64)),
        ("trailer", "status", np.zeros(len(counts), np.uint64)),
    ):
        group = file.create_group(f"INSTRUMENT/{source}/{part}")
        group["trainId"] = train_ids
        group[key] = values
        exdf.write_index(file, f"{source}/{part}", np.ones(len(counts)))


def _image_writer(images: h5py.Group, n_frames: int, module: int, options: SimulationOptions):
    if options.kind == "proc":
        return ProcImages(images, n_frames, module, options)
    return RawImages(images, n_frames, module, options)


class ProcImages(FrameWriter):
    """Turns photons into corrected images: the photons themselves, or a signal with noise.

    Parameters
    ----------
    images : h5py.Group
        The group to make the datasets in.
    n_frames : int
        Frames in the file.
    module : int
        Module number.
    options : SimulationOptions
        For type, chunks, compression and masks.
    """

    def __init__(self, images: h5py.Group, n_frames: int, module: int, options: SimulationOptions):
        self._is_float = options.dtype == "f4"
        self._scale = np.float32(options.signal_per_photon)
        about = options.detector_type
        name = about.datasets.data.rpartition("/")[2]
        per_train = len(options.cells) if about.datasets.by_train else 0
        super().__init__(
            images,
            (n_frames, *about.module_shape),
            options.dtype,
            name=name,
            chunk_frames=options.chunk_frames,
            compressed=options.compression == "gzip",
            per_train=per_train,
        )
        self._mask_file = None
        if options.masks_frames:
            self._masks = FrameMasks(options, module)
            self._mask_file = FrameWriter(
                images,
                (n_frames, *about.module_shape),
                np.uint32,
                name="mask",
                chunk_frames=max(1, options.chunk_frames),
                compressed=True,
                per_train=per_train,
            )
        elif options.with_mask:
            self.create_empty("mask", np.uint32)
        if per_train:
            self.create_empty("gain", np.uint8)

    def __exit__(self, *error):
        if self._mask_file is not None:
            self._mask_file.__exit__(*error)
        super().__exit__(*error)

    def append(self, plan: TrainPlan, photons: ModulePhotons, noise) -> ModulePhotons:
        """Write the frames of a train, in the order of the plan.

        Parameters
        ----------
        plan : TrainPlan
            The train.
        photons : ModulePhotons
            Its photons in this module.
        noise : iterator of ndarray, float32 (pixel,)
            Noise of one frame after the other; only used for float data.

        Returns
        -------
        ModulePhotons
            The photons that are in the file.
        """
        bounds = photons.indptr.tolist()
        masked = None
        if self._mask_file is not None:
            masked = np.zeros(len(photons.pixel), bool)
        for frame in plan.order.tolist():
            image = self.frame()
            entries = slice(bounds[frame], bounds[frame + 1])
            image.fill(0)
            image[photons.pixel[entries]] = photons.count[entries]
            if self._is_float:
                image += next(noise)
                image *= self._scale
            self.finish_frame()
            if self._mask_file is not None:
                mask = self._mask_file.frame()
                self._masks.fill(plan, frame, mask)
                masked[entries] = mask[photons.pixel[entries]] != 0
                self._mask_file.finish_frame()
        return replace(photons, masked=masked)


class RawImages(FrameWriter):
    """Turns photons into raw images, the analogue and the digital one of every frame.

    Parameters
    ----------
    images : h5py.Group
        The group to make the dataset in.
    n_frames : int
        Frames in the file.
    module : int
        Module number.
    options : SimulationOptions
        For everything else.
    """

    def __init__(self, images: h5py.Group, n_frames: int, module: int, options: SimulationOptions):
        self._signal = RawSignal(options, module)
        self._n_pixels = options.detector_type.module_pixels
        super().__init__(
            images,
            (n_frames, 2, *options.detector_type.module_shape),
            "u2",
            chunk_frames=options.chunk_frames,
            resizable=True,
        )

    def append(self, plan: TrainPlan, photons: ModulePhotons, noise) -> ModulePhotons:
        """Write the frames of a train, in the order of the plan; see `ProcImages.append`."""
        rng = self._signal.generator(plan)
        found = TruePhotons(len(plan))
        bounds = photons.indptr.tolist()
        cells = plan.cells.tolist()
        for frame in plan.order.tolist():
            entries = slice(bounds[frame], bounds[frame + 1])
            dense = np.zeros(self._n_pixels, np.uint16)
            dense[photons.pixel[entries]] = photons.count[entries]
            switched = self._signal.fill(self.frame(), rng, cells[frame], dense, next(noise))
            found.put(frame, dense, switched)
            self.finish_frame()
        return found.together()
