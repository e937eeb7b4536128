"""Some made-up command lines and text files, always the same; the program makes up thousands."""

from pathlib import Path

from launch import run_python

PROGRAM = Path(__file__).parents[1] / "fuzz" / "option_lines.py"


def test_option_lines(tmp_path):
    done = run_python(["-W", "ignore", PROGRAM, tmp_path, 400, 1], seconds=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("\n0 failures of 400 lines\n")
