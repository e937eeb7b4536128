"""Constants and per-cell masks are held once per node, filled by its ranks together."""

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI
from rawfiles import RawSetup, make_constants

from xfelmpi import mpi
from xfelmpi.calibration.constants import load_calibration
from xfelmpi.calibration.pixel_mask import load_masks
from xfelmpi.core.errors import InputError, PeerError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.pixel_bits import unpack

pytestmark = pytest.mark.mpi

MODULES = (3, 5, 9, 10)
CELLS = np.array([0, 2, 3])
ARRAYS = ("one_photon_adc", "level1", "level2", "offset", "gain", "bad")


@pytest.fixture
def loaded(comm, shared_path):
    """Return a function that loads the constants of some modules on the ranks of a communicator."""
    with mpi.fail_together(comm):
        if comm.rank == 0:
            rng = np.random.default_rng(61)
            for module in MODULES:
                make_constants(rng, 4).write(shared_path / "constants", module)
    config = RawSetup().config(shared_path)
    experiment = Experiment(shared_path, shared_path / "out", 50)

    def load(on, modules=MODULES):
        field = sum(1 << module for module in modules)
        calibration = load_calibration(on, experiment, config, CELLS, field, detector=AGIPD_1M)
        return calibration, load_masks(
            on, experiment, config, CELLS, calibration, detector=AGIPD_1M
        )

    return load


def all_arrays(calibration) -> list[np.ndarray]:
    return [getattr(calibration.modules[m], name) for m in MODULES for name in ARRAYS]


def shared_bytes(arrays) -> float:
    """Return this process's share of the memory that some arrays are in, as the kernel counts it.

    A page that n processes have mapped and used counts as 1 / n of a page in each (Pss).
    """
    addresses = [array.ctypes.data for array in arrays]
    total, inside = 0.0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            start, end = (int(number, 16) for number in first.split("-"))
            inside = any(start <= address < end for address in addresses)
        elif inside and first == "Pss:":
            total += int(line.split()[1]) * 1024
    return total


def test_every_rank_sees_all_constants(comm, loaded):
    """Those that other ranks of the node have read among them."""
    calibration, masks = loaded(comm)
    alone, masks_alone = loaded(MPI.COMM_SELF)
    same = [
        np.array_equal(a, b)
        for a, b in zip(all_arrays(calibration), all_arrays(alone), strict=True)
    ]
    comm.Barrier()
    assert all(same)
    assert calibration.nbytes == alone.nbytes
    np.testing.assert_array_equal(masks.good, masks_alone.good)
    for module in MODULES:
        bad = unpack(calibration.modules[module].bad[0]).astype(bool)
        assert (unpack(masks.good[module]).astype(bool) == ~bad).all()
    assert (masks.good[[0, 15]] == 0xFF).all()


def test_constants_are_the_same_memory(comm, loaded):
    """What one rank writes, all others see."""
    calibration, masks = loaded(comm)
    seen = []
    for writer in range(comm.size):
        for array in (*all_arrays(calibration), masks.good):
            # gains may be broadcast, and then cannot be written
            if array.flags.writeable:
                comm.Barrier()
                if comm.rank == writer:
                    array.reshape(-1)[-1] = writer + 1
                comm.Barrier()
                seen.append(int(array.reshape(-1)[-1]) == writer + 1)
    comm.Barrier()
    assert all(seen)
    assert len(seen) >= comm.size * 5 * len(MODULES)


def test_memory_is_taken_once(comm, loaded):
    """Summed over the ranks of this node, all of whom use all of it, it is that of one copy."""
    calibration, masks = loaded(comm)
    arrays = [*all_arrays(calibration), masks.good]
    used = sum(float(array.sum()) for array in arrays)
    comm.Barrier()
    mine = shared_bytes(arrays)
    total = comm.allreduce(mine)
    comm.Barrier()
    one_copy = calibration.nbytes + masks.good.nbytes
    assert used > 0
    assert one_copy > 10 << 20
    # a single process may have them anywhere, among other things
    if comm.size > 1:
        assert total == pytest.approx(one_copy, rel=0.05)
        assert mine == pytest.approx(one_copy / comm.size, rel=0.1)


def test_file_that_one_rank_cannot_read(comm, loaded, shared_path):
    """An error of one rank is raised on all of them, with its message."""
    comm.Barrier()
    if comm.rank == 0:
        path = shared_path / "constants" / f"Cheetah-AGIPD{MODULES[-1]:02}-calib.h5"
        path.write_bytes(path.read_bytes()[:5000])
    comm.Barrier()
    try:
        loaded(comm)
        raised = None
    except (InputError, PeerError) as error:
        raised = str(error)
    everywhere = comm.allgather(raised)
    for text in everywhere:
        assert "Cheetah-AGIPD10-calib.h5: " in text
        assert text.endswith("; expected a file of calibration constants")
