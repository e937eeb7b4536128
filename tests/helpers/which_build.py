"""Make sure that Python imports the build of xfelmpi that is to be tested, and that it is one.

Usage: ``python tests/helpers/which_build.py FOLDER bounds|sanitize``. The exit status is 0 if
xfelmpi comes from FOLDER, an index beyond an array is found, and, if so asked, AddressSanitizer is
at work.
"""

import ctypes
import sys
from pathlib import Path

import numpy as np

from xfelmpi._kernels import _cells


def index_is_checked() -> bool:
    """Return whether a kernel notices a word of a pixel beyond its sums."""
    words = np.array([1 << 20], np.uint64)
    sums = np.zeros((6, 1, 64), np.uint32)
    words |= np.uint64(0x2000) << np.uint64(32)
    try:
        _cells.add_words(words, 1 << 20, 4, sums)
        _cells.add_words(words, (1 << 20) - 64, 4, sums)
    except IndexError:
        return True
    return False


def main(folder: str, build: str) -> None:
    found = Path(_cells.__file__).parents[1]
    if found != Path(folder).resolve() / "xfelmpi":
        sys.exit(f"xfelmpi is imported from {found}, not from {folder}")
    if build == "sanitize" and not hasattr(ctypes.CDLL(None), "__asan_init"):
        sys.exit("AddressSanitizer is not loaded")
    if not index_is_checked():
        sys.exit(f"{found} does not check the indices of arrays")


if __name__ == "__main__":
    main(*sys.argv[1:])
