"""The lock of the jobs that write the same outputs: one holds it, and no dead one keeps it."""

import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic, sleep, time

import pytest
from launch import all_files, run_xfelmpi
from mockrun import tiny_run
from mpi4py import MPI

from xfelmpi.core.errors import BusyError, LostLockError, OutputError
from xfelmpi.core.job import UNKNOWN
from xfelmpi.core.shutdown import stop_plan
from xfelmpi.io import lock_file
from xfelmpi.io.partial_file import check_lock

pytestmark = pytest.mark.slow

WHAT = "run 50 is being processed"
ELSEWHERE = {"host": "elsewhere", "machine": "ab" * 6}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock" / "r0050.lock"


def held_by(path, age=0.0, **changes):
    """Make a lock as if another job did, `age` seconds ago."""
    path.parent.mkdir(exist_ok=True)
    owner = replace(lock_file._myself(), **changes)
    path.write_text(json.dumps(asdict(owner)))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return owner


def test_only_one_holds_it(path):
    token = lock_file.acquire(path, WHAT)
    with pytest.raises(BusyError, match=rf"{WHAT} by .* on .* \(process {os.getpid()}\) since "):
        lock_file.acquire(path, WHAT)
    lock_file.release(path, "another")
    assert path.exists()
    lock_file.release(path, token)
    lock_file.release(path, token)
    assert not path.parent.exists()
    lock_file.release(path, lock_file.acquire(path, WHAT))


def test_message_says_all(path, monkeypatch):
    held_by(path, 12, user="alice", host="max-exfl123", job="4711", since=1.7e9)
    with pytest.raises(BusyError) as caught:
        lock_file.acquire(path, WHAT)
    for part in ("by alice on max-exfl123 (job 4711) since 2023-11-1", "12 s ago", str(path)):
        assert part in str(caught.value)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("machine", [UNKNOWN, "ab" * 6])
def test_numbers_of_processes_elsewhere_mean_nothing(machine, path):
    """In another container, PID namespace, or boot, a number is of another process, or of none."""
    held_by(path, 12, pid=2**22 + 1, machine=machine)
    with pytest.raises(BusyError):
        lock_file.acquire(path, WHAT)


@pytest.mark.parametrize(
    ("age", "changes", "why"),
    [
        (0, {"pid": 2**22 + 1}, "is not running any more"),
        (0, {"birth": 1}, "is not running any more"),
        (0, {"user": "alice", "pid": 2**22 + 1}, "is not running any more"),
        (lock_file.STALE_AFTER + 60, ELSEWHERE, "gave no sign of life for 4 min"),
        (0, ELSEWHERE | {"job": "4711", "restart": "0"}, "was requeued"),
    ],
)
def test_stale_lock_is_taken_over(age, changes, why, path, monkeypatch, caplog):
    monkeypatch.setattr(lock_file.log, "propagate", True)
    caplog.set_level("WARNING", lock_file.log.name)  # an earlier test may have asked for less
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    held_by(path, age, **changes)
    token = lock_file.acquire(path, WHAT)
    assert json.loads(path.read_text())["token"] == token
    assert why in caplog.text
    assert "stale lock removed" in caplog.text
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("changes", [ELSEWHERE, ELSEWHERE | {"pid": 2**22 + 1}])
def test_owner_elsewhere_is_believed_to_live(changes, path):
    held_by(path, lock_file.STALE_AFTER - 30, **changes)
    with pytest.raises(BusyError):
        lock_file.acquire(path, WHAT)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 100_000, "\0", '{"user": "a"}', '{"token": "../../x"}']
)
def test_lock_that_says_nothing(text, path):
    """Its age still counts."""
    held_by(path)
    path.write_text(text)
    with pytest.raises(BusyError, match="somebody"):
        lock_file.acquire(path, WHAT)
    then = path.stat().st_mtime - lock_file.STALE_AFTER - 1
    os.utime(path, (then, then))
    lock_file.release(path, lock_file.acquire(path, WHAT))
    assert not path.exists()


def test_token_is_no_path(path):
    held_by(path, lock_file.STALE_AFTER + 1, **ELSEWHERE, token="../../../x")
    lock_file.acquire(path, WHAT)
    assert all_files(path.parents[1]) == ["lock/r0050.lock"]


def test_candidate_that_died_while_it_took_over(path, monkeypatch):
    monkeypatch.setattr(lock_file, "_ATTEMPTS", 3)
    owner = held_by(path, lock_file.STALE_AFTER + 1, **ELSEWHERE)
    marker = path.with_name(f"{path.name}.{owner.token}")
    marker.write_text("")
    with pytest.raises(BusyError):
        lock_file.acquire(path, WHAT)
    os.utime(marker, (0, 0))
    lock_file.acquire(path, WHAT)
    assert not marker.exists()


RACE = """
import sys, time
from pathlib import Path
from xfelmpi.io import lock_file
from xfelmpi.core.errors import BusyError

judge = lock_file._why_stale


def slowly(*of):
    # so that all have judged the lock before the first one takes it over
    why = judge(*of)
    time.sleep(0.1)
    return why


lock_file._why_stale = slowly
folder, number = Path(sys.argv[1]), sys.argv[2]
(folder / f"ready{number}").touch()
while not (folder / "go").exists():
    pass
for i in range(12):
    path = folder / f"{i}" / "a.lock"
    while time.time() < float((folder / "go").read_text() or "inf") + i * 0.5:
        pass
    try:
        lock_file.acquire(path, "this")
        print(i)
    except BusyError:
        pass
time.sleep(1)
"""


def test_one_of_many_candidates_wins(tmp_path):
    """Four at the same moment, a dozen times, for new locks and for stale ones."""
    for i in range(0, 12, 2):
        path = tmp_path / f"{i}" / "a.lock"
        path.parent.mkdir()
        held_by(path, lock_file.STALE_AFTER + 1, **ELSEWHERE)
    script = tmp_path / "race.py"
    script.write_text(RACE)
    command = [sys.executable, script, tmp_path]
    racers = [
        subprocess.Popen([*command, str(i)], stdout=subprocess.PIPE, text=True) for i in range(4)
    ]
    while len(list(tmp_path.glob("ready*"))) < 4:
        assert all(racer.poll() is None for racer in racers), "a racer ended before the start"
        sleep(0.01)
    begun = tmp_path / "begun"
    begun.write_text(str(time() + 0.2))
    begun.rename(tmp_path / "go")
    won = [int(line) for racer in racers for line in racer.communicate(timeout=60)[0].split()]
    assert sorted(won) == list(range(12))


def test_sign_of_life(path, monkeypatch):
    monkeypatch.setattr(lock_file, "TOUCH_EVERY", 0.01)
    with lock_file.held(MPI.COMM_SELF, path, WHAT):
        os.utime(path, (0, 0))
        end = monotonic() + 20
        while path.stat().st_mtime == 0 and monotonic() < end:
            sleep(0.01)
        assert path.stat().st_mtime > 0
        # of another job, which thought this one was dead
        path.write_text(json.dumps(asdict(replace(lock_file._myself(), token="ab"))))
        os.utime(path, (0, 0))
        sleep(0.1)
        assert path.stat().st_mtime == 0
    assert path.exists()
    assert threading.active_count() < 10


@pytest.mark.parametrize("what", ["another", "gone"])
def test_lost_lock_is_noticed(what, path):
    """As after a job was suspended for longer than others wait."""
    with lock_file.held(MPI.COMM_SELF, path, WHAT):
        check_lock()
        path.unlink()
        if what == "another":
            held_by(path, user="alice\x1b[2J", host="max-exfl123", token="ab")
        with pytest.raises(LostLockError, match="this job lost it") as caught:
            check_lock()
        assert ("alice\\x1b[2J on max-exfl123" in str(caught.value)) == (what == "another")
    assert path.exists() == (what == "another")
    check_lock()


@pytest.mark.parametrize("lost", ["r0050", "r0051"])
def test_each_of_several_locks_is_looked_at(lost, path):
    """As of a command that changes the outputs of several runs together."""
    other = path.with_name("r0051.lock")
    with lock_file.held(MPI.COMM_SELF, path, WHAT):
        with lock_file.held(MPI.COMM_SELF, other, WHAT):
            check_lock()
            assert len(stop_plan.releases) == 2
            held_by(path.with_name(f"{lost}.lock"), token="ab")
            with pytest.raises(LostLockError, match=lost):
                check_lock()
        if lost == "r0051":
            check_lock()
    assert [p.name for p in path.parent.iterdir()] == [f"{lost}.lock"]
    assert not stop_plan.releases


def test_lock_from_the_future_of_nobody(path, monkeypatch, caplog):
    monkeypatch.setattr(lock_file.log, "propagate", True)
    monkeypatch.setattr(lock_file, "TOUCH_EVERY", 0.01)
    held_by(path, -1e8, **ELSEWHERE)
    lock_file.release(path, lock_file.acquire(path, WHAT))
    assert "dated into the future" in caplog.text


def test_lock_from_the_future_of_a_live_job(path, monkeypatch):
    monkeypatch.setattr(lock_file, "TOUCH_EVERY", 0.01)
    held_by(path, -1e8, **ELSEWHERE)
    monkeypatch.setattr(lock_file, "sleep", lambda _seconds: os.utime(path))
    with pytest.raises(BusyError, match=r"by .* on elsewhere"):
        lock_file.acquire(path, WHAT)


@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_what_is_no_file_is_no_lock(kind, path, tmp_path):
    path.parent.mkdir()
    make = {
        "link": lambda: path.symlink_to(tmp_path / "made"),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[kind]()
    with pytest.raises((BusyError, OutputError), match=path.name):
        lock_file.acquire(path, WHAT)
    assert not (tmp_path / "made").exists()


def test_released_after_a_failure(path):
    with pytest.raises(KeyError), lock_file.held(MPI.COMM_SELF, path, WHAT):
        raise KeyError("x")
    assert not path.exists()


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "lock").write_text("")
    with pytest.raises(OutputError, match=r"cannot be written \(.*/lock is not a folder\)"):
        lock_file.acquire(tmp_path / "lock" / "a.lock", WHAT)


def test_folder_in_which_nothing_can_be_made(monkeypatch):
    """There it is, and yet the system says that it is not: no other job is to blame."""
    monkeypatch.setattr(lock_file, "sleep", lambda _seconds: None)
    told = r"^/proc/x\.lock: cannot be written \(No such file or directory\)$"
    with pytest.raises(OutputError, match=told):
        lock_file.acquire(Path("/proc/x.lock"), WHAT)


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("lock") / "p007927", trains=1, cells=(0,))


@pytest.mark.parametrize(
    ("ranks", "name", "args"),
    [
        (0, "r0050.lock", ["50"]),
        (3, "r0050.lock", ["50", "--from-events", "--sigma", "4"]),
        (0, "r0050.lock", ["vds", "50"]),
        (3, "r0050_mask.lock", ["mask", "50"]),
        (0, "merged_r0050-r0050.lock", ["merge", "50"]),
    ],
)
def test_commands_wait_for_nobody(ranks, name, args, mock, tmp_path):
    """They end at once and write nothing while another job holds the lock."""
    where = ["--prefix", mock.options.prefix, "--output", tmp_path]
    assert run_xfelmpi([50, *where, "--no-report"]).returncode == 0
    held_by(tmp_path / "lock" / name, 5, user="alice", host="max-exfl123", job="4711")
    before = all_files(tmp_path)
    done = run_xfelmpi([*args, *where], ranks)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("by alice on max-exfl123 (job 4711) since ") == 1
    assert "Traceback" not in done.stderr
    assert all_files(tmp_path) == before


@pytest.mark.parametrize("ranks", [0, 2])
@pytest.mark.parametrize(
    "args",
    [
        ["50"],
        ["50", "--from-events"],
        *([name, "50"] for name in ("vds", "mask", "merge", "darks")),
    ],
    ids=" ".join,
)
def test_experiment_folder_that_is_not_there(args, ranks, tmp_path):
    """A mistyped name is said, and makes no folders for locks."""
    done = run_xfelmpi([*args, "--prefix", tmp_path / "mistyped"], ranks)
    assert done.returncode == 2, done.stderr
    assert re.search(r"no such (run|file)", done.stderr), done.stderr
    assert str(tmp_path / "mistyped") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_constants_are_locked(tmp_path):
    held_by(tmp_path / "darks.lock", host="max-exfl123")
    done = run_xfelmpi(["darks", 10, "--prefix", tmp_path, "--out", tmp_path], 2)
    assert done.returncode == 2
    assert f"constants in {tmp_path} are being made by" in done.stderr
