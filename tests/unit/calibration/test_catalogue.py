"""Constants of the facility's catalogue: which are taken, and that they become what they mean.

Files are in the catalogue's layout; questions go through the facility's own library, to a server on
this machine that has the catalogue's answers.
"""

import json
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import h5py
import numpy as np
import pytest
import yaml
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.base import DeviceBase
from mpi4py import MPI
from optional import unavailable
from rawfiles import MODULE, Constants, RawSetup, calibrate
from reference import FS, SS

from xfelmpi.calibration.constants import load_calibration
from xfelmpi.core.config.parsing import CATALOGUE
from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.reduction.fingerprint import catalogue_constants

DETECTOR = "SPB_DET_AGIPD1M-1"
N_CELLS = 4
CELLS = np.array([0, 1, 3])
FIELDS = ("one_photon_adc", "lowest1", "level1", "level2", "offset", "gain", "bad")


def catalogue_arrays(seed=5) -> dict[str, np.ndarray]:
    """Return the constants of a module, as the catalogue has them: (fs, ss, cell, stage)."""
    rng, shape = np.random.default_rng(seed), (FS, SS, N_CELLS, 3)
    offset = np.array([6000, 5200, 5600]) + rng.normal(0, 300, shape)
    slopes = np.array([2, 0.05, 0.01]) * (1 + 0.1 * rng.random(shape))
    # means that are exact in any order of the pixels
    slopes[..., 0] = 2 + rng.permuted(np.resize([-0.25, 0.25], shape[:3]), axis=0)
    flat = np.ones(shape[:3]) + rng.permuted(np.resize([-0.125, 0.125], shape[:3]), axis=0)
    noisy = np.where(rng.random(shape) < 0.02, 1 << 1, 0)
    large = np.where(rng.random(shape) < 0.02, 1 << 22, 0)
    return {
        "Offset": offset.astype(np.float32),
        "Noise": np.ones(shape, np.float32),
        "ThresholdsDark": np.float32([5000, 7000, 0]) + rng.normal(0, 50, shape).astype("f4"),
        "SlopesPC": slopes,
        "SlopesFF": flat,
        "BadPixelsDark": (noisy | large).astype(np.uint32),
        "BadPixelsFF": np.where(rng.random(shape[:3]) < 0.01, 1 << 8, 0).astype(np.uint32),
    }


def as_cheetah(arrays: dict[str, np.ndarray], relative="SlopesPC", stage=None) -> Constants:
    """Return the same as the other layout has it: (stage, cell, ss, fs)."""
    offset, level = arrays["Offset"].T, np.zeros((3, N_CELLS, SS, FS))
    gain = np.ones(offset.shape)
    if relative in arrays:
        slope = arrays[relative].T
        gain = slope[0].mean(axis=(1, 2), keepdims=True) / slope
    flat = arrays["SlopesFF"].T
    gain = gain * (flat.mean(axis=(1, 2), keepdims=True) / flat)
    bad = (arrays["BadPixelsDark"].T & ~np.uint32(1 << 22)) | arrays["BadPixelsFF"].T
    if stage is None:
        level[1:] = arrays["ThresholdsDark"].T[:2]
    else:
        level[1:] = 1e6
        offset, gain, bad = (np.stack([its[stage]] * 3) for its in (offset, gain, bad))
    return Constants(offset, gain.astype(np.float32), level.astype(np.float32), bad != 0)


def write_store(folder: Path, arrays: dict[str, np.ndarray], kinds=None, **layout) -> dict:
    """Write constants as files of the catalogue's store; returns the entries of the list."""
    entries = {}
    for kind in kinds or arrays:
        path = Path("xfel/cal/agipd-type/agipd_siv1") / f"cal.{kind}.h5"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        group = f"/AGIPD_SIV1/{kind}/0"
        with h5py.File(folder / path, "w") as file:
            file.create_dataset(f"{group}/data", data=arrays[kind], **layout)
        entries[kind] = {
            "path": str(path),
            "dataset": group,
            "ccv_id": len(entries),
            "creation-time": "2024-10-01T12:00:00+00:00",
        }
    return entries


def write_list(folder: Path, entries: dict, name="calibration_metadata.yml", of=DETECTOR) -> Path:
    """Write the list that the correction leaves beside its files."""
    path = folder / "proc" / "r0050" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    retrieved = {"time-summary": {}}
    retrieved[f"AGIPD{MODULE:02}"] = {"physical-name": "AGIPD_SIV1", "constants": entries}
    about = {"calibration-configurations": {"karabo-id": of}, "retrieved-constants": retrieved}
    path.write_text(yaml.safe_dump(about))
    return path


class FpgaComp(DeviceBase):
    control_keys = (
        ("bunchStructure/nPulses", "i4", ()),
        ("bunchStructure/repetitionRate", "f8", ()),
        ("gain", "i4", ()),
        ("gainModeIndex", "i4", ()),
        ("integrationTime", "i4", ()),
    )


class HighVoltage(DeviceBase):
    control_keys = (("channels/U0/voltage", "f4", ()),)


def write_run(folder: Path, gain_mode=0) -> None:
    """Write the control data of a raw run."""
    path = folder / "raw" / "r0050" / "RAW-R0050-DA01-S00000.h5"
    path.parent.mkdir(parents=True)
    comp, voltage = "SPB_IRU_AGIPD1M1/MDL/FPGA_COMP", "SPB_IRU_AGIPD1M/PSC/HV"
    write_file(path, [FpgaComp(comp), HighVoltage(voltage)], ntrains=4)
    values = {"bunchStructure/nPulses": 352, "bunchStructure/repetitionRate": 4.5}
    values |= {"gain": 0, "gainModeIndex": gain_mode, "integrationTime": 20}
    with h5py.File(path, "r+") as file:
        for name, value in values.items():
            file[f"CONTROL/{comp}/{name}/value"][:] = value
        file[f"CONTROL/{voltage}/channels/U0/voltage/value"][:] = 300


def load(folder: Path, modules=1 << MODULE, cells=CELLS, **options):
    config = replace(RawSetup().config(folder), constants=CATALOGUE, **options)
    experiment = Experiment(folder, folder / "out", 50)
    return load_calibration(
        MPI.COMM_SELF, experiment, config, cells, modules, DETECTOR, detector=AGIPD_1M
    )


def assert_same(found, folder: Path, constants: Constants, rows=slice(None)) -> None:
    """Compare with the same constants in the other layout, which has tests of its own."""
    constants.write(folder / "constants")
    expected = calibrate(folder, CELLS)
    for name in FIELDS:
        a, b = (getattr(calibration.modules[MODULE], name) for calibration in (found, expected))
        a, b = (x[:, rows] if name == "bad" else x[rows] for x in (a, b))
        np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("XFELMPI_CALDB", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.mark.parametrize(
    "layout", [{}, {"chunks": (16, 100, 2, 3), "compression": 1}], ids=["plain", "chunks"]
)
def test_those_that_the_correction_used(tmp_path, store, layout):
    arrays = catalogue_arrays()
    kinds = [kind for kind in arrays if "FF" not in kind] if layout else list(arrays)
    entries = write_store(store, {k: arrays[k] for k in kinds}, **layout)
    if layout:
        entries |= write_store(store, arrays, ["SlopesFF", "BadPixelsFF"])
    path = write_list(tmp_path, entries)
    found = load(tmp_path)
    assert found.problems == ()
    assert str(path) in found.notes[0]
    assert "adaptive gain" in found.notes[0]
    assert "Noise" not in found.notes[0]
    assert {f.role for f in found.files} == {f"constants {k}" for k in arrays if k != "Noise"}
    assert_same(found, tmp_path, as_cheetah(arrays))


def test_slopes_of_the_current_source_come_first(tmp_path, store):
    arrays = catalogue_arrays()
    arrays["SlopesCS"] = arrays["SlopesPC"][..., [0, 2, 1]]
    write_list(tmp_path, write_store(store, arrays), f"calibration_metadata_{DETECTOR}.yml")
    assert_same(load(tmp_path), tmp_path, as_cheetah(arrays, "SlopesCS"))


@pytest.mark.parametrize("mode", [1, 2, 3])
def test_fixed_gain(tmp_path, store, mode):
    """By the run's control data: every pixel is in one stage, and needs no thresholds."""
    arrays = catalogue_arrays()
    kinds = [kind for kind in arrays if kind != "ThresholdsDark"]
    write_list(tmp_path, write_store(store, arrays, kinds))
    write_run(tmp_path, mode)
    found = load(tmp_path)
    assert ("high", "medium", "low")[mode - 1] in found.notes[0]
    assert_same(found, tmp_path, as_cheetah(arrays, stage=mode - 1))


@pytest.mark.parametrize("mode", [-1, 4, 77])
def test_gain_mode_that_is_none(tmp_path, store, mode, caplog):
    """It says nothing: constants with thresholds between the stages are of adaptive gain."""
    arrays = catalogue_arrays()
    write_list(tmp_path, write_store(store, arrays))
    write_run(tmp_path, mode)
    with caplog.at_level("INFO", "xfelmpi"):
        found = load(tmp_path)
    assert f"no gain mode: gain mode {mode}, expected 0 … 3" in caplog.text
    assert "adaptive gain" in found.notes[0]
    assert_same(found, tmp_path, as_cheetah(arrays))


def test_without_relative_gains(tmp_path, store):
    """Pixels in medium and low gain count as bad, and a problem says so."""
    arrays = catalogue_arrays()
    kinds = [kind for kind in arrays if kind != "SlopesPC"]
    write_list(tmp_path, write_store(store, arrays, kinds))
    found = load(tmp_path)
    assert [p.action for p in found.problems] == ["pixels in medium and low gain count as bad"]
    constants = as_cheetah({k: v for k, v in arrays.items() if k != "SlopesPC"})
    constants.bad[1:] = True
    constants.gain[1:] = 1
    assert_same(found, tmp_path, constants)


@pytest.mark.parametrize("shape", [(..., [0] * 10), (..., 0)], ids=["a fit", "one stage"])
def test_slopes_that_are_not_by_stage_are_not_taken_for_gains(tmp_path, store, shape):
    """The numbers of a linear fit of each stage, for example: no wrong gain without a word."""
    arrays = catalogue_arrays()
    several = arrays | {"SlopesPC": arrays["SlopesPC"][shape]}
    write_list(tmp_path, write_store(store, several))
    found = load(tmp_path)
    actions = ["SlopesPC is not used", "pixels in medium and low gain count as bad"]
    assert [p.action for p in found.problems] == actions
    assert f"SlopesPC has shape {several['SlopesPC'].shape}, expected 3 values" in str(
        found.problems[0].what
    )
    constants = as_cheetah({k: v for k, v in arrays.items() if k != "SlopesPC"})
    constants.bad[1:] = True
    constants.gain[1:] = 1
    assert_same(found, tmp_path, constants)


def test_cells_and_modules_that_lack_constants(tmp_path, store):
    write_list(tmp_path, write_store(store, catalogue_arrays()))
    found = load(tmp_path, 1 << MODULE | 1 << (MODULE + 1), np.array([0, 1, 9]))
    assert found.lacking == (MODULE + 1,)
    assert {p.module for p in found.problems} == {MODULE, MODULE + 1}
    assert "the run uses cell 9" in " ".join(p.what for p in found.problems)
    own = found.modules[MODULE]
    assert (own.bad[:, 2] == 0xFF).all()
    assert (own.one_photon_adc[2] == 65535).all()
    assert not (own.bad[:, 0] == 0xFF).all()


def broken(kind, values):
    def change(store, entries):
        with h5py.File(store / entries[kind]["path"], "r+") as file:
            del file[entries[kind]["dataset"]]
            if values is not None:
                file[entries[kind]["dataset"] + "/data"] = values

    return change


REFUSED = {
    "turned": (broken("Offset", np.ones((SS, FS, 1, 3))), r"shape \(512, 128, 1, 3\)"),
    "two stages": (broken("Offset", np.ones((FS, SS, 1, 2))), r"\(128, 512, 1, 2\)"),
    "float bits": (broken("BadPixelsDark", np.ones((FS, SS, 1, 3))), "float64, expected kind"),
    "no values": (broken("SlopesFF", None), "no values /AGIPD_SIV1/SlopesFF/0/data"),
    "gone": (lambda store, e: (store / e["Offset"]["path"]).unlink(), "cal.Offset.h5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, store, name):
    change, message = REFUSED[name]
    entries = write_store(store, catalogue_arrays())
    write_list(tmp_path, entries)
    change(store, entries)
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("text", ["[", "a: 1", "retrieved-constants: 3", ""])
def test_a_list_that_is_none(tmp_path, store, text):
    write_list(tmp_path, {}).write_text(text)
    with pytest.raises(InputError, match=r"calibration_metadata\.yml: no list of constants"):
        load(tmp_path)


def test_a_list_of_another_detector(tmp_path, store):
    write_list(tmp_path, {}, of="MID_DET_AGIPD1M-1")
    with pytest.raises(InputError, match="constants of MID_DET_AGIPD1M-1, expected those of SPB"):
        load(tmp_path)


# the catalogue itself


class Answers(BaseHTTPRequestHandler):
    """What the catalogue answers to the library's questions."""

    def do_GET(self):
        url = urlparse(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((url.path, asked, body))
        answer = self.server.answer(url.path.removeprefix("/api/"), asked, body)
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for what libraries keep of the user's, instead of the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def catalogue(cache, monkeypatch):
    """A server on this machine; its `answer` is to be set."""
    try:
        import extra.calibration  # noqa: F401
    except ImportError:
        unavailable("no euxfel-extra", "XFELMPI_TEST_CATALOGUE")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("XFELMPI_CALCAT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()
        thread.join()


def answers(entries: dict):
    """Return a function that answers as the catalogue does."""
    unit = {
        **{"id": 7, "physical_name": "AGIPD_SIV1", "karabo_da": f"AGIPD{MODULE:02}"},
        **{"virtual_device_name": "Q1M4", "module_number": MODULE, "uuid": 1},
        "detector_type": {"name": "AGIPD-Type"},
    }
    detector = {
        **{"id": 1, "identifier": DETECTOR, "karabo_id_control": "SPB_IRU_AGIPD1M1"},
        **{"number_of_modules": 16, "first_module_index": 0},
        "source_name_pattern": "SPB_DET_AGIPD1M-1/DET/{modno}CH0:xtdf",
    }
    numbers = {kind: i for i, kind in enumerate(sorted(entries), 1)}

    def versions(wanted):
        return [
            {
                "id": numbers[kind],
                "path_to_file": str(Path(entry["path"]).parent),
                "file_name": Path(entry["path"]).name,
                "data_set_name": entry["dataset"],
                "physical_detector_unit": unit,
                "calibration_constant": {"calibration_id": numbers[kind]},
            }
            for kind, entry in entries.items()
            if numbers[kind] in wanted
        ]

    def answer(path, asked, body):
        if path == "detectors":
            return [detector] if asked["identifier"] == DETECTOR else []
        if path == "physical_detector_units/get_all_by_detector":
            return [unit]
        if path == "calibrations":
            return [{"id": numbers.get(asked["name"], 99), "name": asked["name"]}]
        assert path == "calibration_constant_versions/get_by_detector_conditions", path
        return versions(json.loads(asked["calibration_id"]))

    return answer


def test_by_the_conditions_of_the_run(tmp_path, store, catalogue):
    arrays = catalogue_arrays()
    catalogue.answer = answers(write_store(store, arrays))
    write_run(tmp_path)
    found = load(tmp_path)
    assert "by the run's conditions, from http://127.0.0.1" in found.notes[0]
    assert_same(found, tmp_path, as_cheetah(arrays))
    bodies = [json.loads(body) for path, _, body in catalogue.asked if path.endswith("conditions")]
    conditions = {
        c["parameter_name"]: c["value"]
        for body in bodies
        for c in body["parameters_conditions_attributes"]
    }
    assert conditions["Memory cells"] == 352
    assert conditions["Sensor Bias Voltage"] == 300
    assert conditions["Integration time"] == 20


def test_library_that_cannot_be_loaded(tmp_path, store, monkeypatch):
    """As it fails on the units of measurement that it keeps, of an environment that is gone."""
    package = tmp_path / "extra"
    package.mkdir()
    (package / "__init__.py").write_text("open('/gone/pint/constants_en.txt')")
    for name in [n for n in sys.modules if n.partition(".")[0] == "extra"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"constants_en.txt.*remove the folder pint"):
        load(tmp_path)


def test_no_answer(tmp_path, store, catalogue):
    catalogue.answer = lambda *_: []
    write_run(tmp_path)
    with pytest.raises(InputError, match="has no answer for SPB_DET_AGIPD1M-1, run 50"):
        load(tmp_path)


def test_no_catalogue_at_this_address(tmp_path, store, catalogue, monkeypatch):
    monkeypatch.setenv("XFELMPI_CALCAT", "http://127.0.0.1:1")
    write_run(tmp_path)
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:1 has no answer"):
        load(tmp_path)


def test_constants_of_another_time_are_others(tmp_path, monkeypatch):
    """A job does not continue with frames that were made with other ones, whatever their names."""
    monkeypatch.setenv("XFELMPI_CALDB", str(tmp_path / "store"))
    entries = write_store(tmp_path / "store", catalogue_arrays())
    experiment = Experiment(tmp_path, tmp_path / "out", 50)
    index = SimpleNamespace(kind="raw", detector=DETECTOR)

    def constants() -> dict[str, str]:
        return catalogue_constants(experiment, CATALOGUE, index)

    write_list(tmp_path, entries)
    first = constants()
    assert set(first) == {"constants"}
    assert constants() == first
    write_list(tmp_path, {**entries, "Offset": entries["Offset"] | {"dataset": "/other/0"}})
    assert constants() != first
    write_list(tmp_path, {kind: entries[kind] for kind in entries if kind != "SlopesFF"})
    assert constants() != first
    write_list(tmp_path, entries)
    write_store(tmp_path / "store", catalogue_arrays(seed=6), ["Offset"])
    assert constants() != first
    # corrected data need none, and neither does a folder that is called like this
    assert not catalogue_constants(experiment, CATALOGUE, SimpleNamespace(kind="proc"))
    assert not catalogue_constants(experiment, tmp_path / "catalogue", index)
