"""The pass over corrected runs of every detector: CPU time per pixel.

    python tests/benchmarks/detectors.py FOLDER [MEGAPIXELS]

FOLDER gets two simulated runs of every detector unless it has them: photons (u2, shuffle and gzip)
and signals with noise (f4, not packed). All have as many pixels (default: 32 million), 0.5 % of
them lit. Prints medians of 7, all detectors measured in turn, and the ratios to the AGIPD-1M.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from measure import Pass, in_turn, ratio, set_up, simulate_once
from mpi4py import MPI

from xfelmpi.core.config.options import Config
from xfelmpi.core.log import start_logging
from xfelmpi.detectors.known import DETECTORS
from xfelmpi.simulate import SimulationOptions

REPEATS = 7
LIT = 0.005
CELLS = 8
KINDS = {"u2": {"dtype": "u2"}, "f4-plain": {"dtype": "f4", "compression": "none"}}


@dataclass
class Repeated:
    """A pass that is run several times, to measure as many pixels of every detector."""

    one: Pass
    times: int

    def run(self) -> None:
        for _ in range(self.times):
            self.one.run()


def main() -> None:
    comm = MPI.COMM_WORLD
    start_logging(comm.rank)
    folder = Path(sys.argv[1])
    pixels = (int(sys.argv[2]) if len(sys.argv) > 2 else 32) << 20
    sys.stdout.write(f"{'':14}{'':10}{'ns/pixel':>10}{'/ AGIPD-1M':>12}\n")
    for number, (kind, options) in enumerate(KINDS.items()):
        actions = {}
        for detector in DETECTORS:
            trains = max(1, pixels // (CELLS * detector.frame_pixels))
            prefix, run = folder / detector.name, 50 + number
            simulated = SimulationOptions(
                prefix,
                run=run,
                detector=detector.name,
                trains=trains,
                cells=tuple(range(CELLS)),
                hit_rate=0.0,
                background=LIT * detector.module_pixels,
                **options,
            )
            simulate_once(comm, simulated)
            config = Config(run, prefix=prefix, output=prefix / "scratch", data="proc", vds=False)
            one = set_up(comm, config)
            n = len(one.frames) * detector.frame_pixels
            actions[detector.name] = Repeated(one, max(1, round(pixels / n)))
        # in_turn counts in microseconds
        times = in_turn(comm, {name: a.run for name, a in actions.items()}, pixels, 1 + REPEATS)
        times = {name: spent[1:] for name, spent in times.items()}
        for name, spent in times.items():
            ns, relative = median(spent) * 1e3, ratio(times, name, "AGIPD-1M")
            sys.stdout.write(f"{name:14}{kind:10}{ns:10.3f}{relative:12.2f}\n")


if __name__ == "__main__":
    main()
