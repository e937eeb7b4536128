"""What `jobs/test.sh --quick` runs: something of every package."""

import re
import subprocess
import sys

import pytest
from docpages import ROOT

SOURCES = ROOT / "src" / "xfelmpi"
PACKAGES = sorted(path.name for path in SOURCES.iterdir() if (path / "__init__.py").exists())

COMMANDS = {"tests/jobs/test_show.py": {"cli", "workflows"}}
"""What tests run through the command line only."""


@pytest.mark.slow
def test_every_package_is_in_the_quick_test():
    script = (ROOT / "jobs" / "test.sh").read_text()
    (selection,) = re.findall(r'markers="(quick .*)"', script)
    (listed,) = re.findall(r"mapfile -t files < <\((.*)\)", script)
    paths = subprocess.check_output(["bash", "-c", listed], text=True, cwd=ROOT).split()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", selection, *paths],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout
    files = set(re.findall(r"^(tests/[\w/]+\.py)::", done.stdout, re.MULTILINE))
    assert not any(file.startswith("tests/cluster") for file in files)
    imported = set().union(*(COMMANDS.get(file, set()) for file in files))
    for file in files:
        imported |= set(re.findall(r"\bxfelmpi\.(\w+)", (ROOT / file).read_text()))
    assert len(PACKAGES) > 10
    assert set(PACKAGES) - imported == set()


def test_no_folder_has_the_name_of_a_marker():
    """pytest-mpi skips whatever lies in a folder ``mpi``, as if it were marked so."""
    folders = {path for path in (ROOT / "tests").rglob("mpi") if path.is_dir()}
    assert folders == {ROOT / "tests" / "mpi"}


def test_no_two_files_have_the_same_name():
    """They are modules without packages for pytest, which takes one of each name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
