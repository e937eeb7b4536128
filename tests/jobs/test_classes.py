"""Classes by the real Dragonfly, from the folder that a job makes to columns, page and --where."""

import os
import re
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from launch import call_xfelmpi, run_program, run_xfelmpi
from mockrun import tiny_run
from readers import read_emc

EVENTS, CXI = "events/r0050_events.h5", "saved_hits/r0050_hits.cxi"
PAGE = "report/r0050_classes.html"


def process_arguments(prefix, out):
    args = [50, "--prefix", prefix, "--output", out, "--with-misses"]
    args += ["--no-vds", "--no-report", "--decide", "fixed", "--fixed-threshold", "3000"]
    return [*args, "--dragonfly", out / "recon", "--recon", "2d", "--polarisation", "none"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A processed run, a folder for classes, and what Dragonfly found in it."""
    folder = tmp_path_factory.mktemp("classes")
    mock = tiny_run(folder / "p007927", trains=3, cells=(0, 1, 2, 3), hit_rate=0.6)
    done = call_xfelmpi(process_arguments(mock.options.prefix, folder / "out"))
    assert done.returncode == 0, done.stderr
    assert "of 16,384 pixels" in done.stderr + done.stdout
    program = Path(sys.executable).with_name("dragonfly.emc")
    ran = run_program([program, "-t", "1", "2"], folder / "out/recon")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


def command(made, out, name, *words, ranks=0):
    args = [name, 50, *words, "--prefix", made / "p007927", "--output", out]
    done = run_xfelmpi(args, ranks) if ranks else call_xfelmpi(args)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def columns(path, entry):
    with h5py.File(path) as file:
        return file[f"{entry}class"][:], file[f"{entry}class_weight"][:]


def without(path, group):
    """Take the classes, and the note of the job before, out of a file."""
    with h5py.File(path, "r+") as file:
        file.attrs.pop("patched_from")
        for name in ("class", "class_weight") if group is None else (f"{e}/classes" for e in group):
            del file[name]


def test_columns_page_and_where(made, tmp_path):
    """On two ranks; all else stays, to the bit, and so does the class in later changes."""
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    done = command(made, out, "classes", "--from", out / "recon", ranks=2)
    assert done.returncode == 0, done.stderr
    number, weight = columns(out / EVENTS, "")
    with h5py.File(out / "recon/data/output_002.h5") as file:
        likely = file["occupancies"][:]
        assert len(file["intens"]) == 4
    with h5py.File(out / EVENTS) as file:
        is_hit = file["is_hit"][:]
    assert len(likely) == is_hit.sum() > 4
    np.testing.assert_array_equal(number[is_hit], likely.argmax(axis=1))
    np.testing.assert_allclose(weight[is_hit], np.minimum(likely.max(axis=1), 1), 1e-6)
    assert (number[~is_hit] == -1).all()
    assert np.isnan(weight[~is_hit]).all()
    np.testing.assert_array_equal(columns(out / CXI, "entry_1/classes/")[0], number[is_hit])
    assert (columns(out / CXI, "entry_2/classes/")[0] == -1).all()
    assert command(made, out, "verify").returncode == 0
    assert command(made, out, "report").returncode == 0
    page = (out / "report/r0050.html").read_text()
    assert '<a href="r0050_classes.html">classes</a>' in page
    assert (out / PAGE).exists()

    page = (out / PAGE).read_text()
    shown = {int(n): int(k) for n, k in re.findall(r'value="(\d+)" data-hits="(\d+)"', page)}
    assert shown == {i: int((number[is_hit] == i).sum()) for i in range(4)}

    best = int(number[is_hit][0])
    where = ("--where", f"class in ({best},) and class_weight > 0", "--name", "one")
    assert command(made, out, "merge", *where).returncode == 0
    found, _ = columns(out / "merged/one_hits.cxi", "entry_1/classes/")
    assert found.tolist() == [best] * shown[best]
    assert command(made, out, "size", "--size", "none").returncode == 0
    assert (out / PAGE).exists(), "its hits are the same"
    np.testing.assert_array_equal(columns(out / EVENTS, "")[0], number)
    np.testing.assert_array_equal(columns(out / CXI, "entry_1/classes/")[0], number[is_hit])


def test_page_of_the_hits_of_a_condition(made, tmp_path):
    """Counted are those that fulfil it, and the condition to copy has it; all get their class."""
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    with h5py.File(out / EVENTS) as file:
        photons = file["photons"][:][file["is_hit"][:]]
    least = int(np.median(photons))
    where = f"photons > {least} and isfinite(class_weight)"
    done = command(made, out, "classes", "--from", out / "recon", "--where", where)
    assert done.returncode == 0, done.stderr
    number, _ = columns(out / CXI, "entry_1/classes/")
    wanted = photons > least
    assert (number >= 0).all()
    assert 0 < wanted.sum() < len(number)
    page = (out / PAGE).read_text()
    shown = {int(n): int(k) for n, k in re.findall(r'value="(\d+)" data-hits="(\d+)"', page)}
    assert shown == {i: int((number[wanted] == i).sum()) for i in range(4)}
    condition = f"photons &gt; {least} and isfinite(class_weight)"
    assert f'data-also="({condition}) and "' in page
    assert f"only hits with {condition}" in page


@pytest.mark.parametrize(
    ("where", "message"),
    [("photos > 3", "photos"), ("photons > 3 nm", "nm"), ("photons >", "invalid syntax")],
)
def test_unusable_condition_changes_nothing(made, tmp_path, where, message):
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    before = {name: (out / name).read_bytes() for name in (EVENTS, CXI)}
    done = command(made, out, "classes", "--from", out / "recon", "--where", where)
    assert done.returncode == 2
    assert message in done.stderr
    assert before == {name: (out / name).read_bytes() for name in (EVENTS, CXI)}
    assert not (out / PAGE).exists()


def scale_of(recon, *, background=False):
    """Work out the scale of every hit from what Dragonfly reads, and read what it is given."""
    with h5py.File(recon / "data/detector.h5") as file:
        use, ground, weight = file["mask"][:] == 0, file["background"][:], file["scale"][:]
    emc = read_emc(recon / "data/photons.emc")
    photons = np.array([emc.dense(row)[use].sum() for row in range(len(emc))], float)
    assert photons.min() > 1000
    if background:
        photons -= weight * ground[use].sum()
    with h5py.File(recon / "data/hits.h5") as file:
        return photons / photons.mean(), file["scale"][:]


def test_scale_of_every_hit(made, tmp_path):
    """The same on three ranks, and without the background once it is part of the model."""
    plain, found = scale_of(made / "out/recon")
    np.testing.assert_array_equal(found, plain)
    config = tmp_path / "out/recon/config.ini"
    config.parent.mkdir(parents=True)
    text = (made / "out/recon/config.ini").read_text()
    args = process_arguments(made / "p007927", tmp_path / "out")
    for on, ranks in ((False, 3), (True, 0)):
        config.write_text(text.replace("# b", "b") if on else text)
        done = run_xfelmpi(args, ranks) if ranks else call_xfelmpi([*args, "--from-events"])
        assert done.returncode == 0, done.stderr
        right, found = scale_of(tmp_path / "out/recon", background=on)
        np.testing.assert_array_equal(found, right)
        assert np.array_equal(found, plain) == (not on)


def test_nothing_else_changes(made, tmp_path):
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    assert command(made, out, "classes", "--from", out / "recon").returncode == 0
    # a second time replaces them
    result = out / "recon/data/output_002.h5"
    assert command(made, out, "classes", "--from", result).returncode == 0
    for name, group in ((EVENTS, None), (CXI, ("entry_1", "entry_2"))):
        without(out / name, group)
        assert_same_hdf5(made / "out" / name, out / name)
    assert (out / "emc/r0050.emc").read_bytes() == (made / "out/emc/r0050.emc").read_bytes()


def test_damaged_columns_are_found(made, tmp_path):
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    assert command(made, out, "classes", "--from", out / "recon").returncode == 0
    with h5py.File(out / EVENTS, "r+") as file:
        row = int(np.flatnonzero(file["is_hit"][:])[0])
        file["class"][row] += 1
    done = command(made, out, "verify")
    assert done.returncode == 1
    assert "classes: columns" in done.stdout + done.stderr


def test_refused_and_nothing_changed(made, tmp_path):
    out = shutil.copytree(made / "out", tmp_path / "out", symlinks=True)
    before = {name: (out / name).read_bytes() for name in (EVENTS, CXI)}
    hits = out / "recon/data/hits.h5"
    os.utime(hits, (hits.stat().st_atime, hits.stat().st_mtime + 1e4))
    for source, message in ((out / "recon", "older than the list"), (out, "no output_NNN")):
        done = command(made, out, "classes", "--from", source)
        assert done.returncode == 2
        assert message in done.stderr
    assert before == {name: (out / name).read_bytes() for name in (EVENTS, CXI)}
    assert not (out / PAGE).exists()
