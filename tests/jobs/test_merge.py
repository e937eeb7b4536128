"""Hits of several runs as one: every value and every frame as in the runs' own files."""

import json
import shutil

import h5py
import numpy as np
import pytest
from compare import assert_same_hdf5
from dragonfly import CDataset, Detector
from launch import all_files, call_xfelmpi, run_job
from mockrun import tiny_run
from readers import check_cxi_rules, read_cxi_with_nexusformat, read_cxi_with_silx, read_emc

from xfelmpi.__main__ import main as xfelmpi
from xfelmpi.core.log import start_logging
from xfelmpi.workflows.merge import job
from xfelmpi.workflows.merge.hits import collect

PROPOSAL = "p007927"
DETECTOR = "entry_1/instrument_1/detector_1"
RUNS = (50, 51, 53)
WHERE = "(hit_sigma > 120 or run == 51) and photon_counts < 14_000"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three processed runs of an experiment: other seeds, types, masks and modules."""
    prefix = tmp_path_factory.mktemp("merge") / PROPOSAL
    more = ({}, {"absent_modules": (9,), "dtype": "u2", "seed": 12}, {"seed": 13})
    for run, options in zip(RUNS, more, strict=True):
        mock = tiny_run(prefix, run=run, **options)
    det = prefix / "scratch" / "det"
    good = np.random.default_rng(1).random((6, 16, 512, 128)) < 0.95
    with h5py.File(det / "r0053_mask.h5", "w") as file:
        file["entry_1/good_pixels"], file["entry_1/cellIds"] = good, np.arange(6)
    for run in RUNS:
        options = ("--prefix", prefix, "--geometry", mock.paths.geometry, "--no-vds")
        done = call_xfelmpi([run, *options, "--no-report"])
        assert done.returncode in (0, 3), done.stderr
    return prefix


@pytest.fixture(scope="module")
def merged(runs):
    done = merge(runs, *RUNS, "--where", WHERE, "--name", "all", ranks=2)
    return runs / "scratch" / "merged", done


def merge(prefix, *args, ranks=0, status=0):
    done = run_job(["merge", *args, "--prefix", prefix], ranks)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def columns(file) -> dict[str, h5py.Dataset]:
    """Return everything with one value per hit, by path."""
    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and item.attrs.get("axes") == "experiment_identifier":
            found[name] = item

    file["entry_1"].visititems(visit)
    return found


def chosen(prefix):
    """Return (run, open file, rows that WHERE names) of every run."""
    for run in RUNS:
        with h5py.File(prefix / "scratch" / "saved_hits" / f"r{run:04d}_hits.cxi") as file:
            sigma, photons = (file[f"{DETECTOR}/{n}"][:] for n in ("hit_sigma", "photon_counts"))
            rows = np.flatnonzero(((sigma > 120) | (run == 51)) & (photons < 14_000))
            assert 0 < len(rows) < len(sigma)
            yield run, file, rows


def test_cxi(runs, merged):
    folder, done = merged
    at = 0
    with h5py.File(folder / "all_hits.cxi") as file:
        assert file.attrs["run"].tolist() == list(RUNS)
        assert file.attrs["where"] == WHERE
        assert len(json.loads(file.attrs["input_files"])) == 3
        ours, detector = columns(file), file[DETECTOR]
        assert detector["background"].shape == (3, 16, 512, 128)
        total = np.zeros((16, 512, 128), np.uint64)
        good = np.zeros((16, 512, 128), bool)
        for number, (run, one, rows) in enumerate(chosen(runs)):
            assert f"run {run}: {len(rows)} of" in done.stdout + done.stderr
            part = slice(at, at + len(rows))
            theirs = columns(one)
            assert set(ours) == {*theirs, "run"}
            # which of the merged file's backgrounds: of another number
            del theirs[f"{DETECTOR[8:]}/background_index"]
            for name, column in theirs.items():
                np.testing.assert_array_equal(ours[name][part], column[:][rows], name)
                assert ours[name].dtype == column.dtype
                assert dict(ours[name].attrs) == dict(column.attrs)
            assert (ours["run"][part] == run).all()
            assert (detector["background_index"][part] == number).all()
            np.testing.assert_array_equal(
                detector["background"][number], one[f"{DETECTOR}/background"][:]
            )
            for i, row in enumerate(rows):
                for name in ("data", "mask"):
                    right = one[f"{DETECTOR}/{name}"][row]
                    if name == "mask":
                        # a module that another run has is bad here, but not missing
                        right = np.where(right & 0x200, 0x80, right)
                    np.testing.assert_array_equal(detector[name][at + i], right)
            total += one[f"{DETECTOR}/powder"][:]
            good |= one[f"{DETECTOR}/good_pixels"][:]
            at += len(rows)
        assert len(ours["run"]) == at
        np.testing.assert_array_equal(detector["powder"][:], total)
        np.testing.assert_array_equal(detector["good_pixels"][:], good)
        np.testing.assert_array_equal(detector["xyz_map"][:], one_geometry(runs))


def test_runs_of_different_samples_are_named(runs, tmp_path, capfd):
    paths = [tmp_path / f"r{run:04d}_hits.cxi" for run in (50, 53)]
    for path in paths:
        shutil.copy(runs / "scratch" / "saved_hits" / path.name, path)
    start_logging(0)
    collect((50, 53), paths, None)
    assert "sample" not in "".join(capfd.readouterr())
    with h5py.File(paths[1], "r+") as file:
        file["entry_1/sample_1/name"][()] = "Virus"
    collect((50, 53), paths, None)
    told = "run 53 is of sample 'Virus', run 50 of 'Simulated spheres'; the merged files name"
    assert told in "".join(capfd.readouterr())


def one_geometry(prefix):
    with h5py.File(prefix / "scratch" / "saved_hits" / "r0050_hits.cxi") as file:
        return file[f"{DETECTOR}/xyz_map"][:]


def test_cxi_for_its_readers(merged):
    path = merged[0] / "all_hits.cxi"
    check_cxi_rules(path)
    with h5py.File(path) as file:
        shape, last = file[f"{DETECTOR}/data"].shape, file[f"{DETECTOR}/data"][-1]
    for read in (read_cxi_with_silx, read_cxi_with_nexusformat):
        found, frame = read(path, len(last) and shape[0] - 1)
        assert found == shape
        np.testing.assert_array_equal(frame, last)


def test_emc_and_detector(merged):
    folder = merged[0]
    emc = read_emc(folder / "all.emc")
    with h5py.File(folder / "all_hits.cxi") as file:
        data, masks = file[f"{DETECTOR}/data"], file[f"{DETECTOR}/mask"]
        assert len(emc) == len(data)
        bad = np.zeros((16, 512, 128), int)
        for i in range(len(data)):
            np.testing.assert_array_equal(emc.dense(i), data[i].reshape(-1))
            bad += masks[i] != 0
    detector = Detector(str(folder / "all_det.h5"))
    np.testing.assert_array_equal(
        detector.raw_mask, np.where(bad.reshape(-1) <= 0.1 * len(emc), 0, 2)
    )
    assert CDataset(str(folder / "all.emc"), detector).num_data == len(emc)


def test_on_several_ranks(runs, merged):
    merge(runs, 53, 50, 51, "--where", WHERE, "--name", "on5", ranks=5)
    folder = merged[0]
    for end in ("_hits.cxi", "_det.h5"):
        assert_same_hdf5(folder / f"all{end}", folder / f"on5{end}")
    assert (folder / "all.emc").read_bytes() == (folder / "on5.emc").read_bytes()


def test_more_ranks_than_hits_and_binned(runs, tmp_path):
    """One hit on three ranks, for Dragonfly."""
    with h5py.File(runs / "scratch" / "saved_hits" / "r0050_hits.cxi") as file:
        sigma = file[f"{DETECTOR}/hit_sigma"][:]
        frame = file[f"{DETECTOR}/data"][int(sigma.argmax())]
    condition = f"hit_sigma >= {float(sigma.max())!r}"
    options = ("--bin", "16", "--dragonfly", tmp_path / "recon", "--max-bad", "0.99")
    merge(runs, 50, "--where", condition, *options, ranks=3)
    emc = read_emc(tmp_path / "recon" / "data" / "photons.emc")
    right = frame.reshape(16, 32, 16, 8, 16).sum(axis=(2, 4))
    np.testing.assert_array_equal(emc.dense(0), right.reshape(-1))
    assert (runs / "scratch" / "merged" / "r0050-r0050_det.h5").exists()


def copied(runs, tmp_path):
    """Return a copy of the outputs of two runs."""
    output = tmp_path / "out"
    for run in (50, 51):
        name = f"saved_hits/r{run:04d}_hits.cxi"
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(runs / "scratch" / name, output / name)
    return output


def test_pixels_elsewhere(runs, tmp_path):
    output = copied(runs, tmp_path)
    for move, status in ((20e-6, 0), (150e-6, 2)):
        with h5py.File(output / "saved_hits" / "r0051_hits.cxi", "r+") as file:
            file[f"{DETECTOR}/xyz_map"][0] += move
        done = merge(runs, 50, 51, "--output", output, status=status)
        assert "pixels are up to 0." in done.stderr + done.stdout
        assert (output / "merged").exists() == (status == 0)
        shutil.rmtree(output / "merged", ignore_errors=True)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((50, 52), "r0052_hits.cxi: no such file; process the run first"),
        ((50, 50), "run 50 is given more than once"),
        ((50, "--where", "hit_sgima > 8"), "did you mean hit_sigma?"),
        ((50, 51, "--where", "hit_sigma > 1e9"), "no hits with --where 'hit_sigma > 1e9'"),
        ((50, "--name", "../x"), "--name '../x'"),
        ((50, "--sigma", "5"), "unrecognized arguments"),
        ((), "required: RUN"),
    ],
)
def test_refused(runs, merged, tmp_path, args, message):
    before = all_files(merged[0])
    done = merge(runs, *args, ranks=2 * (52 in args), status=2)
    assert message in done.stderr
    assert all_files(merged[0]) == before


def test_runs_of_different_settings_are_named(runs, tmp_path, capfd):
    """Those that say what a photon or a score is."""
    paths = [tmp_path / f"r{run:04d}_hits.cxi" for run in (50, 53)]
    for path in paths:
        shutil.copy(runs / "scratch" / "saved_hits" / path.name, path)
    start_logging(0)
    collect((50, 53), paths, None)
    assert "settings" not in "".join(capfd.readouterr())
    with h5py.File(paths[1], "r+") as file:
        settings = json.loads(file.attrs["configuration"])
        settings |= {"photon_threshold": 0.5, "score": "photons", "sigma": 7.0}
        file.attrs["configuration"] = json.dumps(settings)
    collect((50, 53), paths, None)
    told = (
        "run 53 was processed with --photon-threshold 0.5 (run 50: 0.7), --score photons (run 50:"
    )
    said = "".join(capfd.readouterr())
    assert told in said
    assert "--sigma" not in said


def test_damaged(runs, tmp_path):
    output = copied(runs, tmp_path)
    path = output / "saved_hits" / "r0051_hits.cxi"
    with h5py.File(path, "r+") as file:
        del file[f"{DETECTOR}/background"]
    done = merge(runs, 50, 51, "--output", output, ranks=2, status=2)
    assert "r0051_hits.cxi" in done.stderr
    assert "process the run again" in done.stderr.lower()
    path.write_bytes(path.read_bytes()[:100_000])
    done = merge(runs, 50, 51, "--output", output, status=2)
    assert "r0051_hits.cxi" in done.stderr


def test_run_that_is_processed_again_meanwhile(runs, tmp_path, monkeypatch, capfd):
    """Between the columns and the frames of a file: they would be those of different hits."""
    shutil.copytree(runs / "scratch" / "saved_hits", tmp_path / "saved_hits")
    path = tmp_path / "saved_hits" / "r0051_hits.cxi"

    def collect_and_replace(*args):
        found = collect(*args)
        shutil.copy(path, tmp_path / "new.cxi")
        (tmp_path / "new.cxi").replace(path)
        return found

    monkeypatch.setattr(job, "collect", collect_and_replace)
    folders = ("--prefix", str(runs), "--output", str(tmp_path))
    assert xfelmpi(["merge", "50", "51", *folders]) == 2
    assert f"{path}: changed while it was read: another job has replaced it" in (
        capfd.readouterr().err
    )
    assert not list((tmp_path / "merged").iterdir())
