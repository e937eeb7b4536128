"""The folder to start Dragonfly in: nothing of the user's is replaced, and failing is early."""

import os
from pathlib import Path

import pytest

from xfelmpi.core.errors import OutputError
from xfelmpi.core.job import birth_of, machine_id
from xfelmpi.io.partial_file import remove_unfinished
from xfelmpi.output.dragonfly.folder import check_folder, write_folder
from xfelmpi.output.dragonfly.settings import volume_config


@pytest.fixture
def outputs(tmp_path):
    emc, detector = tmp_path / "out/emc/r0050.emc", tmp_path / "out/emc/r0050_det.h5"
    emc.parent.mkdir(parents=True)
    emc.write_text("photons")
    detector.write_text("detector")
    return emc, detector


def test_links_of_earlier_jobs_are_made_anew(outputs, tmp_path):
    folder = tmp_path / "recon"
    for name in ("r0050.emc", "r0051.emc"):
        check_folder(folder)
        (outputs[0].parent / name).write_text(name)
        write_folder(folder, outputs[0].parent / name, outputs[1], volume_config)
        assert (folder / "data/photons.emc").read_text() == name
        outputs[0].unlink(missing_ok=True)
    assert (folder / "data/detector.h5").read_text() == "detector"
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("name", ["photons.emc", "detector.h5"])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_what_is_the_users_stays(kind, name, outputs, tmp_path):
    own = tmp_path / "recon" / "data" / name
    own.parent.mkdir(parents=True)
    if kind == "folder":
        own.mkdir()
    elif kind == "link":
        (tmp_path / "mine").write_text("mine")
        own.symlink_to("../../mine")
    else:
        own.write_text("mine")
    folder = tmp_path / "recon"
    check_folder(folder)
    assert "your own files in data/ stay" in write_folder(folder, *outputs, volume_config)
    assert own.is_dir() or own.read_text() == "mine"
    assert (folder / "data/xfelmpi_photons.emc").read_text() == "photons"
    assert (folder / "data/xfelmpi_detector.h5").read_text() == "detector"
    config = (folder / "config.ini").read_text()
    assert "in_photons_file = data/xfelmpi_photons.emc\n" in config
    (folder / "data/xfelmpi_photons.emc").unlink()
    (folder / "data/xfelmpi_photons.emc").write_text("mine, too")
    for what in (check_folder, lambda folder: write_folder(folder, *outputs, volume_config)):
        with pytest.raises(OutputError, match="found a file that no job"):
            what(folder)


@pytest.mark.parametrize("name", ["data", "images", "logs"])
def test_folder_that_cannot_be_made_is_seen_before(name, tmp_path):
    (tmp_path / name).write_text("")
    with pytest.raises(OutputError, match=f"{name}: cannot be made"):
        check_folder(tmp_path)


def test_settings_stay_and_are_not_followed(outputs, tmp_path):
    folder = tmp_path / "recon"
    folder.mkdir()
    (folder / "config.ini").symlink_to(tmp_path / "made")
    assert "stays" in write_folder(folder, *outputs, volume_config)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kind", ["file", "link", "pipe", "folder"])
def test_list_of_hits_that_is_the_users_is_seen_before(kind, tmp_path):
    own = tmp_path / "recon/data/hits.h5"
    own.parent.mkdir(parents=True)
    if kind == "folder":
        own.mkdir()
    elif kind == "pipe":
        os.mkfifo(own)
    elif kind == "link":
        (tmp_path / "mine").write_text("mine")
        own.symlink_to("../../mine")
    else:
        own.write_text("mine")
    with pytest.raises(OutputError, match=r"hits\.h5: found "):
        check_folder(tmp_path / "recon")
    assert os.path.lexists(own)


@pytest.mark.parametrize("name", ["data/detector.h5", "config.ini"])
def test_all_old_when_one_cannot_get_its_name(name, outputs, tmp_path, monkeypatch):
    folder = tmp_path / "recon"
    other = outputs[0].with_name("r0051.emc")
    other.write_text("others")
    check_folder(folder)
    write_folder(folder, *outputs, volume_config)
    (folder / "config.ini").unlink()
    replace = Path.replace

    def fails(self, target):
        if target == folder / name and self.name.endswith(".part") and ".old." not in self.name:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left"):
        write_folder(folder, other, outputs[1], volume_config)
    remove_unfinished()
    assert (folder / "data/photons.emc").read_text() == "photons"
    assert sorted(p.name for p in folder.rglob("*")) == sorted(
        ["data", "images", "logs", "photons.emc", "detector.h5"]
    )


def test_unfinished_files_of_another_live_job_stay(tmp_path):
    """Several runs can have the same folder, and each of them has only its own lock."""
    data = tmp_path / "data"
    data.mkdir()
    part = data / f"hits.h5.{machine_id()}-{os.getpid()}-{birth_of('self')}-00000000.part"
    part.write_text("")
    check_folder(tmp_path)
    assert part.exists()
