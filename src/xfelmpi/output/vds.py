"""``vds/rRRRR_vds_KIND.h5``: all frames of a run as one virtual dataset, by one rank.

If a source file cannot be opened, HDF5 raises no error and returns the fill value for its frames.
The file names in it therefore stay valid when the facility moves the run's files to other disks.
"""

import os
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5t

from xfelmpi.core.errors import OutputError
from xfelmpi.core.paths import Experiment
from xfelmpi.io.input_file import open_hdf5
from xfelmpi.io.output_file import serial_file
from xfelmpi.io.partial_file import begin_partial
from xfelmpi.run.virtual_layout import VirtualLayout


def write_vds(experiment: Experiment, attributes: dict, layout: VirtualLayout) -> Path:
    """Write the virtual dataset; the file is complete, but under its temporary name afterwards.

    Datasets in ``/INSTRUMENT/<detector>/DET/image``: ``data`` (module, N, ss, fs), in raw
    data (module, N, 2, ss, fs), and ``trainId``, ``pulseId``, ``cellId`` (N,). If a module
    does not have a frame, its data are NaN (float) or the largest value of their type (integer).

    Parameters
    ----------
    experiment : Experiment
    attributes : dict
        Root attributes.
    layout : VirtualLayout

    Returns
    -------
    Path
        The final name.

    Raises
    ------
    OutputError
        If it cannot be written.
    """
    path = experiment.vds(layout.kind)
    try:
        # HDF5 before 1.10 cannot read virtual datasets; from 1.10 on, a regular hyperslab takes the
        # same few bytes for any number of blocks, but only if older readers are given up
        with serial_file(begin_partial(path), libver=("v110", "v110")) as file:
            file.attrs.update(attributes)
            group = file.create_group(f"INSTRUMENT/{layout.detector}/DET/image")
            group["trainId"] = layout.train_id
            group["pulseId"] = layout.pulse_id
            group["cellId"] = layout.cell_id
            sources = source_names(
                [Path(f.path) for f in layout.files], experiment.prefix, path.parent
            )
            _create_data(group, layout, sources)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None
    return path


def source_names(sources: list[Path], prefix: Path, folder: Path) -> list[str]:
    """Return the names by which a virtual dataset in `folder` finds its source files.

    A relative name starts in the folder of the virtual dataset, whatever links lead there, and
    must climb through real folders only: ``..`` does not lead back through a link. If the folder
    is within the experiment folder, the name climbs up to that and then goes down as the user
    would, through links to where the facility keeps the data. Otherwise nothing says that the two
    will be moved together, and the name is absolute, by way of the experiment folder too.

    Parameters
    ----------
    sources : list of Path
        In `prefix`, as the run index names them.
    prefix : Path
        The experiment folder.
    folder : Path
        The folder of the virtual dataset; it exists.
    """
    real_prefix, real_folder = prefix.resolve(), folder.resolve()
    if real_folder.is_relative_to(real_prefix):
        up = os.path.relpath(real_prefix, real_folder)
        return [os.path.join(up, s.relative_to(prefix)) for s in sources]  # noqa: PTH118, keeps the dots
    return [str(source.absolute()) for source in sources]


def fill_value(dtype) -> np.ndarray:
    """Return the value of frames that a module does not have: NaN, or the largest integer."""
    dtype = np.dtype(dtype)
    return np.array(np.nan if dtype.kind == "f" else np.iinfo(dtype).max, dtype)


def _create_data(group: h5py.Group, layout: VirtualLayout, sources: list[str]) -> None:
    """Create the virtual dataset with h5py's low-level calls, 15 µs a mapping."""
    about = layout.detector_type
    inner = (*((about.raw_planes,) if layout.kind == "raw" else ()), *about.module_shape)
    zeros, ones = (0,) * len(inner), (1,) * len(inner)
    # a source's own number of rows is not stored: HDF5 asks the file when it is read
    most = np.iinfo(np.int32).max
    in_data = h5s.create_simple((about.n_modules, len(layout.train_id), *inner))
    names = [os.fsencode(name.replace("%", "%%")) for name in sources]  # % starts a block number
    datasets = [os.fsencode(file.dataset.replace("%", "%%")) for file in layout.files]
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_fill_value(fill_value(layout.dtype))
    for module, file, frame, row, frame_step, row_step, count, length in layout.mappings:
        in_data.select_hyperslab(
            (module, frame, *zeros),
            (1, count, *ones),
            (1, frame_step, *ones),
            (1, length, *inner),
        )
        n = layout.files[file].frames_per_train
        if n:
            in_file = h5s.create_simple((most, n, *inner))
            start, stride = divmod(row, n), (max(row_step // n, 1), 1)
            in_file.select_hyperslab(
                (*start, *zeros), (count, 1, *ones), (*stride, *ones), (1, length, *inner)
            )
        else:
            in_file = h5s.create_simple((most, *inner))
            shape = (length, *inner)
            in_file.select_hyperslab((row, *zeros), (count, *ones), (row_step, *ones), shape)
        plan.set_virtual(in_data, names[file], datasets[file], in_file)
    kind = h5t.py_create(np.dtype(layout.dtype), logical=True)
    h5d.create(group.id, b"data", kind, in_data, plan)


def same_frames(path: Path, events: Path) -> bool:
    """Return whether a virtual dataset has the frames of an events file, row by row."""
    try:
        with open_hdf5(path) as virtual, h5py.File(events, "r") as table:
            detector = next(iter(virtual["INSTRUMENT"].values()))
            return all(
                np.array_equal(detector[f"DET/image/{name}"][:], table[name][:])
                for name in ("trainId", "cellId")
            )
    except Exception:  # a damaged file may raise anything; then it does not fit
        return False
