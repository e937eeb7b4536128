"""Output formats by plug-in: the example of the how-to, installed and used as it says."""

import shutil
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import all_files, run_xfelmpi
from mockrun import tiny_run

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "npz_hits"
FIXED = ("--decide", "fixed", "--fixed-threshold", 3000, "--no-report", "--no-vds")
DETECTOR = "entry_1/instrument_1/detector_1"


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats") / "p007927"
    return tiny_run(folder, trains=2, cells=(0, 1, 2), hit_rate=0.6)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The example as pip installs it: the module, and its entry points."""
    site = tmp_path_factory.mktemp("site")
    shutil.copy(EXAMPLE / "npz_hits.py", site)
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    about = site / f"{project['name']}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return site


def check_against_cxi(npz: Path, cxi: Path) -> int:
    """Assert that both files have the same hits, and return how many."""
    arrays = np.load(npz)
    with h5py.File(cxi) as file:
        images = file[f"{DETECTOR}/data"][:].reshape(len(file["entry_1/trainId"]), -1)
        np.testing.assert_array_equal(arrays["trainId"], file["entry_1/trainId"][:])
        np.testing.assert_array_equal(arrays["hit_score"], file[f"{DETECTOR}/hit_score"][:])
    dense = np.zeros_like(images)
    dense[arrays["frame"], arrays["pixel"]] = arrays["count"]
    np.testing.assert_array_equal(dense, images)
    return len(images)


def job(mock, site, output, *options, ranks=0, status=0):
    where = ["--prefix", mock.options.prefix, "--output", output]
    where += [] if "merge" in options else ["--no-report"]
    done = run_xfelmpi([*options, *where], ranks, PYTHONPATH=site)
    assert done.returncode == status, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def processed(mock, site, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    done = job(mock, site, output, 50, *FIXED, "--also-write", "npz")
    return output, done


def test_main_job(processed):
    output, done = processed
    npz = output / "npz" / "r0050_hits.npz"
    assert check_against_cxi(npz, output / "saved_hits" / "r0050_hits.cxi") > 1
    assert str(npz) in done.stdout + done.stderr


def test_any_number_of_ranks(mock, site, processed, tmp_path):
    job(mock, site, tmp_path, 50, *FIXED, "--also-write", "npz", ranks=3)
    name = Path("npz") / "r0050_hits.npz"
    assert (tmp_path / name).read_bytes() == (processed[0] / name).read_bytes()


def test_merge(mock, site, processed):
    output, _ = processed
    job(mock, site, output, "merge", 50, "--name", "all", "--also-write", "npz")
    merged = output / "merged"
    assert check_against_cxi(merged / "all_hits.npz", merged / "all_hits.cxi") > 1


def test_only_on_request_and_without_hits_removed(mock, site, tmp_path):
    """A run without hits has no such file; that of an earlier job goes."""
    job(mock, site, tmp_path, 50, *FIXED, "--also-write", "npz")
    assert "npz/r0050_hits.npz" in all_files(tmp_path)
    none = (*FIXED, "--fixed-threshold", 1e9)
    job(mock, site, tmp_path, 50, *none, "--also-write", "npz")
    assert not [name for name in all_files(tmp_path) if name.startswith(("npz/", "emc/"))]
    job(mock, site, tmp_path, 50, *FIXED)
    assert not [name for name in all_files(tmp_path) if name.startswith("npz/")]


def test_what_an_earlier_job_wrote_on_request_goes(mock, site, tmp_path):
    """A later job without the format removes its files: they do not fit the new hits."""
    job(mock, site, tmp_path, 50, *FIXED, "--also-write", "npz")
    job(mock, site, tmp_path, "merge", 50, "--name", "all", "--also-write", "npz")
    assert {"npz/r0050_hits.npz", "merged/all_hits.npz"} <= set(all_files(tmp_path))
    job(mock, site, tmp_path, 50, *FIXED)
    job(mock, site, tmp_path, "merge", 50, "--name", "all")
    assert not [name for name in all_files(tmp_path) if name.endswith(".npz")]


def test_what_an_earlier_job_wrote_by_a_format_that_is_gone(mock, site, tmp_path):
    """Its files stay, with a warning."""
    job(mock, site, tmp_path, 50, *FIXED, "--also-write", "npz")
    done = job(mock, tmp_path / "no_site", tmp_path, 50, *FIXED)
    assert "may stay: --also-write npz: unknown" in done.stdout + done.stderr
    assert (tmp_path / "npz" / "r0050_hits.npz").exists()


def test_unknown_format(mock, site, tmp_path):
    done = job(mock, site, tmp_path, 50, *FIXED, "--also-write", "tiff", status=2)
    assert done.stderr.count("--also-write tiff: unknown, there are: npz") == 1
    assert not (tmp_path / "events").exists()


def test_format_that_cannot_be_loaded(mock, site, tmp_path):
    shutil.copytree(site, tmp_path / "site")
    (tmp_path / "site" / "npz_hits.py").write_text("import not_there\n")
    done = job(mock, tmp_path / "site", tmp_path, 50, "--also-write", "npz", status=2)
    assert "--also-write npz: npz_hits:NpzWriter: No module named 'not_there'" in done.stderr


BROKEN = """
from xfelmpi.output.hit_writer import HitWriter

class Broken(HitWriter):
    @classmethod
    def paths(cls, files):
        return [files.hit_file("broken", ".bin")]
    def __init__(self, hits):
        pass
    def write(self, block):
        {write}
    def close(self, header):
        {close}
"""


@pytest.mark.parametrize(
    ("write", "close", "ranks", "said"),
    [
        ("1 / 0", "return []", 0, "line 11: ZeroDivisionError: division by zero"),
        ("pass", "return []['x']", 2, "line 13: TypeError"),
        ("pass", "return ['x']", 0, "close returned 'x', which is none of its paths"),
    ],
)
def test_error_of_a_format_of_others(mock, tmp_path, write, close, ranks, said):
    """The line in its code is named, and no output is replaced."""
    (tmp_path / "broken_hits.py").write_text(BROKEN.format(write=write, close=close))
    about = tmp_path / "broken_hits-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken_hits\nVersion: 1\n")
    entry = "[xfelmpi.hit_writers]\nbroken = broken_hits:Broken\n"
    (about / "entry_points.txt").write_text(entry)
    output = tmp_path / "out"
    done = job(mock, tmp_path, output, 50, "--also-write", "broken", ranks=ranks, status=2)
    assert "--also-write broken: " in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not [name for name in all_files(output) if name.endswith((".cxi", ".part", ".bin"))]
