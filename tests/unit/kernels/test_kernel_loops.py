"""The loops of the kernels, each against a plain loop in C, with sanitizers."""

import subprocess

import pytest
from compiled import compile_with_libdeflate

pytestmark = pytest.mark.slow


def test_fuzz(tmp_path):
    """A short run of the fuzz program; `fuzz/kernels.c` says how to make it longer."""
    checks = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    program = compile_with_libdeflate("fuzz/kernels.c", tmp_path / "fuzz", *checks)
    done = subprocess.run([program, "20000", "1"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "20000 executions\n"
