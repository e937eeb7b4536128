"""Digests of files: what is in them counts, and each is read once."""

import hashlib
import os

from xfelmpi import mpi
from xfelmpi.core import file_digest


def test_read_once_and_again_when_changed(tmp_path, monkeypatch):
    path, other = tmp_path / "mask.h5", tmp_path / "other.h5"
    path.write_bytes(b"one")
    other.write_bytes(b"two")
    paths = [str(path), str(tmp_path / "none"), str(other), str(path)]
    expected = {paths[0]: b"one", paths[2]: b"two"}
    expected = {name: hashlib.sha256(data).hexdigest() for name, data in expected.items()}
    expected[paths[1]] = None
    assert file_digest.known_digest(paths[0]) is None
    assert mpi.digests_of(mpi.alone(), paths) == expected

    def read_again(_path):
        raise AssertionError("it was read again")

    with monkeypatch.context() as patched:
        patched.setattr(file_digest, "open_regular", read_again)
        assert mpi.digests_of(mpi.alone(), [paths[0], paths[2]])[paths[0]] == expected[paths[0]]
    about = path.stat()
    path.write_bytes(b"ONE")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert file_digest.file_digest(paths[0]) == hashlib.sha256(b"ONE").hexdigest()


def test_pipe_has_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert file_digest.file_digest(str(tmp_path / "pipe")) is None
