"""``xfelmpi watch``: runs that arrive, and what is made of them.

The jobs are those of `quick_project`, but for one test; those of Slurm are in tests/cluster.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from arrivingruns import arrive, calls, quick_project
from launch import call_xfelmpi, limit, run_xfelmpi

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from watch_calls import count_calls, make_runs

from xfelmpi.core.errors import EXIT_NOT_STARTED, InputError, OutputError, UsageError
from xfelmpi.core.paths import WatchFiles
from xfelmpi.output.watch_state import (
    DONE,
    FAILED,
    SKIPPED,
    WAITING,
    WatchedRun,
    WatchState,
    read_state,
    write_state,
)
from xfelmpi.workflows.watch.changed import CALLS_A_MINUTE as CHECKS_A_MINUTE
from xfelmpi.workflows.watch.looks import CALLS_A_MINUTE, FILES_A_MINUTE, LookOptions
from xfelmpi.workflows.watch.loop import Watcher, ask_again
from xfelmpi.workflows.watch.nodes import MOST_NODES, nodes_for
from xfelmpi.workflows.watch.queues import LocalQueue, Result, read_result
from xfelmpi.workflows.watch.rules import read_rules
from xfelmpi.workflows.watch.table import status_table

pytestmark = pytest.mark.job


@pytest.fixture
def project(tmp_path):
    return quick_project(tmp_path / "project")


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


class Watch:
    """A watcher in this process, with a clock of its own."""

    def __init__(self, prefix, project, **options):
        self.prefix, self.project, self.clock = prefix, project, Clock()
        self.files = WatchFiles(prefix / "scratch")
        self.files.lock.parent.mkdir(parents=True, exist_ok=True)
        self.files.lock.touch()
        chosen = {"tries": options.pop("tries", 3), "wanted": options.pop("wanted", None)}
        queue = LocalQueue(self.files, project / "jobs" / "process_run.sh", options.pop("most", 5))
        look = LookOptions(prefix, prefix / "scratch", every=10.0, **options)
        self.watcher = Watcher(look, queue, self.files, clock=self.clock, **chosen)

    def look(self, seconds=60.0):
        """Let time pass, look, and return state and text of all runs."""
        self.clock.now += seconds
        self.watcher.poll()
        return {n: (r.state, r.about) for n, r in read_state(self.files.state).runs.items()}

    def finish(self):
        """Look a few times, wait for the jobs, and return the states of the runs."""
        for _ in range(3):
            found = self.look()
        end = time.monotonic() + limit()
        while self.watcher.state.active:
            assert time.monotonic() < end, self.watcher.state
            time.sleep(0.05)
            found = self.look(0.0)
        return {n: state for n, (state, _) in found.items()}


def put(arriving, prefix, run=50, kinds=("raw", "proc")):
    """Have a run arrive as a whole, under another number if need be."""
    folder, files = arriving
    for path in files:
        if path.parts[0] in kinds:
            new = prefix / str(path).replace("r0050", f"r{run:04}").replace("R0050", f"R{run:04}")
            new.parent.mkdir(parents=True, exist_ok=True)
            if run == 50:
                os.link(folder / path, new)
                continue
            shutil.copyfile(folder / path, new)
            with h5py.File(new, "r+") as file:
                file["METADATA/runNumber"][...] = run


def test_run_that_arrives_in_pieces(arriving, tmp_path, project):
    """It is told what it waits for, and processed once, when the last piece is there."""
    folder, files = arriving
    watch = Watch(tmp_path, project, options=("--sigma", "5"))
    said = []
    detector = [p for p in files if "AGIPD" in p.name]
    for n in range(0, len(detector), 7):
        found = watch.look().get(50)
        said.append(found and found[1])
        assert found is None or found[0] == WAITING
        arrive(folder, tmp_path, detector[n : n + 7])
    for kind in ("raw run: ", ""):
        text = rf"{kind}waiting for \d+ modules? of sequence \d"
        assert any(re.match(text, about or "") for about in said), said
    assert watch.finish() == {50: DONE}
    for _ in range(3):
        watch.look(7200)
    (call,) = calls(project)[50]
    assert call.endswith("--sigma 5"), call
    assert f"--prefix {tmp_path} --output {tmp_path}/scratch" in call


def test_files_must_be_at_rest(arriving, tmp_path, project):
    put(arriving, tmp_path)
    watch = Watch(tmp_path, project, settle=30.0)
    assert watch.look(0.0)[50] == (WAITING, "waiting for its files to stop changing")
    growing = tmp_path / "proc/r0050/CORR-R0050-AGIPD03-S00001.h5"
    data = growing.read_bytes()
    growing.unlink()
    growing.write_bytes(data[:3000])
    assert watch.look(40.0)[50][0] == WAITING
    growing.write_bytes(data)
    assert watch.look(20.0)[50][0] == WAITING
    watch.look(40.0)
    watch.look(40.0)
    assert watch.finish() == {50: DONE}


def test_file_that_never_gets_whole_is_processed_in_the_end(arriving, tmp_path, project):
    put(arriving, tmp_path)
    broken = tmp_path / "proc/r0050/CORR-R0050-AGIPD03-S00001.h5"
    broken.unlink()
    broken.write_bytes(b"nothing")
    watch = Watch(tmp_path, project, patience=1800.0)
    watch.look()
    watch.look()
    assert "CORR-R0050-AGIPD03-S00001.h5, which cannot be read" in watch.look()[50][1]
    watch.look(1900)
    assert watch.finish() == {50: DONE}


def test_correction_that_does_not_come(arriving, tmp_path, project):
    """The raw run is processed after a while, and the corrected one when it is there."""
    put(arriving, tmp_path, kinds=("raw",))
    watch = Watch(tmp_path, project, raw_after=1200.0)
    watch.look()
    assert watch.look()[50] == (WAITING, "waiting for correction")
    watch.look(1300)
    watch.finish()
    state, about = watch.look()[50]
    assert (state, about) == (WAITING, "raw data complete; waiting for correction")
    watch.look(7200)
    shutil.rmtree(tmp_path / "proc", ignore_errors=True)
    put(arriving, tmp_path, kinds=("proc",))
    watch.look(7200)
    assert watch.finish() == {50: DONE}
    assert [c.split()[-2:] for c in calls(project)[50]] == [
        ["--data", "raw"],
        ["--output", f"{tmp_path}/scratch"],
    ]


RULES = """
[options]
sigma = 5

[[rule]]
runs = "52-54"
darks = 3

[[rule]]
sample = "WATER*"
skip = true

[[rule]]
type = "simul*"
runs = "50"
options = { sigma = 6, exclude-cells = "0", with-misses = true, hit-modules = [3, 4] }
"""


def test_rules(arriving, tmp_path, project):
    for run in (50, 51, 52, 53, 54, 55):
        kinds = ("raw",) if run in (52, 53, 54) else ("raw", "proc")
        put(arriving, tmp_path, run, kinds)
    for path in (tmp_path / "proc" / "r0051").glob("*AGIPD*"):
        with h5py.File(path, "r+") as file:
            file["METADATA/sample"][...] = b"Water jet"
    (tmp_path / "watch.toml").write_text(RULES)
    rules = read_rules(tmp_path / "watch.toml")
    watch = Watch(
        tmp_path, project, rules=rules, options=("--miss-base", "hits"), wanted=tuple(range(50, 55))
    )
    for _ in range(3):
        watch.look()
    assert watch.finish() == {50: DONE, 51: SKIPPED, 52: SKIPPED, 53: SKIPPED, 54: DONE}
    done = calls_of(project)
    assert set(done) == {"50", "darks"}
    words = "--sigma 5 --sigma 6 --exclude-cells 0 --with-misses --hit-modules 3 4 --miss-base hits"
    assert done["50"][0].endswith(words)
    out = tmp_path / "scratch" / "det" / "constants"
    assert done["darks"] == [f"darks 52 53 54 --prefix {tmp_path} --out {out}"]


def calls_of(project):
    return {p.name: p.read_text().splitlines() for p in (project / "calls").iterdir()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rule = 3", "expected tables"),
        ("[[rule]]\nsigma = 5", "rule 1: unknown sigma"),
        ("[[rule]]\nruns = 'some'", "names no runs"),
        ("[[rule]]\nskip = 1", "expected true or false"),
        ("[[rule]]\ndarks = 4", "from 1 to 3"),
        ("[[rule]]\nsample = 3", "expected a text"),
        ("[options]\nsigma = { a = 1 }", "wrong form"),
        ("[options]\n'--sigma' = 5", "is not an option"),
        ("options = 5", "expected a table"),
        ("[[", "watch.toml"),
    ],
)
def test_rules_that_are_wrong(tmp_path, text, message):
    path = tmp_path / "watch.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as error:
        read_rules(path)
    assert str(path) in str(error.value)


def test_request_that_is_a_link_is_not_followed(tmp_path):
    files = WatchFiles(tmp_path / "scratch")
    files.requests.mkdir(parents=True)
    (files.requests / "r0050").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="r0050: cannot be written"):
        ask_again(files, [50])
    assert not (tmp_path / "elsewhere").exists()


def failed(arriving, tmp_path, project):
    """Return a watch whose run 50 has failed."""
    put(arriving, tmp_path)
    (project / ".venv/bin/status").write_text("2")
    watch = Watch(tmp_path, project)
    watch.look()
    watch.look()
    assert watch.finish() == {50: FAILED}
    return watch


def test_failed_run_is_tried_again_only_when_asked(arriving, tmp_path, project):
    watch = failed(arriving, tmp_path, project)
    watch.look(7200)
    assert len(calls(project)[50]) == 1
    (project / ".venv/bin/status").write_text("3")
    ask_again(watch.files, [50])
    watch.look()
    assert watch.finish() == {50: DONE}
    watch.look(7200)
    assert len(calls(project)[50]) == 2
    assert watch.look()[50][1] == "complete, with problems (status 3)"


def test_stopped_job_is_continued_up_to_a_limit(arriving, tmp_path, project):
    put(arriving, tmp_path)
    (project / ".venv/bin/status").write_text("143")
    watch = Watch(tmp_path, project, tries=3)
    watch.look()
    watch.look()
    assert watch.finish() == {50: FAILED}
    assert [c.endswith("--resume") for c in calls(project)[50]] == [False, True, True]
    assert "after 3 tries; xfelmpi watch --again 50" in watch.look()[50][1]


def test_job_whose_ranks_slurm_did_not_start(arriving, tmp_path, project):
    """Nothing of the run is wrong: it has another job."""
    put(arriving, tmp_path)
    (project / ".venv/bin/status").write_text(str(EXIT_NOT_STARTED))
    watch = Watch(tmp_path, project, tries=2)
    watch.look()
    watch.look()
    assert watch.finish() == {50: FAILED}
    assert len(calls(project)[50]) == 2
    assert "Slurm did not start its ranks (status 75), after 2 tries" in watch.look()[50][1]


def test_runs_with_outputs_are_not_processed_again(arriving, tmp_path, project):
    put(arriving, tmp_path)
    (tmp_path / "scratch" / "events").mkdir(parents=True)
    (tmp_path / "scratch" / "events" / "r0050_events.h5").touch()
    watch = Watch(tmp_path, project)
    assert watch.look()[50] == (DONE, "had been processed before")


def test_run_with_outputs_of_old(arriving, tmp_path, project):
    """Nobody knows of which files they were made: nothing is said of these."""
    put(arriving, tmp_path)
    (tmp_path / "scratch" / "events").mkdir(parents=True)
    (tmp_path / "scratch" / "events" / "r0050_events.h5").touch()
    watch = Watch(tmp_path, project)
    watch.look()
    transfer_again(tmp_path / "proc/r0050")
    assert [watch.look(4000)[50] for _ in range(3)] == 3 * [(DONE, "had been processed before")]


def processed(arriving, prefix, project, **options):
    """Return who has watched while a run was processed."""
    put(arriving, prefix)
    for path in sorted((prefix / "proc/r0050").iterdir()):
        # no hard links: those of the source stay as they are
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    watch = Watch(prefix, project, **options)
    for _ in range(3):
        watch.look(2000)
    assert watch.finish() == {50: DONE}
    return watch


def transfer_again(folder, pattern="*.h5", change=lambda data: data, seconds=100.0):
    """Write files again, in place, with a later time."""
    for path in sorted(folder.glob(pattern)):
        later = path.stat().st_mtime + seconds
        path.write_bytes(change(path.read_bytes()))
        os.utime(path, (later, later))


AGAIN = "; its files have changed since then: xfelmpi watch --again 50 processes it again"


@pytest.mark.parametrize("pattern", ["*.h5", "*AGIPD03-S00000.h5"])
def test_finished_run_that_is_transferred_again(arriving, tmp_path, project, caplog, pattern):
    """Its outputs may have been patched since: somebody has to say that it is processed again."""
    caplog.set_level("INFO", "xfelmpi")
    watch = processed(arriving, tmp_path, project)
    assert watch.look(700)[50] == (DONE, "complete")
    transfer_again(tmp_path / "proc/r0050", pattern)
    watch.look(700)
    assert watch.look(700)[50] == (DONE, f"complete{AGAIN}")
    assert f"run 50: complete{AGAIN}" in caplog.messages
    assert status_table(watch.files)[1].endswith(AGAIN)
    for _ in range(3):
        watch.look(4000)
    assert len(calls(project)[50]) == 1
    assert sum(AGAIN in line for line in caplog.messages) == 1
    ask_again(watch.files, [50])
    watch.look()
    assert watch.finish() == {50: DONE}
    assert len(calls(project)[50]) == 2
    assert [watch.look(4000)[50] for _ in range(3)] == 3 * [(DONE, "complete")]


def test_finished_run_whose_contents_alone_have_changed(arriving, tmp_path, project):
    watch = processed(arriving, tmp_path, project)
    transfer_again(tmp_path / "proc/r0050", "*AGIPD00-S00001.h5", lambda data: data[::-1], 1e-3)
    watch.look(700)
    assert watch.look(700)[50][1].endswith(AGAIN)


def test_failed_run_that_is_transferred_again(arriving, tmp_path, project):
    watch = failed(arriving, tmp_path, project)
    late = tmp_path / "proc/r0050/CORR-R0050-REDU00-S00000.h5"
    late.write_bytes(b"late")
    watch.look(700)
    state, about = watch.look(700)[50]
    assert state == FAILED
    assert about.startswith("failed, status 2")
    assert about.endswith(AGAIN)


def test_finished_run_that_is_being_transferred(arriving, tmp_path, project):
    """It is said when the files are at rest."""
    watch = processed(arriving, tmp_path, project, settle=1000.0)
    for n in range(5):
        transfer_again(tmp_path / "proc/r0050", "*AGIPD00-*.h5")
        assert watch.look(700)[50] == (DONE, "complete"), n
    watch.look(1100)
    assert watch.look(1100)[50][1].endswith(AGAIN)


def touch_access_time(folder):
    for path in folder.iterdir():
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def read_and_write_beside(folder):
    for path in folder.iterdir():
        path.read_bytes()
    (folder / "r0050_events.h5").write_bytes(b"an output, if that is where somebody wants them")


def copy_as_it_was(folder):
    for path in list(folder.iterdir()):
        shutil.copy2(path, path.with_suffix(".new"))
        path.with_suffix(".new").rename(path)


def go_to_tape(folder):
    for path in sorted(folder.iterdir())[::3]:
        path.unlink()


@pytest.mark.parametrize(
    "what", [touch_access_time, read_and_write_beside, copy_as_it_was, go_to_tape, shutil.rmtree]
)
def test_finished_run_whose_files_are_the_same(arriving, tmp_path, project, what):
    watch = processed(arriving, tmp_path, project)
    what(tmp_path / "proc/r0050")
    for _ in range(4):
        assert watch.look(3000)[50] == (DONE, "complete")


def test_state_of_an_earlier_version(arriving, tmp_path, project):
    """It does not say which files a run had."""
    watch = processed(arriving, tmp_path, project)
    state = json.loads(watch.files.state.read_text())
    for run in state["runs"]:
        del run["inputs"]
    watch.files.state.write_text(json.dumps(state))
    watch = Watch(tmp_path, project)
    transfer_again(tmp_path / "proc/r0050")
    for _ in range(3):
        assert watch.look(3000)[50] == (DONE, "complete")


def test_finished_runs_are_looked_at_gently(tmp_path, project):
    """A thousand runs with 17 files each; the first minutes have what was saved up before."""
    make_runs(tmp_path, 1000, "lack files", modules=16)
    state = WatchState({n: WatchedRun(n, DONE, "complete", inputs="17 x", done_kind="raw")
                        for n in range(1, 1001)})  # fmt: skip
    watch = Watch(tmp_path, project)
    watch.files.folder.mkdir(parents=True)
    write_state(watch.files.state, state)
    watch = Watch(tmp_path, project)
    looked = []
    for _ in range(30):
        watch.look(20.0)
        looked.append(len(watch.watcher._changed._next))
    calls = CHECKS_A_MINUTE * (1 + 29 / 3)
    assert 0 < looked[0] <= CHECKS_A_MINUTE // 21 + 1
    assert 0.9 * calls <= 21 * looked[-1] <= 1.1 * calls


def test_table_of_all_runs(arriving, tmp_path, project):
    put(arriving, tmp_path)
    watch = Watch(tmp_path, project)
    watch.look()
    lines = status_table(watch.files)
    assert re.match(r"   50  (waiting|submitted) ", lines[1])
    assert lines[-1] == f"1 {read_state(watch.files.state).runs[50].state}; " + (
        f"{watch.files.output}: is being watched"
    )
    assert status_table(WatchFiles(tmp_path / "elsewhere"))[-1].startswith("no run was seen yet")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-20],
        lambda text: "[]",
        lambda text: text.replace('"schema": 1', '"schema": 7'),
        lambda text: text.replace('"waiting"', '"lost"').replace('"submitted"', '"lost"'),
        lambda text: text.replace('"run": 50', '"run": "50"'),
        lambda text: text.replace('"stamp": [', '"stamp": null, "x": ['),
    ],
)
def test_damaged_state_is_refused(arriving, tmp_path, project, change):
    put(arriving, tmp_path)
    watch = Watch(tmp_path, project)
    watch.look()
    watch.files.state.write_text(change(watch.files.state.read_text()))
    with pytest.raises(InputError, match="remove it to start again"):
        read_state(watch.files.state)


def test_state_is_kept_as_it_is(arriving, tmp_path, project):
    put(arriving, tmp_path)
    watch = Watch(tmp_path, project)
    watch.look()
    state = read_state(watch.files.state)
    write_state(watch.files.state, state)
    assert read_state(watch.files.state) == state == watch.watcher.state


START = """
import signal, sys
# what a shell starts in the background ignores it
signal.signal(signal.SIGINT, signal.SIG_DFL)
# as the program does itself before it imports anything that may start threads
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
from xfelmpi.workflows.watch import jobs, loop
jobs.LOST_AFTER = 1.5
loop.CALLS_A_MINUTE = loop.FILES_A_MINUTE = 1e6
from xfelmpi.__main__ import main
sys.exit(main())
"""
"""The program, but for its patience with jobs that may have been submitted, and with the disk."""


def start_watch(prefix, project, *options):
    environment = {**os.environ, "XFELMPI_ROOT": str(project)}
    command = [sys.executable, "-c", START, "watch", "--prefix", prefix, "--local", *options]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def test_killed_at_any_moment_it_loses_and_doubles_nothing(arriving, tmp_path):
    """20 times, while runs arrive; then it is left alone."""
    project = quick_project(tmp_path / "project", seconds=0.1)
    prefix = tmp_path / "p007927"
    chance = random.Random(5)
    options = ("--settle", "0.1s", "--every", "0.1s", "--jobs", "2")
    for n in range(20):
        if n % 2 == 0:
            put(arriving, prefix, 60 + n // 2)
        watch = start_watch(prefix, project, *options)
        time.sleep(chance.uniform(0.05, 0.9))
        watch.kill()
        watch.communicate()
        for job in calls(project).values():
            assert len(job) == 1
    last = start_watch(prefix, project, "--once", *options)
    said = last.communicate(timeout=limit(20))[0]
    assert last.returncode == 0, said
    state = read_state(WatchFiles(prefix / "scratch").state)
    assert {n: r.state for n, r in state.runs.items()} == dict.fromkeys(range(60, 70), DONE), said
    assert {n: len(c) for n, c in calls(project).items()} == dict.fromkeys(range(60, 70), 1), said
    assert not list((prefix / "scratch").rglob("*.part"))


@pytest.mark.parametrize(("name", "status"), [("TERM", 143), ("HUP", 129), ("USR1", 138)])
def test_script_that_is_stopped_before_the_program_runs(project, tmp_path, name, status):
    """A job that is cancelled while its script begins has not done the run."""
    with open(project / "jobs" / "common.sh", "a") as file:
        file.write(f"load_site() {{ kill -{name} $$; sleep 0.1; }}\n")
    result = tmp_path / "result"
    # of a parent that ignores one of them, such as nohup, a shell could not take it
    command = ["env", "--default-signal", "bash", project / "jobs" / "process_run.sh", "50"]
    environment = {**os.environ, "XFELMPI_RESULT": str(result), "XFELMPI_ROOT": str(project)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert read_result(result).status == status


def test_logs_and_results_that_are_no_files(tmp_path, project):
    files = WatchFiles(tmp_path)
    for path in (files.log("r0050-1"), files.result("r0050-1")):
        path.parent.mkdir(parents=True)
    (tmp_path / "precious").write_text("precious")
    files.log("r0050-1").symlink_to(tmp_path / "precious")
    queue = LocalQueue(files, project / "jobs" / "process_run.sh")
    with pytest.raises(OutputError, match=r"r0050-1\.log: .*not a regular file"):
        queue.submit("r0050-1", ["50"], [])
    assert (tmp_path / "precious").read_text() == "precious"
    os.mkfifo(files.result("r0050-1"))
    assert read_result(files.result("r0050-1")) == Result()


def test_second_watch_of_the_folder_refuses(arriving, tmp_path, project):
    put(arriving, tmp_path)
    first = start_watch(tmp_path, project, "--every", "0.1s")
    try:
        lock = tmp_path / "scratch" / "lock" / "watch.lock"
        end = time.monotonic() + limit()
        while not lock.exists() and time.monotonic() < end:
            time.sleep(0.02)
        second = start_watch(tmp_path, project, "--once")
        said = second.communicate(timeout=limit())[0]
        assert second.returncode == 2
        assert "is being watched by" in said
    finally:
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=limit())[0]
    assert first.returncode == 130, said
    assert "its jobs go on" in said
    assert not lock.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--", "--sigma", "many"], "--sigma"),
        (["--", "--sigma", "nan"], "sigma"),
        (["--", "--prefix", "elsewhere"], "not an option for the jobs"),
        (["--raw-after", "soon"], "is not a time"),
        (["--runs", "x"], "names no runs"),
        (["--rules", "absent.toml"], "absent.toml"),
        (["--again", "77"], "no run 77"),
        (["--tries", "0"], "from 1 on"),
        (["--nodes", "many"], "not a number of nodes"),
    ],
)
def test_what_is_refused_at_once(tmp_path, arguments, message):
    done = call_xfelmpi(["watch", "--prefix", tmp_path, "--local", "--once", *arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "scratch").exists()


def test_real_job_of_a_real_run(arriving, tmp_path):
    """Once: the run is processed, by the batch script, on this machine."""
    put(arriving, tmp_path)
    options = ("--local", "--once", "--settle", "0.2s", "--every", "0.2s")
    done = run_xfelmpi(
        ["watch", "--prefix", tmp_path, *options, "--", "--sigma", "5"],
        seconds=limit(60),
        RANKS="1",
        XFELMPI_ROOT=str(Path(__file__).parents[2]),
    )
    log = tmp_path / "scratch" / "log" / "r0050-1.log"
    assert done.returncode == 0, (
        done.stdout + done.stderr + (log.read_text() if log.exists() else "")
    )
    assert log.read_text().splitlines()[-1] == "xfelmpi 50 done, status 0"
    with h5py.File(tmp_path / "scratch" / "events" / "r0050_events.h5") as file:
        assert json.loads(file.attrs["configuration"])["sigma"] == 5
    assert "run 50: complete" in done.stdout


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.parametrize(
    ("state", "most"),
    [
        ("lack files", 1.1 * CALLS_A_MINUTE),
        ("have files that cannot be read", 1.1 * (CALLS_A_MINUTE + FILES_A_MINUTE)),
        ("are done", 20),
    ],
)
def test_thousand_runs_are_looked_at_gently(tmp_path, state, most):
    """Calls of the file system that name the runs, as the kernel sees them; by a clock of its own.

    What may be spent in a minute is there at the start.
    """
    minutes = 2
    make_runs(tmp_path, 1000, state, modules=16 if state.startswith("have") else 2)
    calls = len(count_calls(tmp_path, minutes))
    assert calls <= most * (minutes + 1)
    runs = read_state(WatchFiles(tmp_path / "scratch").state).runs
    assert len(runs) == 1000
    looked = sum(bool(run.about) for run in runs.values() if run.state == WAITING)
    assert looked >= (0 if state == "are done" else 30 * minutes)


@pytest.mark.parametrize(
    ("n_bytes", "nodes"), [(0, 1), (15e9, 1), (400e9, 1), (1e12, 4), (4.2e12, MOST_NODES)]
)
def test_nodes_by_the_size_of_a_run(n_bytes, nodes):
    assert nodes_for(int(n_bytes)) == nodes


def test_polls_leave_calls_for_looks(arriving, tmp_path, project):
    """Who polls far more often than file system calls come in looks at new runs all the same."""
    watch = Watch(tmp_path, project)
    for _ in range(400):
        watch.look(0.05)
    put(arriving, tmp_path)
    for _ in range(2000):
        if (found := watch.look(0.05)) and found[50][0] != WAITING:
            break
    else:
        pytest.fail(f"never looked at: {found}")
    assert watch.finish() == {50: DONE}


def test_clock_that_is_set_back(arriving, tmp_path, project):
    """A run that waits is not forgotten until it is that late again."""
    watch = Watch(tmp_path, project)
    watch.clock.now += 3 * 86400
    put(arriving, tmp_path, kinds=("raw",))
    for _ in range(3):
        assert watch.look()[50][0] == WAITING
    watch.clock.now = time.time()
    put(arriving, tmp_path, kinds=("proc",))
    assert watch.finish() == {50: DONE}
