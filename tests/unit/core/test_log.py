"""What a person sees: the bar on a terminal, lines in a log, the summary at the end."""

import io
import logging
import re

import pytest

from xfelmpi.core import job_context, progress
from xfelmpi.core.job_context import Stages
from xfelmpi.core.log import date_text, has_colours, log, size_text, start_logging
from xfelmpi.core.problems import Problem
from xfelmpi.core.progress import Progress
from xfelmpi.workflows.summary import Summary


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that stands still until it is set."""
    now = [1000.0]
    for module in (progress, job_context):
        monkeypatch.setattr(module, "monotonic", lambda: now[0])

    def set_to(seconds):
        now[0] = 1000.0 + seconds

    return set_to


@pytest.fixture
def logger():
    """Give the package's logger back as it was."""
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    yield log
    log.handlers[:], log.level, log.propagate = handlers, level, propagate


# progress


def test_bar_on_a_terminal(clock):
    """One line that is drawn over again, and gone at the end."""
    screen = Terminal()
    progress = Progress(2000, screen)
    clock(2)
    progress.show((500, 17))
    clock(4)
    progress.show((2000, 1234))
    first, second = screen.getvalue().split("\r")[1:]
    expected = "reading: 500 of 2,000 frames, 250 frames/s, 17 hits so far, 0:06 left"
    assert first == f"[{'#' * 7}{'.' * 23}] {expected}\x1b[K"
    assert second.startswith(
        f"[{'#' * 30}] reading: 2,000 of 2,000 frames, 500 frames/s, 1,234 hits"
    )
    assert "0:00 left" in second
    assert "\n" not in screen.getvalue()
    progress.close()
    assert screen.getvalue().endswith("\r\x1b[K")


def test_lines_in_a_log(clock):
    """No control characters, one line at most every 15 seconds."""
    file = io.StringIO()
    progress = Progress(10_000, file)
    for second in range(0, 61):
        clock(second)
        progress.show((100 * second, second))
    progress.close()
    lines = file.getvalue().splitlines()
    assert [line.split(" of ")[0] for line in lines] == [
        f"reading: {n}" for n in ("1,500", "3,000", "4,500", "6,000")
    ]
    assert lines[0] == "reading: 1,500 of 10,000 frames, 100 frames/s, 15 hits so far, 1:25 left"
    assert not re.search(r"[\r\x1b]", file.getvalue())
    assert file.getvalue().endswith("\n")


def test_every_message_is_seen_at_once(clock):
    """Buffered streams are flushed: a log is read while the job runs."""

    class Buffered(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    for stream in (Buffered(), type("Tty", (Buffered,), {"isatty": lambda self: True})()):
        clock(0)
        progress = Progress(10, stream)
        clock(20)
        progress.show((5, 0))
        assert "5 of 10 frames" in stream.flushed


@pytest.mark.parametrize(
    ("done", "seconds", "left"),
    [
        (0, 5, "unknown time"),
        (1, 0, "0:00"),
        (100, 10, "1:30"),
        (500, 0.1, "0:00"),
        (10, 100, "2:45:00"),
        (1, 3600, "999:00:00"),
        (999, 59_940, "1:00"),
        (1000, 10, "0:00"),
    ],
)
def test_time_left(clock, done, seconds, left):
    screen = Terminal()
    progress = Progress(1000, screen)
    clock(seconds)
    progress.show((done, 0))
    assert f", {left} left" in screen.getvalue()


def test_run_without_frames(clock):
    screen = Terminal()
    progress = Progress(0, screen)
    clock(1)
    progress.show((0, 0))
    assert "0 of 0 frames" in screen.getvalue()


def test_standard_error_is_the_default(capsys, clock):
    progress = Progress(10)
    clock(60)
    progress.show((1, 0))
    captured = capsys.readouterr()
    assert "1 of 10 frames" in captured.err
    assert captured.out == ""


# stages


def test_stages_add_up_in_order(clock):
    stages = Stages()
    for name, start, end in (("index", 0, 2), ("photons", 2, 10), ("index", 10, 10.5)):
        clock(start)
        with stages.timed(name):
            clock(end)
    assert list(stages.seconds.items()) == [("index", 2.5), ("photons", 8)]


# summary


def make_summary(**changes):
    values = {
        "frames": 12_345,
        "complete": 10_000,
        "trains": 36,
        "hits": 250,
        "misses": 249,
        "dark": 0,
        "bytes_read": 6_172_500_000,
        "peak_memory": 300 << 20,
        "ranks": 8,
        "seconds": {"index": 0.5, "photons": 2.0, "decide": 0.25, "write": 1.0},
        "problems": [],
        "files": ["/exp/scratch/events/r0050_events.h5", "/exp/scratch/emc/r0050.emc"],
    }
    return Summary(**{**values, **changes})


def line_of(summary, name):
    (line,) = (line for line in summary.lines() if line.startswith(f"{name} "))
    return " ".join(line.split())


def test_summary_numbers():
    summary = make_summary()
    assert line_of(summary, "frames") == "frames 12,345 in 36 trains"
    assert line_of(summary, "complete") == "complete 10,000 in every module of the run"
    assert line_of(summary, "hits") == "hits 250 2.50 % of the complete frames"
    assert line_of(summary, "misses").startswith("misses 249 ")
    assert line_of(summary, "read") == "read 6.173 GB 3.09 GB/s, 6,172 frames/s"
    assert line_of(summary, "memory").startswith("memory 300 MiB")
    assert "(8 ranks)" in line_of(summary, "memory")
    assert line_of(summary, "time") == (
        "time 3.75 s: index 0.50, photons 2.00, find hits 0.25, write 1.00"
    )
    assert line_of(summary, "excluded") == "excluded none"
    assert summary.lines()[-3:] == [
        "files written:",
        "  /exp/scratch/events/r0050_events.h5",
        "  /exp/scratch/emc/r0050.emc",
    ]


def test_gain_stages_of_raw_data():
    """Pixels in medium and low gain, in total and a frame; corrected data have no such lines."""
    summary = make_summary(switched=(98_760, 1))
    assert line_of(summary, "medium") == "medium 98,760 pixels in medium gain, 8.00 per frame"
    assert line_of(summary, "low") == "low 1 pixels in low gain, 0.00 per frame"
    assert not any(" gain" in line for line in make_summary().lines())


def test_deciding_again_reads_no_stage_of_photons():
    summary = make_summary(bytes_read=2_500_000, seconds={"write": 2.0})
    assert line_of(summary, "read") == "read 0.003 GB hits and misses only"


def test_numbers_stand_below_each_other():
    lines = make_summary(switched=(5, 6)).lines()
    lines = [line for line in lines if re.match(r"[a-z]+ +[\d,.]+ ", line)]
    assert len(lines) == 9
    assert {re.match(r"[a-z]+ +[\d,.]+", line).end() for line in lines} == {23}
    assert {re.match(r"[a-z]+ +[\d,.]+ +", line).end() for line in lines} == {26}


def test_summary_of_nothing():
    """No complete frame, no time, no file: no division by zero."""
    summary = make_summary(
        frames=0,
        complete=0,
        trains=0,
        hits=0,
        misses=0,
        bytes_read=0,
        seconds={"photons": 0.0},
        files=[],
    )
    assert line_of(summary, "hits") == "hits 0 0.00 % of the complete frames"
    assert line_of(summary, "read") == "read 0.000 GB 0.00 GB/s, 0 frames/s"
    assert line_of(summary, "time") == "time 0.00 s: photons 0.00"


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (
            Problem("2 frames: chunk does not inflate", "CORR-A.h5", 3, 10_007, "left out"),
            "  CORR-A.h5 module 3 train 10007: 2 frames: chunk does not inflate; left out",
        ),
        (
            Problem("module has no frames", "", 0, 0, "missing"),
            "  module 0: module has no frames; missing",
        ),
        (Problem("mask lacks cells", "mask.h5"), "  mask.h5: mask lacks cells; excluded"),
        (Problem("train is odd", train=5), "  train 5: train is odd; excluded"),
        (Problem("something"), "  something; excluded"),
    ],
)
def test_problem_names_where_it_is(problem, line):
    lines = make_summary(problems=[problem]).lines()
    at = lines.index(line)
    assert lines[at - 1].split() == ["excluded", "1", "problem,", "exit", "status", "3:"]
    assert lines[at + 1] == "files written:"


def test_sizes_are_easily_read():
    sizes = (0, 2048, 14.3e6, 2**30, 342.7 * 2**30)
    assert [size_text(n) for n in sizes] == [
        "0.0 KiB",
        "2.0 KiB",
        "13.6 MiB",
        "1.0 GiB",
        "342.7 GiB",
    ]


@pytest.mark.parametrize("n", [1, 19, 20, 21, 1520])
def test_long_lists_are_cut(n):
    problems = [Problem(f"problem number {i}.", train=1000 + i) for i in range(n)]
    lines = make_summary(problems=problems).lines()
    start = next(i for i, line in enumerate(lines) if line.startswith("excluded"))
    end = lines.index("files written:")
    assert lines[start].split()[1] == f"{n:,}"
    shown = [line for line in lines[start + 1 : end] if "problem number" in line]
    assert len(shown) == min(n, 20)
    assert all(f"number {i}." in line for i, line in enumerate(shown))
    rest = lines[start + 1 + len(shown) : end]
    if n <= 20:
        assert rest == []
    else:
        (more,) = rest
        assert f"{n - 20:,} more" in more
        assert "events file" in more


# log


def test_messages_go_where_they_belong(capsys, logger):
    """Messages of rank 0 to standard output, warnings and errors to standard error."""
    start_logging(0)
    logger.debug("debugging")
    logger.info("message %s", 1)
    logger.warning("careful")
    logger.error("broken")
    captured = capsys.readouterr()
    assert captured.out == "message 1\n"
    assert captured.err == "WARNING: careful\nERROR: broken\n"


def test_other_ranks_only_report_errors(capsys, logger):
    start_logging(3)
    logger.info("message")
    logger.warning("careful")
    logger.error("broken")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "ERROR: broken\n"


def test_starting_twice_says_things_once(capsys, logger):
    start_logging(0)
    start_logging(0)
    logger.info("message")
    logger.error("broken")
    assert logging.getLogger("xfelmpi") is logger
    captured = capsys.readouterr()
    assert captured.out.count("message") == 1
    assert captured.err.count("broken") == 1


class Painted(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("no_color", "painted"), [("", True), ("1", False)])
def test_colours_on_a_terminal(monkeypatch, logger, no_color, painted):
    out, err = Painted(), Painted()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    monkeypatch.setenv("NO_COLOR", no_color)
    start_logging(0)
    make_summary(problems=[Problem("something")]).show()
    logger.warning("careful")
    logger.error("broken")
    assert (
        err.getvalue() == "\x1b[33mWARNING: careful\x1b[0m\n\x1b[31mERROR: broken\x1b[0m\n"
    ) is (painted)
    lines = [line for line in out.getvalue().splitlines() if "\x1b" in line]
    assert [line[:12] for line in lines] == (
        ["\x1b[1mhits    ", "\x1b[31mexcluded"[:12]] if painted else []
    )


def test_no_colours_under_mpirun(monkeypatch):
    """Open MPI: standard output is a terminal of its own, standard error a pipe."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not has_colours(Painted())


# times


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00+00:00"),
        (3e11, "300000000000 s after 1970"),
        (-3e11, "-300000000000 s after 1970"),
        (1e300, f"{1e300:.0f} s after 1970"),
        (float("inf"), "inf s after 1970"),
        (float("nan"), "nan s after 1970"),
    ],
)
def test_times_that_are_no_date(seconds, text):
    """File systems with 64 bits of time hold years beyond 9999."""
    assert date_text(seconds) == text
