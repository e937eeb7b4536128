"""Files get their names all together, or none does."""

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from xfelmpi.core.errors import LostLockError, OutputError
from xfelmpi.io import partial_file, publish
from xfelmpi.io.partial_file import begin_partial, write_new


@pytest.fixture
def files(tmp_path):
    """Four finished files, of which two replace older ones, and one that is to be removed."""
    paths = [tmp_path / name for name in ("a", "b", "c", "d")]
    for path in paths:
        write_new(begin_partial(path), b"new")
    for name in ("a", "c", "obsolete"):
        (tmp_path / name).write_text("old")
    return paths


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir() if path.suffix != ".part"}


OLD = {"a": "old", "c": "old", "obsolete": "old"}


def test_all_new(files, tmp_path):
    publish.publish(*files, obsolete=[tmp_path / "obsolete", tmp_path / "was not there"])
    assert contents(tmp_path) == dict.fromkeys("abcd", "new")
    assert not list(tmp_path.glob("*.part"))


def test_all_are_on_disk_before_one_has_its_name(files, tmp_path, monkeypatch):
    """They are written side by side: none waits for another one."""
    barrier, synced = threading.Barrier(len(files), timeout=60), []

    def sync(descriptor):
        barrier.wait()
        synced.append((str(Path(f"/proc/self/fd/{descriptor}").readlink()), contents(tmp_path)))

    monkeypatch.setattr(os, "fsync", sync)
    publish.publish(*files)
    assert {path for path, _ in synced} == {str(begin_partial(path)) for path in files}
    assert all(there == OLD for _, there in synced)


BEGIN = """\
import sys, threading
from pathlib import Path
from xfelmpi.io import publish
from xfelmpi.io.partial_file import begin_partial, write_new
path = Path(sys.argv[1])
write_new(begin_partial(path), b"new")
publish.begin_sync([path.with_name("is not there"), path])
for thread in threading.enumerate():
    if thread is not threading.current_thread():
        thread.join()
publish.publish(path)
"""


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_writing_to_disk_begins_before(tmp_path):
    """As the kernel sees it; what is not there is passed over."""
    strace = ["strace", "-f", "-qq", "-e", "trace=sync_file_range,fsync", "-o", tmp_path / "calls"]
    subprocess.run([*strace, sys.executable, "-c", BEGIN, tmp_path / "a"], check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    begun, synced = (line.split(maxsplit=1)[1] for line in calls if "(" in line)
    assert re.fullmatch(r"sync_file_range\(\d+, 0, 0, SYNC_FILE_RANGE_WRITE\) += 0", begun)
    assert re.fullmatch(r"fsync\(\d+\) += 0", synced)
    assert contents(tmp_path)["a"] == "new"


def test_disk_that_fails_at_the_end(files, tmp_path, monkeypatch):
    def sync(descriptor):
        if str(Path(f"/proc/self/fd/{descriptor}").readlink()) == str(begin_partial(files[2])):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(OutputError, match=r"/c: cannot be written \(Input/output error\)"):
        publish.publish(*files)
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("name", ["a", "d", "obsolete"])
def test_folder_of_that_name(name, files, tmp_path):
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name / "mine").mkdir(parents=True)
    before = {n: text for n, text in OLD.items() if n != name}
    with pytest.raises(OutputError, match=f"{name}: found a folder of that name"):
        publish.publish(*files, obsolete=[tmp_path / "obsolete"])
    (tmp_path / name / "mine").rmdir()
    (tmp_path / name).rmdir()
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, lambda path: path.symlink_to("/dev/zero")],
    ids=["pipe", "link to a device"],
)
def test_what_is_no_file_is_not_replaced(make, files, tmp_path):
    """Root could replace a device by a file."""
    make(tmp_path / "d")
    for call in (lambda: publish.publish(*files), lambda: publish.check_writable(tmp_path / "d")):
        with pytest.raises(OutputError, match="d: found something that is no file"):
            call()
    assert not (tmp_path / "d").is_file()
    (tmp_path / "d").unlink()
    assert contents(tmp_path) == OLD


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("gone", ["a", "b", "c", "d"])
def test_all_old_when_one_fails(gone, links, files, tmp_path, monkeypatch):
    """Here one is removed at the last moment; the file system may have no links."""

    def no_links(*_args, **_options):
        raise PermissionError(1, "Operation not permitted")

    def remove_one(_path):
        begin_partial(tmp_path / gone).unlink(missing_ok=True)

    if not links:
        (tmp_path / "b").write_text("old")
        (tmp_path / "d").write_text("old")
        monkeypatch.setattr(os, "link", no_links)
    before = contents(tmp_path)
    monkeypatch.setattr(publish, "check_name", remove_one)
    with pytest.raises(OutputError, match="cannot be written"):
        publish.publish(*files, obsolete=[tmp_path / "obsolete"])
    assert contents(tmp_path) == before
    assert not list(tmp_path.glob("*.old.*"))


def test_who_lost_the_lock_touches_nothing(files, tmp_path):
    """Not even to take back what it did before it noticed: the files are another job's by then."""
    calls = []

    def lost():
        calls.append(1)
        if len(calls) == 3:
            (tmp_path / "a").write_text("of the other job")
            raise LostLockError("lost")

    with partial_file.guarded_by(lost), pytest.raises(LostLockError):
        publish.publish(*files)
    assert contents(tmp_path) == OLD | {"a": "of the other job"}


def test_link_as_final_name_is_replaced(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    write_new(begin_partial(tmp_path / "a"), b"new")
    publish.publish(tmp_path / "a")
    assert not (tmp_path / "a").is_symlink()
    assert contents(tmp_path) == {"a": "new", "precious": "precious"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")
def test_files_of_others_in_a_sticky_folder(files, tmp_path, monkeypatch):
    os.chown(tmp_path / "c", 12001, -1)
    os.chown(tmp_path, 12001, -1)
    tmp_path.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: 12002)
    with pytest.raises(OutputError, match="a: cannot be replaced: it belongs to root"):
        publish.publish(*files)
    assert contents(tmp_path) == OLD
