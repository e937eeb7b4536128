"""Cython and the C compiler, but for what `jobs/setup.sh` has made of the same sources already.

As a program, in place of either: ``python reuse_build.py BUILD PROGRAM ARGUMENTS``. It copies the
output from the folder BUILD if that was made by the same command of files with the same contents,
and runs PROGRAM otherwise.
"""

import filecmp
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / ".venv" / "build"
COMMANDS = "compile_commands.json"


def reusing(folder: Path) -> dict[str, str]:
    """Return the environment of a build that need not make again what is in `BUILD`.

    Parameters
    ----------
    folder : Path
        For the programs that stand in.

    Returns
    -------
    dict
        Empty if there is no such build, or sources have changed since.
    """
    ninja = shutil.which("ninja")
    if not ninja or not (BUILD / COMMANDS).exists():
        return {}
    asked = subprocess.run([ninja, "-C", BUILD, "-n"], capture_output=True, text=True, check=False)
    if "no work to do" not in asked.stdout:
        return {}
    programs = {words[0] for words in _commands().values()}
    folder.mkdir()
    for program in programs & {"cython", "cc", "gcc"}:
        words = (sys.executable, "-S", "-E", __file__, BUILD, shutil.which(program))
        script = folder / program
        script.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def _commands(build: Path = BUILD) -> dict[str, list[str]]:
    """Return the commands of a build by the name of their output."""
    commands = json.loads((build / COMMANDS).read_text())
    return {Path(c["output"]).name: shlex.split(c["command"]) for c in commands}


def _same_words(words: list[str], build: Path, source: Path) -> list[str]:
    """Return a command with the paths that do not depend on where source and build are."""
    same = []
    for word in words:
        option = "-I" if word.startswith("-I") else ""
        path = (build / word.removeprefix(option)).resolve()
        for name, base in (("BUILD", build), ("SOURCE", source)):
            if "/" in word and path.is_relative_to(base):
                word = f"{option}{name}/{path.relative_to(base)}"
                break
        same.append(word)
    return same


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders have the same files but those of meson, with the same contents."""
    names = [{p.name for p in folder.iterdir() if p.is_file()} for folder in (one, other)]
    _, different, unread = filecmp.cmpfiles(one, other, names[0], shallow=False)
    return names[0] == names[1] and not different and not unread


def _reused(build: Path, program: str, arguments: list[str]) -> bool:
    """Copy what a command would make here, if the other build has made it of the same files."""
    if "-o" not in arguments:
        return False
    output = Path(arguments[arguments.index("-o") + 1])
    commands = _commands(build)
    if output.name not in commands:
        return False
    here, source = Path.cwd().resolve(), Path.cwd().resolve().parent
    mine = _same_words([Path(program).name, *arguments], here, source)
    if mine != _same_words(commands[output.name], build, ROOT):
        return False
    if not _same_files(source / "cython", ROOT / "cython"):
        return False
    # what Cython has made, and the compiler is to take
    made = arguments[-1]
    if output.suffix == ".o" and not filecmp.cmp(here / made, build / made, shallow=False):
        return False
    shutil.copyfile(build / output, output)
    return True


if __name__ == "__main__":
    other, wanted, *rest = sys.argv[1:]
    if not _reused(Path(other), wanted, rest):
        os.execv(wanted, [wanted, *rest])
