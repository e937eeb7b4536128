"""How much longer than on a quiet machine everything may take."""

import os


def patience() -> float:
    """Return ``XFELMPI_TEST_PATIENCE`` (default: 1), times the processes that wait for each CPU."""
    waiting = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return float(os.environ.get("XFELMPI_TEST_PATIENCE", "1")) * max(1.0, waiting)
