"""Some mutated outputs, always the same; `fuzz/mutated_outputs.py` reads thousands."""

from pathlib import Path

from launch import run_python

PROGRAM = Path(__file__).parents[1] / "fuzz" / "mutated_outputs.py"


def test_mutated_outputs(tmp_path):
    done = run_python(["-W", "ignore", PROGRAM, tmp_path, 20], seconds=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 failures\n")
