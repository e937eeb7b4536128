"""Unfinished files: made new under names that nobody can prepare, swept when their job is dead."""

import os

import pytest

from xfelmpi.core.errors import OutputError
from xfelmpi.core.job import UNKNOWN, birth_of, job_is_running, machine_id, process_id
from xfelmpi.io import partial_file
from xfelmpi.io.partial_file import (
    create_new,
    final_name,
    open_own,
    part_name,
    sweep,
    unfinished_files,
)


def name_of(machine, pid, birth):
    return f"a.h5.{machine}-{pid}-{birth}-01234567.part"


DEAD = name_of(machine_id(), 2**22 + 1, 5)
ELSEWHERE = name_of("ab" * 6, 1, 5)
ALIVE = name_of(machine_id(), os.getppid(), birth_of(os.getppid()))


def test_names(tmp_path):
    part = part_name(tmp_path / "a.h5")
    assert part.name == f"a.h5.{process_id()}.part"
    assert final_name(part) == tmp_path / "a.h5"
    assert final_name(part_name(tmp_path / "a.h5.old")) == tmp_path / "a.h5"
    assert final_name(tmp_path / "b.part") == tmp_path / "b.part"


def test_which_jobs_run():
    assert job_is_running(process_id())
    assert not job_is_running(DEAD[5:-5])
    assert job_is_running(ALIVE[5:-5])
    assert not job_is_running(name_of(machine_id(), os.getppid(), 1)[5:-5])
    assert job_is_running(ELSEWHERE[5:-5]) is None
    assert job_is_running(name_of(UNKNOWN, 2**22 + 1, 5)[5:-5]) is None
    assert job_is_running("nonsense") is None


@pytest.mark.parametrize("kind", ["link to a file", "link to nowhere", "hard link", "file"])
def test_what_stands_there_is_not_followed(kind, tmp_path):
    precious, path = tmp_path / "precious", tmp_path / "a.part"
    precious.write_text("precious")
    if kind == "link to a file":
        path.symlink_to(precious)
    elif kind == "link to nowhere":
        path.symlink_to(tmp_path / "made")
    elif kind == "hard link":
        path.hardlink_to(precious)
    else:
        path.write_text("longer than what is written")
    with open(create_new(path), "wb") as file:
        file.write(b"new")
    assert not path.is_symlink()
    assert path.read_text() == "new"
    assert precious.read_text() == "precious"
    assert not (tmp_path / "made").exists()


def test_another_file_under_the_name_is_refused(tmp_path):
    path = tmp_path / "a.part"
    os.close(create_new(path))
    os.close(open_own(path))
    path.rename(tmp_path / "mine")
    path.write_text("another")
    with pytest.raises(OutputError, match="another file"):
        open_own(path)
    path.unlink()
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic"):
        open_own(path)


@pytest.mark.parametrize(
    ("held", "left"),
    [(True, {ALIVE.replace("a.h5", "b.h5")}), (False, {"a.h5.part", ELSEWHERE, ALIVE})],
)
def test_sweep(held, left, tmp_path):
    """Who has the lock removes all of its outputs' names, anybody those of dead jobs."""
    own, other = part_name(tmp_path / "a.h5").name, ALIVE.replace("a.h5", "b.h5")
    always = {own, other, "a.h5", "a.h5.notes", "x.part"}
    old = DEAD.replace("a.h5", "a.h5.old")
    for name in {"a.h5.part", ELSEWHERE, ALIVE, DEAD, old} | always:
        (tmp_path / name).write_text("")
    sweep([tmp_path / "a.h5"], held=held)
    assert {path.name for path in tmp_path.iterdir()} == left | always


def test_files_of_unknown_jobs_are_swept_after_a_while(tmp_path):
    path = tmp_path / ELSEWHERE
    path.write_text("")
    (tmp_path / "new").write_text("")
    then = tmp_path.stat().st_mtime - partial_file.FORGOTTEN_AFTER
    os.utime(path, (then + 60, then + 60))
    sweep([tmp_path / "a.h5"], held=False)
    assert path.exists()
    os.utime(path, (then - 60, then - 60))
    sweep([tmp_path / "a.h5"], held=False)
    assert not path.exists()


def test_unfinished_files(tmp_path):
    for name in (DEAD, "a.h5.part", "b.h5.part", "a.h5"):
        (tmp_path / name).write_text("")
    found = unfinished_files([tmp_path / "a.h5", tmp_path / "nothing" / "a.h5"])
    assert [path.name for path in found] == sorted([DEAD, "a.h5.part"])
