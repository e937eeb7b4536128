"""Damaged outputs of a run, read back in this process: no error but ones that name the file.

``python tests/fuzz/mutated_outputs.py FOLDER [N] [SEED]``: FOLDER gets a run, its outputs and a
checkpoint. These are mutated N times. Outputs change in one dataset, attribute or byte, and are
read by all of report, show, merge and ``--from-events --dry-run`` that read this file. Kept files
and checkpoints change as files of runs do in ``mutated_runs.py``, and must be refused.
"""

import random
import sys
import traceback
from pathlib import Path

import h5py
import numpy as np
from mutated_runs import mutate as mutate_bytes

from xfelmpi.__main__ import main as xfelmpi
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import XfelmpiError
from xfelmpi.core.paths import Experiment
from xfelmpi.io import cache_file
from xfelmpi.io.checkpoint_file import DamagedError, open_checkpoint, write_checkpoint
from xfelmpi.output.cxi.reader import read_finished_hits
from xfelmpi.output.emc import EmcFile
from xfelmpi.output.events import read_finished_run
from xfelmpi.reduction.checkpoint import ENDING
from xfelmpi.report.build import make_report
from xfelmpi.report.overview import rebuild
from xfelmpi.workflows.merge.hits import collect
from xfelmpi.workflows.rethreshold import decide_finished, hit_rates

KEY = "key"
"""Of the kept file."""


def make_outputs(folder: Path) -> Experiment:
    """Simulate and process a small run."""
    where = ["--prefix", str(folder)]
    if not (folder / "scratch" / "events").is_dir():
        assert xfelmpi(["simulate", "50", *where, "--trains", "3", "--cells", "4"]) == 0
        assert xfelmpi(["50", *where]) == 0
    experiment = Experiment(folder, folder / "scratch", 50)
    trains = {"trains": read_finished_run(experiment.events).events.trainId}
    cache_file.save(experiment.index("fuzz"), KEY, trains, {"sample": "lysozyme"})
    _write_checkpoint(experiment)
    return Experiment(folder, folder / "scratch", 50)


def _write_checkpoint(experiment: Experiment) -> None:
    """Write a checkpoint with arrays of the run's own columns."""
    run = read_finished_run(experiment.events)
    rows = [[0, len(run.events.trainId)]]
    about = {"fingerprint": {"frames": "x"}, "rows": rows, "time": "now", "problems": []}
    arrays = {"train_id": run.events.trainId, "cell_id": run.events.cellId}
    arrays |= {f"sums/{name}": getattr(run.sums, name) for name in ("ones", "peak", "entries")}
    write_checkpoint(experiment.checkpoint / f"a{ENDING}", about, arrays)


def read_kept(path: Path, good: bytes) -> list[str]:
    """Read a kept file or checkpoint that is another one now; return what is wrong, if anything."""
    try:
        if path.suffix == ENDING:
            found = open_checkpoint(path)
            return [f"used, though it is damaged: {found}"] if path.read_bytes() != good else []
        found = cache_file.load(path, KEY, ("trains",), lambda arrays, about: (arrays, about))
        if found is not None and path.read_bytes() != good:
            return [f"used, though it is damaged: {found}"]
    except DamagedError:
        pass
    except Exception:
        return [traceback.format_exc()]
    return []


def mutate(path: Path, rng: random.Random) -> str:
    """Change one thing in a file, and return what."""
    if path.suffix in (".json", ".emc"):
        data = bytearray(path.read_bytes())
        at = rng.randrange(min(len(data), 4096))
        data[at] = rng.randrange(256)
        path.write_bytes(data[: rng.choice([at, len(data), len(data)])])
        return f"byte {at}"
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        if rng.random() < 0.25:
            name = rng.choice(list(file.attrs))
            how = rng.choice(["gone", 5, "", "text", -1, np.zeros(3), np.float64("nan")])
            del file.attrs[name]
            if not isinstance(how, str) or how != "gone":
                file.attrs[name] = how
            return f"attribute {name} {how}"
        name = rng.choice([n for n in names if file[n].size < 5_000_000])
        values, attributes = file[name][()], dict(file[name].attrs)
        how, changed = _changed(values, rng)
        del file[name]
        if changed is not None:
            file[name] = changed
            file[name].attrs.update(attributes)
        return f"{name} {how}"


def _changed(values, rng: random.Random):
    values = np.asarray(values)
    how = rng.choice(["gone", "cut", "none", "scalar", "type", "text", "value", "twice"])
    if how == "gone":
        return how, None
    if how == "scalar":
        return how, np.float32(7)
    if how == "text":
        return how, "text"
    if how == "type":
        kind = rng.choice(["f4", "i8", "u1", "f8", "S3"])
        return f"{how} {kind}", np.zeros(values.shape, kind)
    if values.ndim == 0 or values.dtype.names or values.dtype.kind not in "iufb":
        return "empty", np.zeros((0,), "f4")
    if how in ("cut", "none"):
        return how, values[: len(values) // 2 if how == "cut" else 0]
    if how == "twice":
        return how, np.concatenate([values, values])
    changed = values.copy().reshape(-1)
    extreme = [np.nan, np.inf, -np.inf, 1e30, 0] if values.dtype.kind == "f" else [0, 1]
    if values.dtype.kind in "iu":
        extreme += [np.iinfo(values.dtype).max, np.iinfo(values.dtype).min]
    if len(changed):
        changed[rng.randrange(len(changed)) :] = rng.choice(extreme)
    return how, changed.reshape(values.shape)


def read_all(experiment: Experiment, path: Path) -> list[str]:
    """Read a file in every way; return the tracebacks of errors that are no user's errors."""
    found = []

    def report() -> None:
        make_report(experiment)

    def hits() -> None:
        read_finished_hits(experiment.cxi)

    def merge() -> None:
        collect((50,), [experiment.cxi], "hit_sigma > 0")

    def show() -> None:
        from xfelmpi.cli import show

        # in the same words as the report, without its pictures
        if path == experiment.events:
            show._run(experiment, 80, colour=False)
        show._hit(experiment, 0, 80, colour=False)

    def emc() -> None:
        try:
            EmcFile(experiment.emc)
        except (OSError, ValueError) as error:
            raise XfelmpiError(str(error)) from None

    def again() -> None:
        config = Config(prefix=experiment.prefix, output=experiment.output, run=50)
        hit_rates(config, [3.0, 5.0])
        decide_finished(config, read_finished_run(experiment.events))

    readers = {
        experiment.events: (report, show, again),
        experiment.powder: (report,),
        experiment.cxi: (report, show, hits, merge),
        experiment.emc: (emc,),
        experiment.status: (lambda: rebuild(experiment.overview),),
    }
    for work in readers[path]:
        try:
            work()
        except XfelmpiError:
            pass
        except Exception:
            found.append(traceback.format_exc())
    return found


def fuzz(folder: Path, n: int, seed: int = 0) -> list[str]:
    """Mutate n times; return what went wrong."""
    experiment = make_outputs(folder)
    files = (experiment.events, experiment.powder, experiment.cxi, experiment.emc)
    files += (experiment.status,)
    kept = (experiment.index("fuzz"), experiment.checkpoint / f"a{ENDING}")
    good = {path: path.read_bytes() for path in (*files, *kept)}
    wrong = []
    for number in range(n):
        rng = random.Random(f"{seed} {number}")
        if number % 2:
            path, what = rng.choice(kept), "bytes"
            path.write_bytes(mutate_bytes(good[path], np.random.default_rng([seed, number])))
            found = read_kept(path, good[path])
        else:
            path = rng.choice([experiment.events, experiment.events, experiment.cxi, *files])
            try:
                what = mutate(path, rng)
            except KeyError as error:
                # HDF5 1.10 cannot remove every link
                what = str(error)
            found = read_all(experiment, path)
        wrong += [f"{number}: {path.name}: {what}\n{text}" for text in found]
        path.write_bytes(good[path])
    return wrong


if __name__ == "__main__":
    arguments = sys.argv[1:]
    failures = fuzz(Path(arguments[0]), *(int(text) for text in arguments[1:] or ["100"]))
    sys.stdout.write("\n".join(failures) + f"\n{len(failures)} failures\n")
    sys.exit(bool(failures))
