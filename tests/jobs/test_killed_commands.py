"""Commands that are killed or stopped before their files have names leave none of that name."""

import signal

import pytest
from launch import all_files, call_xfelmpi
from mockrun import tiny_dark_runs, tiny_run
from stopped import run_until

PUBLISH = "output.publishing:publish"


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    return tiny_run(tmp_path_factory.mktemp("killed") / "p007927", trains=2, cells=(0, 2))


def command(name, mock, tmp_path):
    """Return the arguments of a command, where its files go, and the call before they get names."""
    if name == "simulate":
        args = [name, 50, "--prefix", tmp_path / "p007927", "--trains", 1, "--cells", 1]
        return args, tmp_path / "p007927", "simulate.run:give_names"
    if name == "darks":
        (dark,) = tiny_dark_runs(tmp_path / "p007927", ("high",), trains=1, cells=(0,))
        args = [name, 10, "--prefix", dark.options.prefix, "--out", tmp_path / "constants"]
        return args, tmp_path / "constants", PUBLISH
    where = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    if name == "mask":
        where += ["--mask-file", tmp_path / "out" / "det" / "mask.h5"]
    else:
        done = call_xfelmpi([50, *where, "--no-report"])
        assert done.returncode == 0, done.stderr
    return [name, 50, *where], tmp_path / "out", PUBLISH


KILLED = [(name, signal.SIGKILL) for name in ("simulate", "mask", "darks", "merge")]


@pytest.mark.parametrize(("name", "number"), [*KILLED, ("simulate", signal.SIGTERM)])
def test_nothing_under_a_final_name(name, number, mock, tmp_path):
    args, folder, function = command(name, mock, tmp_path)
    before = set(all_files(folder)) if folder.exists() else set()
    done = run_until(tmp_path, args, 0, number, function)
    assert done.returncode == (-9 if number == signal.SIGKILL else 143), done.stderr
    assert "Traceback" not in done.stderr
    left = sorted(set(all_files(folder)) - before)
    # what is kept for the next job is complete, or not used; pieces of the truth are no run
    left = [path for path in left if not path.startswith("index/") and "_pieces/" not in path]
    if number == signal.SIGKILL:
        assert any(path.endswith(".part") for path in left)
        own = (".part", ".lock")
        left = [path for path in left if not path.endswith(own)]
    assert left == []
