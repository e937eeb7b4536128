"""Whether all output files hold what they must: every dataset, type, unit and value.

Reads with h5py and numpy only; `Expected` says what must be there.
"""

import json
import re
from datetime import datetime
from hashlib import sha256
from pathlib import Path

import extra_geom
import h5py
import numpy as np
from expected import LIGHT_SPEED, PLANCK, Expected
from readers import read_emc

from xfelmpi.analysis.sphere_size import SphereSize

EVENTS = {
    **{"trainId": "u8", "pulseId": "u8", "cellId": "u2", "litpixels": "u4", "photons": "u8"},
    **{"hitscore": "f4", "is_hit": "?", "is_miss": "?", "hit_median": "f4", "hit_std": "f4"},
    **{"hit_threshold": "f4", "hit_sigma": "f4", "pulse_energy": "f8", "wavelength": "f8"},
    **{"modules": "u2", "n_pulses": "u1"},
}
HONEYCOMB = 0.13e-3
"""How far in m the pixels of a DSSC are from the corners of a rectangular grid."""

SOURCE, DETECTOR = "instrument_1/source_1", "instrument_1/detector_1"
ROOT_ATTRIBUTES = {
    *("run", "proposal", "program_version", "configuration", "input_files", "creation_date"),
    *(
        "program_commit",
        "used_files",
        "beamline_sources",
        "job_id",
        "start_time",
        "end_time",
        "ranks",
        "nodes",
        "host",
    ),
    *("command_line", "mpi", "mpi4py_version", "hdf5_version", "h5py_version", "numpy_version"),
}


def equal(found: np.ndarray, right: np.ndarray, name: str = "") -> None:
    """Assert that arrays are equal; numpy's assertion takes ten times as long, and is asked why."""
    if not np.array_equal(found, right):
        np.testing.assert_array_equal(found, right, name)


def close(found: np.ndarray, right: np.ndarray, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Assert that arrays are nearly equal; NaN, or what differs, is left to numpy's assertion."""
    same = found.shape == right.shape
    if not (same and (np.abs(found - right) <= atol + rtol * np.abs(right)).all()):
        np.testing.assert_allclose(found, right, rtol=rtol, atol=atol)


def check_outputs(output: Path, expected: Expected, run: int = 50, *, binned: bool = False) -> None:
    """Assert that everything in an output folder is there and right, but an EMC file of blocks."""
    name = f"r{run:04d}"
    events = check_events(output / "events" / f"{name}_events.h5", expected)
    check_powder(output / "powder" / f"{name}_powder.h5", expected, events["is_miss"])
    cxi = output / "saved_hits" / f"{name}_hits.cxi"
    check_cxi(cxi, expected, events["is_miss"])
    emc = output / "emc" / f"{name}.emc"
    if expected.is_hit.any():
        assert emc.exists()
        if not binned:
            check_emc(emc, expected)
    else:
        assert not emc.exists(), "Dragonfly crashes on an EMC file without frames"
    left = [p.name for p in output.rglob("*.part")]
    assert not left, left


def check_provenance(file: h5py.File) -> None:
    """Assert that a file says where it comes from."""
    assert set(file.attrs) >= ROOT_ATTRIBUTES, set(file.attrs)
    assert file.attrs["run"] == 50
    assert file.attrs["proposal"] == "p007927"
    assert json.loads(file.attrs["configuration"])["run"] == 50
    inputs = json.loads(file.attrs["input_files"])
    assert inputs
    for about in (*inputs, *json.loads(file.attrs["used_files"])):
        found = Path(about["path"]).stat()
        assert about["size"] == found.st_size
        changed = datetime.fromisoformat(about["mtime"])
        assert changed.tzinfo is not None
        assert abs(changed.timestamp() - found.st_mtime) < 1e-3
    times = [
        datetime.fromisoformat(file.attrs[name])
        for name in ("start_time", "creation_date", "end_time")
    ]
    assert all(time.tzinfo is not None for time in times)
    assert sorted(times) == times


def check_events(path: Path, expected: Expected) -> dict[str, np.ndarray]:
    """Assert that the events file is right and return its columns."""
    raw = expected.mock.options.kind == "raw"
    with h5py.File(path) as file:
        check_provenance(file)
        sizes = {column.name for column in SphereSize.columns}
        assert sizes <= set(file) or not sizes & set(file)
        for name in sizes & set(file):
            assert np.isnan(file[name][:][~file["is_hit"][:]]).all()
        others = ({"gain_switched"} if raw else set()) | {"n_pulses"} & set(file)
        assert set(file) - sizes == {*EVENTS, "problems", "sums"} | others
        for name, dtype in EVENTS.items():
            assert file[name].dtype == np.dtype(dtype), name
            assert file[name].shape == (len(expected),), name
        assert file["pulse_energy"].attrs["units"] == "J"
        assert file["wavelength"].attrs["units"] == "m"
        found = {name: file[name][:] for name in EVENTS}
        for name, dtype in {"ones": "u4", "peak": "u2", "entries": "u4"}.items():
            assert file["sums"][name].dtype == np.dtype(dtype), name
        np.testing.assert_array_equal(file["sums/ones"], expected.sums["ones"])
        np.testing.assert_array_equal(file["sums/peak"], expected.sums["peak"])
        assert (file["sums/entries"][:] >= found["litpixels"]).all()
        if raw:
            assert file["gain_switched"].dtype == np.uint32
            np.testing.assert_array_equal(file["gain_switched"][:], expected.switched)
    for name in ("trainId", "cellId", "pulseId", "modules", "pulse_energy", "wavelength"):
        np.testing.assert_array_equal(found[name], expected.column(name), name)
    np.testing.assert_array_equal(found["litpixels"], expected.sums["lit"])
    np.testing.assert_array_equal(found["photons"], expected.sums["photons"])
    np.testing.assert_array_equal(found["hitscore"], expected.sums["score"])
    np.testing.assert_array_equal(found["is_hit"], expected.is_hit)
    for name in ("hit_median", "hit_std", "hit_threshold", "hit_sigma"):
        right = expected.statistics[name].astype(np.float32)
        right = np.where(expected.usable, right, np.nan)
        if expected.decide == "auto":
            # sums in another order
            np.testing.assert_allclose(found[name], right, 1e-6, 1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], right, name)
    assert found["is_miss"].sum() == expected.n_misses
    assert not (found["is_miss"] & ~expected.non_hits).any()
    return found


def check_powder(path: Path, expected: Expected, is_miss: np.ndarray) -> None:
    """Assert that the powder file is right."""
    groups = {"": np.ones(len(expected), bool), "_hits": expected.is_hit, "_misses": is_miss}
    with h5py.File(path) as file:
        check_provenance(file)
        assert set(file) == {f"{n}{s}" for n in ("powder", "good_frames") for s in groups}
        for suffix, frames in groups.items():
            photons, good = expected.powder(frames)
            for name, right in ((f"powder{suffix}", photons), (f"good_frames{suffix}", good)):
                assert file[name].dtype == right.dtype, name
                assert isinstance(file[name].attrs["units"], str)
                equal(file[name][:], right, name)


def check_cxi(path: Path, expected: Expected, is_miss: np.ndarray) -> None:
    """Assert that the CXI file is right."""
    entries = {"entry_1": np.flatnonzero(expected.is_hit)}
    if expected.with_misses:
        entries["entry_2"] = np.flatnonzero(is_miss)
    places: dict[bytes, tuple] = {}
    with h5py.File(path) as file:
        check_provenance(file)
        assert set(file) == {"cxi_version", *entries}
        assert file["cxi_version"][()] == 160
        assert file.attrs["default"] == "entry_1"
        titles = [_text(entry["title"]) for entry in (file[name] for name in entries)]
        assert len(set(titles)) == len(entries)
        for name, rows in entries.items():
            entry = file[name]
            _check_singles(entry, file.attrs, expected)
            _check_hit_columns(entry, expected, rows)
            _check_frames(entry, expected, rows, places)
            _check_detector(entry, expected)
            _check_data(entry)
        _check_datasets(file)
    assert len(set(places.values())) == len(places), "two masks at one place"


def _text(dataset) -> str:
    assert dataset.shape == ()
    assert dataset.dtype.kind == "S", "fixed-length strings only"
    return dataset[()].decode()


def _check_singles(entry, attributes, expected) -> None:
    assert _text(entry["name"])
    assert datetime.fromisoformat(_text(entry["start_time"])).tzinfo is not None
    assert _text(entry["sample_1/name"]) == "Simulated spheres"
    assert _text(entry["instrument_1/name"]) == expected.mock.options.topic
    process = entry["process_1"]
    assert process.attrs["NX_class"] == "NXprocess"
    assert _text(process["command"]) == attributes["command_line"]
    assert _text(process["version"]) == attributes["program_version"]
    assert datetime.fromisoformat(_text(process["date"])).tzinfo is not None


def _check_hit_columns(entry, expected, rows) -> None:
    wavelength = expected.column("wavelength")[rows]
    right = {
        "trainId": (expected.column("trainId")[rows], "u8", None),
        "cellId": (expected.column("cellId")[rows], "u2", None),
        "pulseId": (expected.column("pulseId")[rows], "u8", None),
        "vds_index": (rows, "u8", None),
        f"{SOURCE}/photon_wavelength": (wavelength, "f8", "m"),
        f"{SOURCE}/photon_energy": (PLANCK * LIGHT_SPEED / wavelength, "f8", "J"),
        f"{SOURCE}/pulse_energy": (expected.column("pulse_energy")[rows], "f8", "J"),
        f"{DETECTOR}/background_weighting": (expected.weighting(rows), "f8", None),
        f"{DETECTOR}/background_index": (np.zeros(len(rows)), "u4", None),
        f"{DETECTOR}/lit_pixels": (expected.sums["lit"][rows], "u4", None),
        f"{DETECTOR}/photon_counts": (expected.sums["photons"][rows], "u8", "photons"),
        f"{DETECTOR}/hit_score": (expected.sums["score"][rows], "f4", None),
        f"{DETECTOR}/hit_sigma": (expected.statistics["hit_sigma"][rows], "f4", None),
    }
    for name, (values, dtype, units) in right.items():
        dataset = entry[name]
        assert dataset.dtype == np.dtype(dtype), name
        assert dataset.attrs["axes"] == "experiment_identifier", name
        assert dataset.attrs.get("units") == units, name
        found = dataset[:]
        if dtype in ("f8", "f4"):
            np.testing.assert_allclose(found, values, rtol=1e-6 if dtype == "f4" else 1e-12)
        else:
            np.testing.assert_array_equal(found, values, name)
    identifier = entry["experiment_identifier"]
    assert identifier.dtype.kind == "S"
    trains, cells = expected.column("trainId")[rows], expected.column("cellId")[rows]
    assert identifier[:].astype(str).tolist() == [
        f"p007927_r0050_t{t}_c{c}" for t, c in zip(trains, cells, strict=True)
    ]


def _check_frames(entry, expected, rows, places) -> None:
    data, mask = entry[f"{DETECTOR}/data"], entry[f"{DETECTOR}/mask"]
    peak = max((expected.frame(row).max() for row in rows), default=0)
    assert data.dtype == (np.uint16 if peak > 255 else np.uint8)
    assert mask.dtype == np.uint32
    for dataset in (data, mask):
        assert dataset.shape == (len(rows), *expected.shape)
        assert dataset.attrs["axes"] == "experiment_identifier:module_identifier:y:x"
        assert dataset.chunks[1:] == expected.shape, "a chunk must hold whole frames"
        assert dataset.compression == "gzip"
    masks: dict[int, tuple[np.ndarray, bytes]] = {}
    for i, row in enumerate(rows):
        equal(data[i], expected.frame(row))
        right, digest = _mask_of(expected, row, masks)
        equal(mask[i], right)
        # every different mask is stored once, whichever frames and entries have it
        info = mask.id.get_chunk_info_by_coord((i, 0, 0, 0))
        place = (info.byte_offset, info.size, info.filter_mask)
        assert places.setdefault(digest, place) == place


def _mask_of(expected, row, known) -> tuple[np.ndarray, bytes]:
    """Return the mask of a frame as it must stand in the CXI file, uint32, and its digest.

    Those of cells are kept in `known`, by cell.
    """
    cell = -1 if expected.good is None else int(expected.column("cellId")[row])
    if row not in expected.bad and cell in known:
        return known[cell]
    right = np.where(expected.good_of(row), np.uint32(0), np.uint32(0x80))
    right[expected.absent] |= np.uint32(0x200)
    made = right, sha256(right).digest()
    return made if row in expected.bad else known.setdefault(cell, made)


def _check_detector(entry, expected) -> None:
    detector = entry[DETECTOR]
    good = detector["good_pixels"]
    assert good.dtype == bool
    equal(good[:], expected.ever_good)
    photons, _ = expected.powder(np.ones(len(expected), bool))
    equal(detector["powder"][:], photons)
    close(detector["background"][:], expected.background, rtol=1e-6)
    about = expected.mock.options.detector_type
    for name, value, units in (
        ("x_pixel_size", about.pixel_size[1], "m"),
        ("y_pixel_size", about.pixel_size[0], "m"),
        ("pixel_area", about.pixel_area, "m2"),
        ("distance", expected.mock.options.distance, "m"),
    ):
        assert detector[name].shape == ()
        assert detector[name][()] == value or abs(detector[name][()] / value - 1) < 1e-12, name
        assert detector[name].attrs["units"] == units, name
    positions = _positions(expected)
    close(detector["xyz_map"][:], positions, atol=1e-9)
    assert detector["corner_position"].shape == (about.n_modules, 3)
    assert detector["basis_vectors"].shape == (about.n_modules, 2, 3)
    assert detector["module_identifier"].shape == (about.n_modules,)
    assert detector["tile_identifier"].asstr()[()].tolist() == list(about.tile_names)
    tiles = detector["tile_corner_position"][()], detector["tile_basis_vectors"][()]
    # of even rows: others of a honeycomb are shifted
    n_ss, n_fs = about.tile_shape
    middle = tiles[0] + (n_ss // 2 + 0.5) * tiles[1][:, 0] + 0.5 * tiles[1][:, 1]
    there = positions[:, :, n_ss // 2 :: n_ss, ::n_fs].reshape(3, -1).T
    np.testing.assert_allclose(middle, there, atol=HONEYCOMB * (about.name == "DSSC-1M") + 1e-9)
    names = ("xyz_map", "corner_position", "basis_vectors")
    for name in (*names, "tile_corner_position", "tile_basis_vectors"):
        assert detector[name].attrs["units"] == "m", name


_known_positions: dict[tuple, np.ndarray] = {}
"""Where the pixels of the last detector are, by all that this depends on."""


def _positions(expected) -> np.ndarray:
    """Return where pixels are by EXtra-geom, in m from the sample, float64 (3, module, ss, fs)."""
    path, distance = expected.mock.paths.geometry, expected.mock.options.distance
    of_detector = getattr(extra_geom, expected.mock.options.detector_type.geometry)
    key = of_detector, path.read_bytes(), distance
    if key not in _known_positions:
        geometry = of_detector.from_crystfel_geom(str(path))
        positions = np.moveaxis(geometry.get_pixel_positions(), -1, 0).copy()
        positions[2] += distance
        positions.flags.writeable = False
        _known_positions.clear()
        _known_positions[key] = positions
    return _known_positions[key]


def _check_data(entry) -> None:
    link = entry.get("data_1/data", getlink=True)
    assert isinstance(link, h5py.SoftLink)
    assert link.path == f"{entry.name}/{DETECTOR}/data"
    assert entry["data_1"].attrs["NX_class"] == "NXdata"
    assert entry.attrs["NX_class"] == "NXentry"
    assert entry.attrs["default"] == "data_1"


def _check_datasets(file) -> None:
    found = []
    file.visititems(lambda name, item: found.append((name, item)))
    for name, item in found:
        if isinstance(item, h5py.Dataset):
            assert h5py.check_vlen_dtype(item.dtype) is None, f"{name} has variable length"
            assert item.compression in (None, "gzip"), name
            assert not item.fletcher32, name


def check_emc(path: Path, expected: Expected) -> None:
    """Assert that the EMC file has the hits, entry by entry, in the order of the CXI."""
    rows = np.flatnonzero(expected.is_hit)
    emc = read_emc(path)
    assert emc.num_pix == expected.mock.options.detector_type.frame_pixels
    assert len(emc) == len(rows)
    for i, row in enumerate(rows):
        places, counts = expected.lit(row)
        ones, multi, count = emc.frames[i]
        equal(ones, places[counts == 1])
        equal(multi, places[counts > 1])
        equal(count, counts[counts > 1])


def without_energies(n: int) -> list[tuple[str, str, int, int, str]]:
    """Return the problems of a run of n frames that lacks nothing but its gas monitor."""
    what = f"pulse energy unknown for {n} of {n} frames"
    return [(what, "", -1, 0, "pulse energy is NaN there")]


def without_unwritten(found: list[tuple]) -> list[tuple]:
    """Return problems without words on beamline data that EXtra-data's examples never write."""
    words = r", and \d files with beamline data cannot be read"
    return [(re.sub(words, "", what), *rest) for what, *rest in found]


def problems(output: Path, run: int = 50) -> list[tuple[str, str, int, int, str]]:
    """Return the problems named in the events file: what, file, module, train, action."""
    with h5py.File(output / "events" / f"r{run:04d}_events.h5") as file:
        rows = file["problems"][:]
    return [
        (r["what"].decode(), r["file"].decode(), int(r["module"]), int(r["train"]),
         r["action"].decode())
        for r in rows
    ]  # fmt: skip
