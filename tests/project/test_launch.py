"""How the tests start programs."""

import os

from launch import patient_ranks, run_python

MAPPED = "print('sleeping_yield.so' in open('/proc/self/maps').read())"
VOLUNTARY = """
import ctypes, resource
before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
for _ in range(100):
    ctypes.CDLL(None).sched_yield()
print(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before >= 100)
"""


def test_ranks_that_wait_sleep():
    """In every rank, and each time; a program without ranks is as users have it."""
    assert patient_ranks()["LD_PRELOAD"].startswith(os.environ.get("LD_PRELOAD", ""))
    for program in (MAPPED, VOLUNTARY):
        assert run_python(["-c", program], 2).stdout.split() == ["True", "True"]
    assert run_python(["-c", MAPPED]).stdout.split() == ["False"]
