"""Some mutated runs, always the same; `fuzz/mutated_runs.py` reads thousands."""

from pathlib import Path

from launch import run_python

PROGRAM = Path(__file__).parents[1] / "fuzz" / "mutated_runs.py"


def test_mutated_runs(tmp_path):
    done = run_python([PROGRAM, "--runs", 100, "--folder", tmp_path], seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 mutated runs: " in done.stdout


def test_runs_that_were_found(tmp_path):
    """HDF5 1.10.8 reads for ever on the first four, and crashes on the last."""
    found = (129, 179, 291, 534, 1223)
    done = run_python([PROGRAM, "--only", *found, "--folder", tmp_path], seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 mutated runs: " in done.stdout
