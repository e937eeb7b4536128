"""Programs and libraries in C for tests and benchmarks, compiled where they are needed."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def compile_with_libdeflate(source: str, target: Path, *flags: str) -> Path:
    """Compile a C file below `tests` with the headers of the kernels; returns `target`."""
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "libdeflate"], capture_output=True, text=True
    )
    libdeflate = found.stdout.split() if found.returncode == 0 else ["-ldeflate"]
    return compile_c(source, target, *flags, f"-I{ROOT / 'cython'}", libraries=libdeflate)


def compile_c(source: str, target: Path, *flags: str, libraries=()) -> Path:
    """Compile a C file below `tests`; returns `target`."""
    command = [os.environ.get("CC", "cc"), "-std=c11", "-Wall", "-Wextra", "-Werror", *flags]
    command += [str(ROOT / "tests" / source), "-o", str(target), *libraries]
    subprocess.run(command, check=True)
    return target
