"""Sizes that are measured anew, from the CXI file alone, against those of whole jobs."""

import json
import shutil

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from launch import all_files, call_xfelmpi, run_xfelmpi
from mockrun import tiny_run

OPTIONS = ("--size", "spheroid", "--density", "334", "--size-range", "25:90")
FILES = ("events/r0050_events.h5", "saved_hits/r0050_hits.cxi", "powder/r0050_powder.h5")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run processed with the default sizes, and with others."""
    folder = tmp_path_factory.mktemp("size")
    mock = tiny_run(folder / "p007927", trains=2, cells=(0, 1, 2), hit_rate=0.6)
    where = ("--prefix", mock.options.prefix, "--no-vds", "--no-report", "--with-misses")
    where += ("--decide", "fixed", "--fixed-threshold", "3000")
    for name, more in (("out", ()), ("other", OPTIONS)):
        done = call_xfelmpi([50, *where, "--output", folder / name, *more])
        assert done.returncode == 0, done.stderr
    return folder


def size(made, output, *words, ranks=0):
    args = ["size", *words, "--prefix", made / "p007927", "--output", output]
    done = run_xfelmpi(args, ranks) if ranks else call_xfelmpi(args)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def sizes_of(path):
    """Return the columns of sizes by name, which are taken out of the file."""
    found = {}
    with h5py.File(path, "r+") as file:
        file.attrs.pop("patched_from", None)
        file.visititems(lambda name, item: found.update({name: item}))
        is_size = {
            n: str(i.attrs.get("source", "")).startswith("analysis") for n, i in found.items()
        }
        columns = {n: (found[n][()], dict(found[n].attrs)) for n, yes in is_size.items() if yes}
        for name in columns:
            del file[name]
    return columns


def test_as_a_whole_job(made, tmp_path):
    """To rounding, with the same attributes; all else is the same to the bit, and verify agrees."""
    out, other = (shutil.copytree(made / n, tmp_path / n) for n in ("out", "other"))
    assert size(made, out, 50, *OPTIONS, ranks=2).returncode == 0
    done = call_xfelmpi(["verify", 50, "--prefix", made / "p007927", "--output", out])
    assert done.returncode == 0, done.stdout + done.stderr
    with h5py.File(out / FILES[1]) as file:
        (before,) = json.loads(file.attrs["patched_from"])
        assert json.loads(before["configuration"])["size"] == "auto"
        assert np.isnan(file["entry_2/sizing/short_axis_error"]).all()
    for name in FILES:
        found, expected = sizes_of(out / name), sizes_of(other / name)
        assert sorted(found) == sorted(expected)
        for column, (values, attributes) in expected.items():
            assert found[column][0].dtype == values.dtype
            np.testing.assert_allclose(found[column][0], values, 1e-4, 1e-12, err_msg=column)
            assert {k: str(v) for k, v in found[column][1].items()} == {
                k: str(v) for k, v in attributes.items()
            }
        assert_same_hdf5(out / name, other / name)
    assert (out / "emc/r0050.emc").read_bytes() == (other / "emc/r0050.emc").read_bytes()


def test_none_and_back(made, tmp_path):
    """The columns can be taken out, and come back; a range limits them."""
    out = shutil.copytree(made / "out", tmp_path / "out")
    with h5py.File(out / FILES[0]) as file:
        before = file["diameter"][:]
    assert size(made, out, 50, "--size", "none").returncode == 0
    for name in FILES:
        assert not sizes_of(out / name)
    # another analysis does not ask for sizes
    assert size(made, out, 50, "--analyse", "radius").returncode == 0
    with h5py.File(out / FILES[0]) as file:
        assert "diameter" not in file
        assert any(item.attrs.get("source") == "analysis radius" for item in file.values())
    assert size(made, out, 50).returncode == 0
    with h5py.File(out / FILES[0]) as file:
        np.testing.assert_allclose(file["diameter"][:], before, 1e-5)
    largest = float(np.nanmin(before) * 0.98e9)
    assert size(made, out, 50, "--size-range", f"10:{largest}").returncode == 0
    with h5py.File(out / FILES[0]) as file:
        diameter, edge = file["diameter"][:], file["size_edge"][:]
        assert np.nanmax(diameter) < largest * 1.00001e-9
        at_edge = np.isclose(diameter, largest * 1e-9, 1e-5)
        assert at_edge[np.nanargmin(before)]
        np.testing.assert_array_equal(edge == 1, at_edge)


def test_run_without_hits(made, tmp_path):
    """Its wavelength is that of its frames: it does not hold up the runs beside it."""
    where = ("--prefix", made / "p007927", "--no-vds", "--no-report", "--output", tmp_path)
    done = call_xfelmpi([50, *where, "--decide", "fixed", "--fixed-threshold", "1e9"])
    assert done.returncode == 0, done.stderr
    done = size(made, tmp_path, 50)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / FILES[0]) as file:
        assert not file["is_hit"][()].any()
        assert np.isnan(file["diameter"][()]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((51,), "r0051_hits.cxi"),
        ((50, 50), "more than once"),
        ((50, "--size-range", "90:20"), "A below B"),
        ((50, "--size-range", "90"), "not a range of diameters"),
    ],
)
def test_refused_and_nothing_changed(made, words, message):
    before = {name: (made / "out" / name).read_bytes() for name in all_files(made / "out")}
    done = size(made, made / "out", *words)
    assert done.returncode == 2
    assert message in done.stderr
    after = {name: (made / "out" / name).read_bytes() for name in all_files(made / "out")}
    assert after == before
