"""The pages of the documentation as a reader uses them: their blocks of commands, and a shell."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from launch import run_program, write_script

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    + [path for folder in ("howto", "decisions") for path in (ROOT / "docs" / folder).glob("*.md")]
)
COMMANDS = ("bash", "python", "toml")
"""Languages of blocks that are run; the others are shown: output, drawings, layouts."""

EXPERIMENT = "/gpfs/exfel/exp/SPB/202405/p007927"
"""The experiment folder in the pages; a simulated one takes its place."""

_MARK = re.compile(r"<!-- test: (?:skip, (?P<skip>.+)|status (?P<status>\d+)) -->")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\S*).*$")


@dataclass(frozen=True)
class Block:
    """A block of code of a page.

    Parameters
    ----------
    page : Path
    line : int
        Where it stands.
    language, text : str
    status : int
        Exit status that it ends with, by the comment ``<!-- test: status 3 -->`` before it.
    skip : str or None
        Why it is not run, by the comment ``<!-- test: skip, REASON -->``.
    """

    page: Path
    line: int
    language: str
    text: str
    status: int
    skip: str | None

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page."""
    found, lines, start, mark, opened = [], [], 0, None, None
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = _FENCE.match(line)
        if opened:
            if line.strip() != "```":
                lines.append(line.removeprefix(opened["indent"]))
                continue
            status, skip = (int(mark["status"] or 0), mark["skip"]) if mark else (0, None)
            text = "\n".join(lines) + "\n"
            found.append(Block(page, start, opened["language"], text, status, skip))
            mark = opened = None
        elif fence:
            opened, lines, start = fence, [], number
        elif line.strip():
            mark = _MARK.fullmatch(line.strip())
    assert not opened, f"{page}: a block is not closed"
    return found


def name(page: Path) -> str:
    """Return the name of a page relative to the project."""
    return str(page.relative_to(ROOT))


_LAST = """\
exec 2>&1
cd -- "$(cat '{state}/folder')"
source '{state}/variables'
PATH=$STANDINS:$PATH
trap 'status=$?; export -p >"{state}/variables"; pwd >"{state}/folder"; exit $status' EXIT
set -eo pipefail
"""


class Shell:
    """A reader's terminal: folder and exported variables last from block to block.

    Parameters
    ----------
    state : Path
        Folder for what lasts.
    folder : Path
        Where the reader starts.
    environment : dict
        See `reader_environment`.
    """

    def __init__(self, state: Path, folder: Path, environment: dict[str, str]):
        self._state = state
        self._environment = environment
        state.mkdir()
        (state / "folder").write_text(f"{folder}\n")
        (state / "variables").touch()

    def run(self, text: str, seconds: float = 300) -> subprocess.CompletedProcess:
        """Run a few lines; standard output has standard error, too."""
        lines = _LAST.format(state=self._state) + text
        return run_program(["bash", "-c", lines], seconds=seconds, **self._environment)

    def run_python(self, text: str) -> subprocess.CompletedProcess:
        """Run a program, as if pasted into the interpreter."""
        return self.run(f"python - <<'END OF PROGRAM'\n{text}END OF PROGRAM\n")


def reader_environment(programs: Path) -> dict[str, str]:
    """Return what a reader's environment on this machine has besides that of all programs here.

    There is no display, and there are few processors: `programs` is filled with small stand-ins for
    viewers, which look whether the file is there, and launchers that start few ranks on one node:
    Slurm's two, but one in each job of an array, and ``mpirun`` two for scripts of the project, but
    one for commands of the page, all of which have tests on several ranks in tests/jobs. A page
    that activates an environment finds them nevertheless.
    """
    programs.mkdir()
    for viewer in ("firefox", "silx"):
        write_script(programs / viewer, '[[ -s "${!#}" ]]')
    write_script(programs / "module", ":")
    write_script(programs / "mpirun", _FEWEST.format(mpirun=_where("mpirun")))
    write_script(programs / "sbatch", _ONE_NODE.format(sbatch=_where("sbatch")))
    write_script(programs / "srun", _FEWER.format(srun=_where("srun")))
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "STANDINS": str(programs),
        "RANKS": "2",
        "TRAINS": "2",
        "CELLS": "32",
        "OMP_NUM_THREADS": "1",
    }


_FEWEST = """\
[[ $2 == 1 || $3 == xfelmpi ]] && ranks=1 || ranks=2
exec {mpirun} -n $ranks "${{@:3}}"
"""

_ONE_NODE = """\
[[ "$*" == *--array=* ]] && export RANKS=1
exec {sbatch} "${{@/#--nodes=*/--nodes=1}}"
"""

_FEWER = """\
arguments=()
while (($#)); do
    if [[ $1 == -n ]]; then arguments+=(-n 2) && shift; else arguments+=("$1"); fi
    shift
done
exec {srun} "${{arguments[@]}}"
"""


def _where(program: str) -> str:
    return shutil.which(program) or f"/usr/bin/{program}"


def shape(line: str, project: Path) -> str:
    """Return a line of output without what differs from run to run: numbers, spaces, the folder."""
    line = line.replace(f"{project}/", "").replace("\r", "")
    line = re.sub(r"\s+", " ", re.sub(r"[\d.,:]*\d", "#", line)).strip()
    return line.replace("# ranks", "# rank")
