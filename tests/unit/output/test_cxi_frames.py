"""Hits of a CXI file as they are packed there, whatever the file's layout."""

import zlib

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError
from xfelmpi.output.cxi.frames import HitFrames

DETECTOR = "entry_1/instrument_1/detector_1"
FRAME = (2, 4, 8)
GZIP = {"compression": "gzip", "compression_opts": 1}
LAYOUTS = {
    "as the job writes it": {"chunks": (1, *FRAME), **GZIP},
    "shuffled": {"chunks": (1, *FRAME), "shuffle": True, **GZIP},
    "by module": {"chunks": (1, 1, 4, 8), **GZIP},
    "two hits": {"chunks": (2, *FRAME), **GZIP},
    "checksum": {"chunks": (1, *FRAME), "fletcher32": True, **GZIP},
    "not packed": {},
}


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_hits_are_planes_of_bytes(tmp_path, layout, dtype):
    photons = np.random.default_rng(3).poisson(0.3, (3, *FRAME)).astype(dtype)
    if photons.itemsize > 1:
        photons[1, 0, 0, 0] = 0x1234
    path = tmp_path / "r0001_hits.cxi"
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{DETECTOR}/data", data=photons[:2], **LAYOUTS[layout])
        file.create_dataset(f"{DETECTOR}/mask", data=np.zeros((2, *FRAME), "u4"))
    frames = HitFrames(path)
    for hit in range(2):
        planes = np.frombuffer(zlib.decompress(frames.packed(hit)), np.uint8)
        low, *high = planes.reshape(-1, photons[0].size)
        assert len(high) == photons.itemsize - 1
        found = low + sum(np.uint16(256) * plane for plane in high)
        np.testing.assert_array_equal(found, photons[hit].reshape(-1))
    frames.close()


def test_a_chunk_that_was_never_written_is_refused(tmp_path):
    path = tmp_path / "r0001_hits.cxi"
    with h5py.File(path, "w") as file:
        for name, dtype in (("data", "u1"), ("mask", "u4")):
            file.create_dataset(
                f"{DETECTOR}/{name}", (2, *FRAME), dtype, chunks=(1, *FRAME), **GZIP
            )
    with pytest.raises(InputError, match="data: its values are not in the file"):
        HitFrames(path)
