"""A folder that colleagues share (mode 2775, umask 022): what one leaves keeps nobody out."""

# what `publish` imports late: a colleague may not read a Python that is in root's own folder
import concurrent.futures.thread  # noqa: F401
import os
import traceback
from pathlib import Path

import numpy as np
import pytest

from xfelmpi.core.errors import OutputError
from xfelmpi.core.paths import Experiment
from xfelmpi.io import partial_file
from xfelmpi.io.checkpoint_file import open_checkpoint, write_checkpoint
from xfelmpi.io.lock_file import acquire, release
from xfelmpi.io.output_file import make_folder
from xfelmpi.io.publish import check_writable, publish
from xfelmpi.reduction.checkpoint import discard_checkpoint

GROUP, COLLEAGUE, SELF = 12000, 12001, 12002
LOST = "0123456789ab-1-1-01234567"
"""The id of a job of another machine."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


def as_user(user, folder, work):
    """Do something as a user of the group, in a folder that may lie in one of root's own."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.chdir(folder)
            os.umask(0o022)
            os.setgroups([GROUP])
            os.setegid(GROUP)
            os.seteuid(user)
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    os.chown(folder, 0, GROUP)
    folder.chmod(0o2775)
    tmp_path.chmod(0o755)
    return tmp_path


def experiment():
    return Experiment(Path(), Path("scratch"), 50)


def leave(files=("events", "cxi")):
    """Leave what a killed job leaves: a lock, unfinished files, a checkpoint."""
    here = experiment()
    acquire(here.lock, "run 50 is being processed")
    os.utime(here.lock, (1, 1))
    text = here.lock.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999')
    here.lock.write_text(text)
    for name in files:
        path = getattr(here, name)
        make_folder(path.parent)
        path.with_name(f"{path.name}.{LOST}.part").write_text("half")
        path.with_name(f"{path.name}.part").write_text("half, of version 0.1")
        path.write_text("old")
        path.chmod(0o644)
    write_checkpoint(here.checkpoint / "a.checkpoint", {}, {"x": np.arange(3)})


def test_leftovers_of_a_colleague(shared):
    """The next job takes the lock, writes its files and its checkpoint, and removes the rest."""

    def work():
        here = experiment()
        token = acquire(here.lock, "run 50 is being processed")
        discard_checkpoint(here.checkpoint, "of an earlier job is not used")
        for path in (here.events, here.cxi):
            check_writable(path)
            partial_file.write_new(partial_file.begin_partial(path), b"new")
        write_checkpoint(here.checkpoint / "b.checkpoint", {}, {"x": np.arange(3)})
        publish(here.events, here.cxi)
        release(here.lock, token)
        assert here.events.read_bytes() == here.cxi.read_bytes() == b"new"
        assert open_checkpoint(here.checkpoint / "b.checkpoint").array("x").tolist() == [0, 1, 2]
        left = [p.name for p in here.output.rglob("*") if p.name.endswith((".part", ".lock"))]
        assert not left, left
        assert not (here.checkpoint / "a.checkpoint").exists()

    as_user(COLLEAGUE, shared, leave)
    as_user(SELF, shared, work)


def test_folder_that_a_colleague_keeps_to_himself(shared):
    """The message names the owner and the folder; a checkpoint there is only a warning."""

    def closed():
        leave()
        for folder in ("events", "checkpoint/r0050"):
            (experiment().output / folder).chmod(0o755)

    def work():
        here = experiment()
        discard_checkpoint(here.checkpoint)
        with pytest.raises(OutputError, match=r"scratch/events: cannot be written .*12001"):
            check_writable(here.events)

    as_user(COLLEAGUE, shared, closed)
    as_user(SELF, shared, work)
