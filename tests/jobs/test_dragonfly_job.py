"""The main job's files for Dragonfly, read and used by Dragonfly itself."""

import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from checks import check_outputs
from compare import assert_same_outputs
from dragonfly import CDataset, Detector
from expected import Expected
from extra_geom import AGIPD_1MGeometry
from launch import process, run_program
from mockrun import NEAR, tiny_raw_run, tiny_run
from readers import read_emc

PROPOSAL = "p007927"
PIXEL = 200e-6

SMALL = ("--bin", "8", "--roi-qmax", "30")


def files(output, run=50) -> tuple[Path, Path]:
    return output / "emc" / f"r{run:04d}.emc", output / "emc" / f"r{run:04d}_det.h5"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("dragonfly") / PROPOSAL, absent_modules=(9,))


@pytest.fixture(scope="module")
def plain(run, tmp_path_factory):
    """The outputs without options."""
    output = tmp_path_factory.mktemp("plain")
    process(run, output, status=3)
    return output


@pytest.fixture(scope="module")
def small(run, tmp_path_factory):
    """The outputs of a smaller problem, and a folder for Dragonfly."""
    folder = tmp_path_factory.mktemp("small")
    done = process(run, folder / "out", *SMALL, "--dragonfly", folder / "recon", status=3)
    return folder, done


def test_detector_file(run, plain):
    """Every value from positions that EXtra-geom reads, by the formulas of Dragonfly."""
    emc, det = files(plain)
    assert emc.exists()
    geometry = AGIPD_1MGeometry.from_crystfel_geom(str(run.paths.geometry))
    x, y, _ = np.moveaxis(geometry.get_pixel_positions(), -1, 0).reshape(3, -1) / PIXEL
    right = Detector()
    right.cx, right.cy = x.copy(), y.copy()
    right.detd = right.ewald_rad = run.options.distance / PIXEL
    right.calc_from_coords(pol="x")
    with h5py.File(det) as file:
        for name, dtype in {"qx": "f8", "qy": "f8", "qz": "f8", "corr": "f8", "mask": "u1"}.items():
            assert file[name].dtype == np.dtype(dtype), name
            assert file[name].shape == (1048576,), name
        q = np.stack([file[name][:] for name in ("qx", "qy", "qz")])
        np.testing.assert_allclose(q, right.qvals.T, rtol=0, atol=1e-6)
        np.testing.assert_allclose(file["corr"][:], right.corr, rtol=1e-7)
        assert file["detd"][()] == pytest.approx(right.detd)
        assert file["ewald_rad"][()] == pytest.approx(right.detd)
        np.testing.assert_array_equal(
            np.flatnonzero(file["mask"][:] == 2), np.arange(9 * 65536, 10 * 65536)
        )
        wavelength = run.truth["wavelength"][0]
        assert file["wavelength"][()] == pytest.approx(wavelength)
        assert file["voxel"][()] == pytest.approx(PIXEL / (run.options.distance * wavelength))
        assert file.attrs["run"] == 50


def test_bad_regions_of_the_geometry(run, tmp_path):
    """They are bad in events, powder, CXI, EMC and Dragonfly's detector file alike."""
    region = {"min_fs": 10, "max_fs": 90, "min_ss": 130, "max_ss": 180}
    lines = [f"badpart/{name} = {value}" for name, value in region.items()]
    path = tmp_path / "bad.geom"
    path.write_text("\n".join([run.paths.geometry.read_text(), "badpart/panel = p3a2", *lines, ""]))
    process(run, tmp_path / "out", "--geometry", path, status=3)
    bad = np.zeros((16, 512, 128), bool)
    bad[3, 130:181, 10:91] = True
    expected = Expected(run, good=dict.fromkeys(run.options.cells, ~bad))
    plain = Expected(run)
    assert (expected.sums["photons"] < plain.sums["photons"]).any()
    check_outputs(tmp_path / "out", expected)
    with h5py.File(files(tmp_path / "out")[1]) as file:
        np.testing.assert_array_equal(file["mask"][:] == 2, (bad | _module(9)).reshape(-1))


def _module(number):
    pixels = np.zeros((16, 512, 128), bool)
    pixels[number] = True
    return pixels


def test_ewald_radius_and_polarisation(run, tmp_path):
    process(run, tmp_path / "out", "--ewald-rad", "1000", "--polarisation", "y", status=3)
    det = Detector(str(files(tmp_path / "out")[1]))
    assert det.ewald_rad == 1000
    right = Detector()
    right.cx, right.cy = det.cx, det.cy
    right.detd, right.ewald_rad = det.detd, 1000
    right.calc_from_coords(pol="y")
    np.testing.assert_allclose(det.qvals, right.qvals, atol=1e-6)
    np.testing.assert_allclose(det.corr, right.corr / right.corr.mean(), rtol=1e-6)


def test_binned_frames(run, small):
    """Dragonfly reads sums over 8 x 8 pixels, at pixel numbers that its detector has."""
    emc, det = files(small[0] / "out")
    expected = Expected(run)
    rows = np.flatnonzero(expected.is_hit)
    content = read_emc(emc)
    assert content.num_pix == 16384
    assert len(content) == len(rows) > 1
    for i, row in enumerate(rows):
        blocks = expected.frame(row).reshape(16, 64, 8, 16, 8).sum(axis=(2, 4), dtype=int)
        np.testing.assert_array_equal(content.dense(i), blocks.reshape(-1))
    detector = Detector(str(det))
    assert detector.num_pix == 16384
    assert 29.9 < detector.qmax() <= 30
    assert 100 < (detector.raw_mask == 0).sum() < 16384
    assert CDataset(str(emc), detector).num_data == len(rows)


def test_dragonfly_starts(small):
    folder, done = small
    assert "63³ voxels" in done.stderr + done.stdout
    recon = folder / "recon"
    for link in ("photons.emc", "detector.h5"):
        path = recon / "data" / link
        assert path.is_symlink()
        assert not path.readlink().is_absolute()
    program = Path(sys.executable).with_name("dragonfly.emc")
    # fewer rotations take a twentieth of the time
    text = (recon / "config.ini").read_text()
    assert "num_div = 6" in text
    (recon / "coarse.ini").write_text(text.replace("num_div = 6", "num_div = 2"))
    ran = run_program([program, "-c", "coarse.ini", "-t", "2", "2"], recon)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stdout + ran.stderr
    with h5py.File(recon / "data" / "output_002.h5") as file:
        volume = file["intens"][:]
        assert volume.shape[-3:] == (63, 63, 63)
        assert np.isfinite(volume).all()
        assert volume.max() > 0
    assert len((recon / "logs" / "EMC.log").read_text().splitlines()) > 2


def test_background_is_handed_over(small, tmp_path):
    """It is that of the CXI file, and Dragonfly takes it as it is."""
    folder, _ = small
    with h5py.File(folder / "out/saved_hits/r0050_hits.cxi") as file:
        detector = file["entry_1/instrument_1/detector_1"]
        background = np.nan_to_num(detector["background"][:])
        weighting = detector["background_weighting"][:]
    with h5py.File(files(folder / "out")[1]) as file:
        found, mask = file["background"][:], file["mask"][:]
        np.testing.assert_array_equal(file["scale"][:], weighting)
    blocks = background.reshape(16, 64, 8, 16, 8).sum(axis=(2, 4), dtype=np.float64)
    np.testing.assert_allclose(found[mask == 0], blocks.reshape(-1)[mask == 0], rtol=1e-6)
    assert found.sum() > 0
    # as Dragonfly does with `background_file` in the configuration
    detector = Detector(str(files(folder / "out")[1]))
    detector.parse_background(str(files(folder / "out")[1]))
    np.testing.assert_array_equal(detector.background, found)
    text = (folder / "recon" / "background.ini").read_text()
    for name in ("background_file = data/detector.h5", "bgscale_file = data/detector.h5"):
        assert f"\n{name}\n" in text
    # with 0.5, there are orientations with hardly a hit, which Dragonfly takes for empty
    assert "\nbeta = 0.1\n" in text
    assert "background" not in (folder / "recon" / "config.ini").read_text()


def test_dragonfly_goes_on_with_the_background(small):
    """It reads what background.ini names, and keeps the brightness of the hits."""
    recon = small[0] / "recon"
    # of the smallest set of rotations: from noise, or with more, this takes minutes
    for name, changes in {
        "config.ini": {"num_div = 6": "num_div = 1"},
        "background.ini": {"num_div = 6": "num_div = 1", "output_010": "output_001"},
    }.items():
        text = (recon / name).read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (recon / f"small_{name}").write_text(text)
        program = Path(sys.executable).with_name("dragonfly.emc")
        ran = run_program([program, "-c", f"small_{name}", "-t", "2", "1"], recon)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Parsing model1 from" in ran.stdout
    with h5py.File(recon / "background" / "output_001.h5") as file:
        assert np.isfinite(file["intens"][:]).all()
        found = file["scale"][:]
    with (
        h5py.File(recon / "data" / "hits.h5") as file,
        h5py.File(files(small[0] / "out")[1]) as det,
    ):
        np.testing.assert_allclose(found, file["scale"][:])
        use, n_hits = det["mask"][:] == 0, len(file["scale"])
        photons = np.array([of_hit[use].sum() for of_hit in dense(files(small[0] / "out")[0])])
        photons = photons - det["scale"][:] * det["background"][:][use].sum()
    assert n_hits == len(photons)
    np.testing.assert_allclose(found, np.maximum(photons, 1) / np.maximum(photons, 1).mean())


def dense(path):
    """Yield the frames of an EMC file."""
    content = read_emc(path)
    yield from (content.dense(i) for i in range(len(content)))


def test_folder_may_be_made_again(run, small, tmp_path):
    """The links follow, an edited config.ini stays."""
    recon = tmp_path / "recon"
    for output, folder in ((tmp_path / "a", recon), (tmp_path / "b", recon)):
        done = process(run, output, *SMALL, "--dragonfly", folder, status=3)
        (recon / "config.ini").write_text("mine")
    assert "config.ini and background.ini were there already and stay" in done.stderr + done.stdout
    assert (recon / "config.ini").read_text() == "mine"
    assert (recon / "data/photons.emc").resolve() == files(tmp_path / "b")[0]
    assert_same_outputs(small[0] / "out", tmp_path / "b")


def test_more_ranks(run, small, tmp_path):
    process(run, tmp_path / "out", *SMALL, ranks=3, status=3)
    assert_same_outputs(small[0] / "out", tmp_path / "out")


def test_decided_again(run, plain, small, tmp_path):
    """From the events file, other options for Dragonfly may be chosen; no frame was kept then."""
    shutil.copytree(plain, tmp_path / "out")
    process(run, tmp_path / "out", "--from-events", *SMALL, ranks=2, status=3)
    assert_same_outputs(small[0] / "out", tmp_path / "out")


def test_pixels_bad_in_some_cells(tmp_path):
    """A pixel is used if it is good in enough of the hits; others are left out of the blocks."""
    mock = tiny_raw_run(tmp_path / PROPOSAL, bad_pixels=0.02, hit_rate=0.3, trains=4, **NEAR)
    options = ("--constants", mock.paths.constants, "--decide", "fixed", "--fixed-threshold", "300")
    for name, max_bad, n in (("strict", 0, 1), ("lax", 0.7, 1), ("blocks", 0, 4)):
        process(mock, tmp_path / name, *options, "--max-bad", max_bad, "--bin", n, status=3)
    with h5py.File(tmp_path / "strict" / "events" / "r0050_events.h5") as file:
        rows = np.flatnonzero(file["is_hit"][:])
    good = np.mean([mock.good(row) for row in rows], axis=0)
    good[list(mock.options.absent_modules)] = 0
    good = good.reshape(-1)
    assert 0 < ((good > 0) & (good < 1)).sum() < (good == 1).sum()
    assert ((good > 0.3) & (good < 1)).any()
    for name, usable in (("strict", good == 1), ("lax", good >= 0.3)):
        with h5py.File(files(tmp_path / name)[1]) as file:
            np.testing.assert_array_equal(file["mask"][:], np.where(usable, 0, 2))
    frames = read_emc(files(tmp_path / "strict")[0])
    blocks = read_emc(files(tmp_path / "blocks")[0])
    for i in range(len(rows)):
        usable = (frames.dense(i) * (good == 1)).reshape(16, 128, 4, 32, 4)
        np.testing.assert_array_equal(blocks.dense(i), usable.sum(axis=(2, 4)).reshape(-1))


def test_without_hits(run, plain, tmp_path):
    """Files of an earlier job go, and the folder is not made."""
    shutil.copytree(plain, tmp_path / "out")
    assert all(path.exists() for path in files(tmp_path / "out"))
    none = ("--decide", "fixed", "--fixed-threshold", "1e9")
    recon = tmp_path / "recon"
    done = process(run, tmp_path / "out", *none, "--dragonfly", recon, status=3)
    assert "no hits" in done.stderr + done.stdout
    assert not any(path.exists() for path in files(tmp_path / "out"))


def test_unknown_distance(run, tmp_path):
    """Without a distance there is no detector file, and an old one goes."""
    geometry = tmp_path / "no_clen.geom"
    text = run.paths.geometry.read_text()
    geometry.write_text("\n".join(line for line in text.splitlines() if "clen" not in line))
    old = files(tmp_path / "out")[1]
    old.parent.mkdir(parents=True)
    old.touch()
    done = process(run, tmp_path / "out", "--geometry", geometry, status=3)
    assert "no detector file for Dragonfly" in done.stderr + done.stdout
    emc, det = files(tmp_path / "out")
    assert emc.exists()
    assert not det.exists()
    done = process(run, tmp_path / "new", "--geometry", geometry, "--roi-qmax", "30", status=2)
    assert "give --distance" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--bin", "3"), "choose from 1, 2, 4, 8, 16, 32, 64"),
        (("--roi-qmax", "3 Angstrom"), "expected e.g. 80 (voxels) or 0.25/nm"),
        (("--roi-qmax", "0.5"), "no pixel is within"),
        (("--ewald-rad", "0"), "--ewald-rad: found 0.0, expected voxels, above 0"),
        (("--max-bad", "1"), "--max-bad: found 1.0"),
        (("--photon-energy", "6"), "expected e.g. 6keV"),
        (("--photon-energy", "6000keV"), "100eV to 100keV"),
        (("--dragonfly", "/dev/null/x"), "/dev/null"),
    ],
)
def test_refused(run, tmp_path, options, message):
    done = process(run, tmp_path / "out", *options, status=2)
    assert message in done.stderr


def test_photon_energy_of_the_user(run, tmp_path):
    process(run, tmp_path / "out", "--photon-energy", "3keV", "--roi-qmax", "0.1/nm", status=3)
    with h5py.File(files(tmp_path / "out")[1]) as file:
        assert file["wavelength"][()] == pytest.approx(4.1328066e-10)
        q = np.stack([file[name][:] for name in ("qx", "qy", "qz")])
        assert np.linalg.norm(q, axis=0).max() * file["voxel"][()] == pytest.approx(1e8)
