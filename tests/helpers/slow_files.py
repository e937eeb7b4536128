"""Say which test files took most time, of the processes of one pytest run (`record_results`).

Usage: ``python tests/helpers/slow_files.py FOLDER [HOW MANY]``. The CPU time is that of the tests
and of all processes that they started and waited for: unlike the seconds that pytest shows, it
hardly depends on what else the machine does.
"""

import sys
from pathlib import Path


def slow_files(folder: Path) -> list[tuple[str, float, float]]:
    """Return name, seconds and seconds of the CPU of the test files, the slowest first."""
    seconds: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.times")):
        # the last line may be cut off
        for line in path.read_text().split("\n")[:-1]:
            real, cpu, name = line.split("\t", 2)
            of_file = seconds.setdefault(name.partition("::")[0], [0.0, 0.0])
            of_file[0] += float(real)
            of_file[1] += float(cpu)
    return sorted(((name, a, b) for name, (a, b) in seconds.items()), key=lambda x: -x[2])


if __name__ == "__main__":
    found = slow_files(Path(sys.argv[1]))
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    total, of_cpu = (sum(x[n] for x in found) for n in (1, 2))
    print(f"{of_cpu:.0f} s of CPU in {total:.0f} s of {len(found)} files, most of it in")
    for name, real, cpu in found[:most]:
        print(f"{cpu:7.1f} s of CPU {real:7.1f} s  {name}")
