"""Standard streams that are closed, full or gone: what was to be done is done all the same."""

import subprocess
import sys

import pytest

_SCRIPT = """
import sys
from xfelmpi.core.streams import secure_streams
secure_streams()
with open(sys.argv[1], "w") as result:
    for _ in range(3):
        print("progress " * 2000, flush=True)
        print("a warning", file=sys.stderr, flush=True)
    result.write("written")
sys.exit(3)
"""


@pytest.mark.parametrize(
    "streams",
    [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1", "| true"],
)
def test_streams_that_take_nothing(streams, tmp_path):
    """Nor does a result get into them, which would be opened under their numbers."""
    script, result = tmp_path / "script.py", tmp_path / "result"
    script.write_text(_SCRIPT)
    command = f'"$0" "$1" "$2" {streams}; exit ${{PIPESTATUS[0]}}'
    arguments = ["bash", "-c", command, sys.executable, script, result]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert result.read_text() == "written"
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
