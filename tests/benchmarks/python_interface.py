"""How long `import xfelmpi` takes, and how many hits a second are read and assembled.

python tests/benchmarks/python_interface.py PREFIX RUN: of a processed run.
"""

import subprocess
import sys
import time

import xfelmpi

HITS = 1000


def seconds(code: str) -> float:
    """The shortest of five runs of Python."""
    found = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        found.append(time.perf_counter() - start)
    return min(found)


def hits_per_second(hits) -> float:
    """Read and assemble HITS hits, some of them again if there are fewer."""
    hits[0].assembled()
    start = time.perf_counter()
    for i in range(HITS):
        hits[i % len(hits)].assembled()
    return HITS / (time.perf_counter() - start)


def main(prefix: str, run: str) -> None:
    print(f"import xfelmpi: {seconds('import xfelmpi') - seconds('pass'):.3f} s")
    hits = xfelmpi.open_run(run, prefix=prefix).hits
    print(f"hits assembled: {hits_per_second(hits):,.0f} a second")


if __name__ == "__main__":
    main(*sys.argv[1:])
