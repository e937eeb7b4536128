"""``--where`` of the main job: all hits in the run's files, those chosen in files of their own."""

import h5py
import numpy as np
import pytest
from launch import call_xfelmpi
from mockrun import tiny_run

DETECTOR = "entry_1/instrument_1/detector_1"
WHERE = "diameter < 60 nm and lit_pixels > 0 and cellId in (0, 1, 2, 3)"


def process(prefix, *options, status=0):
    done = call_xfelmpi([50, "--prefix", prefix, "--no-vds", "--no-report", *options])
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a geometry, not processed."""
    return tiny_run(tmp_path_factory.mktemp("selection") / "p007927")


@pytest.fixture(scope="module")
def selected(run):
    """The same, processed; returns the outputs."""
    prefix = run.options.prefix
    options = ("--geometry", run.paths.geometry, "--where", WHERE, "--bin", 16)
    process(prefix, *options, "--dragonfly", prefix / "recon")
    return prefix / "scratch"


def test_all_hits_and_those_chosen(selected):
    with (
        h5py.File(selected / "saved_hits" / "r0050_hits.cxi") as every,
        h5py.File(selected / "merged" / "r0050_selected_hits.cxi") as some,
        h5py.File(selected / "events" / "r0050_events.h5") as events,
    ):
        entry = every["entry_1"]
        right = (entry["sizing/diameter"][:] < 60e-9) & (entry["cellId"][:] < 4)
        assert len(right) == events["is_hit"][:].sum()
        assert 0 < right.sum() < len(right)
        for name in ("trainId", "cellId", "sizing/diameter", "vds_index"):
            np.testing.assert_array_equal(some[f"entry_1/{name}"][:], entry[name][:][right])
        assert some.attrs["where"] == WHERE
        assert (some["entry_1/run"][:] == 50).all()


def test_dragonfly_starts_with_the_selection_and_its_background(selected):
    recon = selected.parent / "recon" / "data"
    assert (recon / "photons.emc").resolve() == selected / "merged" / "r0050_selected.emc"
    with (
        h5py.File(recon / "detector.h5") as chosen,
        h5py.File(selected / "emc" / "r0050_det.h5") as every,
        h5py.File(selected / "merged" / "r0050_selected_hits.cxi") as hits,
        h5py.File(recon / "hits.h5") as listed,
    ):
        np.testing.assert_array_equal(listed["trainId"][:], hits["entry_1/trainId"][:])
        weighting = hits[f"{DETECTOR}/background_weighting"][:]
        np.testing.assert_array_equal(chosen["scale"][:], weighting)
        used = (chosen["mask"][:] == 0) & (every["mask"][:] == 0)
        assert used.any()
        assert every["background"][:][used].any()
        np.testing.assert_array_equal(chosen["background"][:][used], every["background"][:][used])


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("class in (1, 3)", "no column class yet: xfelmpi classes RUN --from DIR adds it"),
        ("diametr < 60 nm", "did you mean diameter?"),
        ("diameter < 60 uJ", "diameter is in m, 60 uJ is not"),
    ],
)
def test_refused_before_frames_are_read(run, where, message):
    options = ("--geometry", run.paths.geometry, "--where", where)
    output = run.options.prefix / "refused"
    done = process(run.options.prefix, "--output", output, *options, status=2)
    assert message in done.stderr
    assert "reading frames" not in done.stderr
    assert not list(output.rglob("*_events.h5"))


def test_no_size_no_diameter(run):
    options = ("--geometry", run.paths.geometry, "--size", "none", "--where", "diameter < 60 nm")
    output = run.options.prefix / "refused"
    done = process(run.options.prefix, "--output", output, *options, status=2)
    assert "no column diameter" in done.stderr


def test_chosen_again(selected):
    """The condition is kept by --from-events, and may be another one, or none."""
    prefix, path = selected.parent, selected / "merged" / "r0050_selected_hits.cxi"
    process(
        prefix, "--from-events", "--where", "photons > 0 and trainId > 0 and pulse_energy > 1 nJ"
    )
    with h5py.File(path) as some, h5py.File(selected / "saved_hits" / "r0050_hits.cxi") as every:
        assert len(some["entry_1/trainId"]) == len(every["entry_1/trainId"])
    done = process(prefix, "--from-events", "--where", "photons < 0")
    assert "no hit fulfils --where 'photons < 0'" in done.stderr
    assert not path.exists()
    assert (selected / "saved_hits" / "r0050_hits.cxi").exists()


def selection_files(output):
    return sorted(path.name for path in (output / "merged").glob("r0050_selected*"))


def test_selection_of_an_earlier_job_goes(run, tmp_path):
    """A later job without --where has other hits; what merge was asked for stays."""
    options = ("--geometry", run.paths.geometry, "--size", "none", "--output", tmp_path)
    process(run.options.prefix, *options, "--where", "photons > 0")
    assert len(selection_files(tmp_path)) == 3
    (tmp_path / "merged" / "r0051_selected_hits.cxi").write_text("of another run")
    classes = tmp_path / "report" / "r0050_classes.html"
    classes.parent.mkdir(exist_ok=True)
    classes.write_text("classes of other hits")
    done = process(run.options.prefix, *options)
    assert "the selection of an earlier job" in done.stdout
    assert selection_files(tmp_path) == []
    assert not classes.exists()
    assert (tmp_path / "merged" / "r0051_selected_hits.cxi").exists()
    merge = ("merge", 50, "--where", "photons > 0", "--name", "r0050_selected")
    done = call_xfelmpi([*merge, "--prefix", run.options.prefix, "--output", tmp_path])
    assert done.returncode == 0, done.stderr
    process(run.options.prefix, *options)
    assert len(selection_files(tmp_path)) == 3
