"""What the command line answers to words that it does not know, and what it shows meanwhile."""

import os
import pty
import select
import subprocess
import sys

import pytest
from launch import call_xfelmpi

from xfelmpi.__main__ import COMMANDS, _is_run
from xfelmpi.cli.completion import completing_parser
from xfelmpi.cli.parser import parsers


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shw", "50"], "no command 'shw'; did you mean show?"),
        (["simulat", "50"], "did you mean simulate?"),
        (["fifty"], "no command 'fifty'\n"),
        (["/gpfs/p007927/proc/r0050/"], "did you mean xfelmpi 50 --prefix /gpfs/p007927?"),
        (["raw/r0051"], "no command 'raw/r0051'; did you mean xfelmpi 51 --prefix .?"),
        (["50", "--sigam", "5"], "unrecognized arguments: --sigam 5; did you mean --sigma?"),
        (["show", "50", "--hti=3"], "--hti=3; did you mean --hit?"),
        (["50", "--qqqqqq"], "unrecognized arguments: --qqqqqq (see --help)"),
        (["50", "stray"], "unrecognized arguments: stray (see --help)"),
        (["50", "51"], "arguments: 51; xfelmpi takes one run, xfelmpi submit several (see --help)"),
        (["mask", "50", "51", "52"], "51 52; xfelmpi mask takes one run, xfelmpi submit several"),
    ],
)
def test_what_may_be_meant(words, message, tmp_path):
    done = call_xfelmpi([*words, "--prefix", tmp_path])
    assert done.returncode == 2
    assert message in done.stderr


def test_option_of_another_command(tmp_path):
    done = call_xfelmpi(["show", "50", "--sigma", "5", "--prefix", tmp_path])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    told = line.partition("--sigma is an option of xfelmpi ")[2]
    assert "process" in told
    done = call_xfelmpi(["50", "--name", "one", "--prefix", tmp_path])
    assert "--name is an option of xfelmpi merge" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gains", "nan", "38", "180"], "--gains: found [nan, 38.0, 180.0], expected numbers"),
        (["--gains", "1", "38", "inf"], "--gains: found [1.0, 38.0, inf], expected numbers"),
        # as float32, in which gains are kept, this is infinite
        (["--gains", "1", "38", "1e60"], "--gains: found [1.0, 38.0, 1e+60], expected numbers"),
        (["--offset-sigma", "nan"], "--offset-sigma: found nan, expected 0 or more"),
        (["--noise-sigma", "-1"], "--noise-sigma: found -1.0, expected 0 or more"),
    ],
)
def test_numbers_of_darks(words, message, tmp_path):
    done = call_xfelmpi(["darks", "50", *words, "--prefix", tmp_path])
    assert done.returncode == 2
    assert message in done.stderr


def test_help_of_a_command():
    for words in (["help", "show"], ["show", "--help"]):
        done = call_xfelmpi(words)
        assert done.returncode == 0
        assert "usage: xfelmpi show" in done.stdout
    top = call_xfelmpi(["help"])
    assert top.returncode == 0
    assert call_xfelmpi(["help", "help"]).stdout == top.stdout
    assert top.stdout == call_xfelmpi(["--help"]).stdout
    assert "--version" in top.stdout
    assert call_xfelmpi(["help", "shw"]).returncode == 2


def test_every_command_has_a_parser():
    assert set(dict(parsers())) == set(COMMANDS)


def completions(line: str) -> set[str]:
    """What argcomplete offers after a line."""
    from argcomplete.completers import SuppressCompleter
    from argcomplete.finders import CompletionFinder

    words = line.split(" ")
    parser = completing_parser(words[1:], COMMANDS, _is_run)
    finder = CompletionFinder(parser, default_completer=SuppressCompleter())
    return {word.strip() for word in finder._get_completions(words[:-1], words[-1], "", None)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("xfelmpi sh", {"show"}),
        ("xfelmpi show 50 --hi", {"--hit"}),
        ("xfelmpi 50 --from-e", {"--from-events"}),
        ("xfelmpi merge --whe", {"--where"}),
        ("xfelmpi help ver", {"verify"}),
    ],
)
def test_completion(line, expected):
    assert completions(line) == expected


def test_shell_is_answered(tmp_path):
    """As bash asks: on file descriptor 8."""
    line = "xfelmpi ver"
    answer = tmp_path / "answer"
    environment = {
        **os.environ,
        **{"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))},
        **{"_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "IFS": "\013"},
    }
    program = "from xfelmpi.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=60)
    assert done.returncode == 0
    assert "verify" in answer.read_text()


_BAR = """
from xfelmpi.core.progress import Progress
progress = Progress(10, stage="reading")
progress.show([5, 2])
progress.close()
"""
_LAUNCHER = """
import subprocess, sys
# as mpirun does: a pipe for standard error
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stderr=subprocess.PIPE)
sys.stdout.buffer.write(child.communicate()[1])
"""


_STOPPED = """
import signal
from xfelmpi.core import shutdown
shutdown._tell(signal.SIGTERM)
"""


def shown_on_the_terminal(program, launcher_stderr=None, **env) -> tuple[bytes, bytes]:
    """What a child writes to the launcher's terminal, and to its own standard error."""
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCHER, program],
        stdout=subprocess.PIPE,
        stderr=theirs if launcher_stderr is None else launcher_stderr,
        env={name: v for name, v in os.environ.items() if not name.startswith("SLURM_")} | env,
        timeout=60,
    )
    shown = os.read(ours, 4096) if select.select([ours], [], [], 0)[0] else b""
    os.close(theirs)
    os.close(ours)
    return shown, done.stdout


def test_bar_on_the_terminal_of_mpirun():
    shown, piped = shown_on_the_terminal(_BAR, OMPI_COMM_WORLD_SIZE="2")
    assert b"[###############...............] reading: 5 of 10 frames" in shown
    assert piped == b""


def test_no_bar_where_mpirun_writes_to_a_file(tmp_path):
    with (tmp_path / "log").open("wb") as file:
        shown, piped = shown_on_the_terminal(_BAR, file, OMPI_COMM_WORLD_SIZE="2")
    assert shown == piped == b""
    assert (tmp_path / "log").read_bytes() == b""


def test_end_by_mpirun_at_a_terminal_may_be_ctrl_c(tmp_path):
    """Mpirun takes Ctrl-C for itself, and ends its ranks by SIGTERM."""
    _, told = shown_on_the_terminal(_STOPPED, OMPI_COMM_WORLD_SIZE="2")
    assert told == b"xfelmpi: stopped by SIGTERM (Ctrl-C?)\n"
    with (tmp_path / "log").open("wb") as file:
        _, told = shown_on_the_terminal(_STOPPED, file, OMPI_COMM_WORLD_SIZE="2")
    assert told == b"xfelmpi: stopped by SIGTERM\n"
    _, told = shown_on_the_terminal(_STOPPED, OMPI_COMM_WORLD_SIZE="2", SLURM_JOB_ID="7")
    assert told == b"xfelmpi: stopped by SIGTERM (time limit?)\n"
