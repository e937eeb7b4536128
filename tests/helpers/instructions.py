"""How many instructions the kernels of the pass take for a module-frame, counted by callgrind.

    python tests/helpers/instructions.py          print the counts, and those of instructions.json
    python tests/helpers/instructions.py --renew    make them the new reference

A time depends on the machine and on what else it does, a count does not: the frames are the same
ones every time, and only what is in the project's own extension modules counts, because libdeflate
and libc choose their code by the processor. The interpreter and numpy do not count either.
"""

import ctypes
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np
from compiled import compile_with_libdeflate
from modulefiles import make_table, read, sparse_images, write_module, write_streams
from rawfiles import ADU, Constants, RawSetup, make_constants, read_raw

from xfelmpi._kernels import _raw, _sparse

REFERENCE = Path(__file__).with_suffix(".json")
GROWTH = 1.01
"""What a change may add by the way; more must be wanted, and the reference renewed.

The counts themselves are always the same with the same tools.
"""

OTHER_TOOLS = 1.4
"""The same where compiler, packed frames or kind of processor are not those of the reference."""

PHOTONS = 300
FRAMES = 24
CELLS = (0, 1) * 4


class Counter:
    """Counts between two calls, and remembers what was counted."""

    def __init__(self, library: str):
        self._calls = ctypes.CDLL(library)
        self.about = {}

    def begin(self, *_) -> None:
        self._calls.begin_count()

    def end(self, name: str, module, n: int, *contents) -> None:
        """Stop, given the extension module, how many module-frames it was, and all that it read."""
        self._calls.end_count(name.encode())
        digest = "frames " + hashlib.sha256(b"".join(map(bytes, contents))).hexdigest()[:16]
        path = Path(module.__file__)
        compiler = sorted(set(re.findall(rb"GCC: [^\0]*|clang version [^\0]*", path.read_bytes())))
        wide = "AVX2" if " avx2 " in Path("/proc/cpuinfo").read_text() else "no AVX2"
        self.about[name] = {
            "object": str(path.resolve()),
            "frames": n,
            "made_with": [digest, wide, *(text.decode() for text in compiler)],
        }


def raw_frames(rng, constants: Constants, drift: float) -> np.ndarray:
    """Return raw frames in high gain, uint16 (frame, 2, 512, 128), with noise of 12 ADU.

    The standard deviation of the common mode of ASICs is `drift` in ADU.
    """
    signal = ADU * sparse_images(rng, len(CELLS), "u2", PHOTONS).clip(0, 20)
    signal = signal + rng.normal(0, 12, signal.shape)
    signal += rng.normal(0, drift, (len(CELLS), 8, 2)).repeat(64, axis=1).repeat(64, axis=2)
    frames = np.zeros((len(CELLS), 2, 512, 128), np.uint16)
    frames[:, 0] = constants.offset[0][list(CELLS)] + signal / constants.gain[0][list(CELLS)]
    frames[:, 1] = constants.level[1][list(CELLS)] - 900
    return frames


def work(folder: Path, counter: Counter) -> None:
    """Read frames of every kind as the pass does, counting."""

    def corrected(name, about, contents):
        table = make_table({about.module: (0, np.arange(FRAMES))})
        counter.begin()
        reading = read([about], table)
        counter.end(name, _sparse, FRAMES, contents)
        assert not reading.problems, reading.problems

    def packed(name, lit):
        images = sparse_images(np.random.default_rng(1), FRAMES, "u1", lit)
        streams = [zlib.compress(image.tobytes(), 1) for image in images]
        corrected(name, write_streams(folder / f"{name}.h5", streams), b"".join(streams))

    packed("u1", PHOTONS)
    packed("u1, many photons", 20 * PHOTONS)
    signals = sparse_images(np.random.default_rng(2), FRAMES, "f4", PHOTONS)
    corrected("f4", write_module(folder / "f4.h5", signals, chunks=(1, 512, 128)), signals)
    rng = np.random.default_rng(3)
    constants = make_constants(rng, 2)
    steady, drifting = (raw_frames(rng, constants, drift) for drift in (0, 8))
    for name, frames, common_mode in (
        ("raw", steady, False),
        ("raw, common mode", steady, True),
        ("raw, common mode, drift", drifting, True),
    ):
        setup = RawSetup(common_mode=common_mode, layout={"chunks": (1, 2, 512, 128)})
        reading = read_raw(folder, frames, CELLS, constants, setup, counter.begin)
        counter.end(name, _raw, len(CELLS), frames, *vars(constants).values())
        assert not reading.problems, reading.problems


def spent_in(dump: Path, object_file: str) -> int:
    """Return the instructions of one object file in an output file of callgrind."""
    total, inside, of_call = 0, False, False
    with open(dump) as lines:
        for line in lines:
            if line.startswith("ob="):
                inside = line[3:].strip() == object_file
            elif line.startswith("calls="):
                # the line after it is what the called function spent
                of_call = True
            elif line[0].isdigit():
                total += int(line.split()[1]) if inside and not of_call else 0
                of_call = False
    return total


def count() -> dict[str, dict]:
    """Return instructions per module-frame, and what they depend on, by kind of data."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        library = compile_with_libdeflate(
            "helpers/instructions.c", folder / "count.so", "-O1", "-shared", "-fPIC"
        )
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no"]
        command += ["--compress-pos=no", f"--callgrind-out-file={folder / 'counted'}"]
        command += [sys.executable, __file__, "--work", str(folder), str(library)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        about = json.loads((folder / "about.json").read_text())
        # one dump for every kind, in their order
        for i, one in enumerate(about.values(), start=1):
            spent = spent_in(folder / f"counted.{i}", one.pop("object"))
            one["instructions"] = round(spent / one.pop("frames"))
        return about


def too_many(found: dict[str, dict], reference: dict[str, dict]) -> list[str]:
    """Return what takes more instructions than the reference allows, as lines of text."""
    lines = []
    for name, one in found.items():
        old, new = reference[name], one["instructions"]
        same = one["made_with"] == old["made_with"]
        most = round(old["instructions"] * (GROWTH if same else OTHER_TOOLS))
        if new > most:
            lines.append(
                f"{name}: {new} instructions a module-frame with {one['made_with']}, expected at "
                f"most {most}: {old['instructions']} were counted with {old['made_with']}"
            )
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        counter = Counter(sys.argv[3])
        work(Path(sys.argv[2]), counter)
        (Path(sys.argv[2]) / "about.json").write_text(json.dumps(counter.about))
        return
    before = json.loads(REFERENCE.read_text()) if REFERENCE.exists() else {}
    found = count()
    for name, one in found.items():
        old = before.get(name, {}).get("instructions", float("nan"))
        new = one["instructions"]
        print(f"{name:24}{old:12}{new:12}{100 * (new / old - 1):+8.1f} %")
    if sys.argv[1:] == ["--renew"]:
        REFERENCE.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
