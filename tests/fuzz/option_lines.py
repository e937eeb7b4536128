"""Command lines, environment variables and small text files made up at random, in this process.

``python tests/fuzz/option_lines.py FOLDER [N] [SEED]``: FOLDER gets a small run and its outputs.
Lines are made of the program's own options with likely, extreme and absurd values; the text files
(TOML, geometry, lock, JSON of the overview, conditions) are valid ones that are changed. Each must
be taken, or refused with a message: any other exception would end a job with a traceback. One line
in 200 is run as a whole job, which must end with status 0, 2 or 3. ``--only N`` repeats one.
"""

import argparse
import contextlib
import io
import json
import os
import random
import sys
import traceback
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

import numpy as np

from xfelmpi.__main__ import COMMANDS, load
from xfelmpi.__main__ import main as xfelmpi
from xfelmpi.calibration.geometry import load_geometry
from xfelmpi.cli import batch_options, process, simulate
from xfelmpi.cli import parser as arguments
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import XfelmpiError, as_user_error
from xfelmpi.core.paths import Experiment
from xfelmpi.core.shutdown import launched_as
from xfelmpi.core.text import printable
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.io import lock_file
from xfelmpi.output.events import FinishedRun, read_finished_run
from xfelmpi.report.overview import RunStatus, overview_page, read_statuses
from xfelmpi.workflows.merge.row_filter import rows_where
from xfelmpi.workflows.rethreshold import decide_finished, hit_rates

WHOLE_JOBS = 200
"""One line in so many is run as a whole job."""

NUMBERS = (
    *("0", "1", "-1", "2", "3.5", "-0.0", "1e-320", "1e308", "-1e308", "1e999", "nan", "inf"),
    *("-inf", "0x10", "1_000", "007", "٣", "²", "9" * 19, "9" * 30, "9" * 5000, "1e-99999", "."),
    *(str(2**31), str(2**32), str(2**63), str(2**64), str(-(2**63) - 1), "1e", "+5", "--5"),
)
TEXTS = (
    *("", " ", "a", "nowhere", ".", "/dev/null", "/dev/zero", "/proc/self/mem", "~"),
    *("a" * 300, "/".join("b" * 40 for _ in range(200)), "\udcff\udcfe", "ü", "\x1b[2J", "a\nb"),
    *("%s%n", "{0}", "$HOME", "a:b", "\u202e", "-", "=", "'", '"', "\\", "*", "none", "auto"),
)
FORMS = (
    *(":", "0:1", "5:2", f"0:{'9' * 20}", "::", "a:b", "0,1", "0-3", "3-0", "0,", "0-", "0-999999"),
    *("200uJ", "1e400J", "5 mJ", "1e999999999J", "6keV", "0eV", "1e400keV", "0.25/nm", "1e999/nm"),
    *("400M", "1.5G", "9" * 400 + "T", "0M", "256M", "-5M", "fixed", "window", "all", "proc"),
    *("a=B/c", "a=B/c=d", "is_hit=A/b", "a b=C/d", "=", "ADJ", "0x3", "4096", "-0x1", "1" * 5000),
)
CONDITION = (
    *("hit_sigma", "run", "pulse_energy", "x", "9" * 30, "1e999", "0", "-1", "3", "nan", "True"),
    *("+", "-", "*", "/", "%", "**", "<<", "<", ">=", "==", "!=", "in", "not in", "is", "and"),
    *(
        "or",
        "not",
        "(",
        ")",
        "(1, 2)",
        "[",
        "]",
        "abs(",
        "isfinite(",
        "lambda: 0",
        "'a'",
        ",",
        "\0",
    ),
)
VARIABLES = (
    *("EXP_PREFIX", "SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_CPUS_PER_TASK", "SLURM_STEP_ID"),
    *("HDF5_VDS_PREFIX", "HDF5_EXTFILE_PREFIX", "HDF5_USE_FILE_LOCKING", "XFELMPI_LAUNCHER"),
    *("COLUMNS", "LINES", "NO_COLOR", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "HOME"),
    *("OMPI_MCA_io", "SLURM_STEP_NUM_TASKS"),
)
TOML_VALUES = (
    *("true", "false", "1979-05-27T07:32:00Z", "07:32:00", "[]", "[[]]", "{}", "{a = 1}", "nan"),
    *("-inf", "1e400", "0xffffffffffffffffffff", "'x'", '"\\u0000"', '"\\U0010ffff"', "[1, 'a']"),
    *("['hits', 'none']", "[0, 9223372036854775808]", "['a=B/c', 'a=B/c']", '"', "= =", "'''"),
)
JSON_VALUES = (
    *(None, True, -1, 0, 10**30, 1e308, float("nan"), float("inf"), "", "x", "\ud800", "\x1b[2J"),
    *([], {}, [[]], "9" * 5000, {"state": 1}, "2026-11-26T00:00:00", "99999-01-01", 3e11),
)


def _word(rng: random.Random) -> str:
    pool = rng.choice((NUMBERS, TEXTS, FORMS))
    word = rng.choice(pool)
    if rng.random() < 0.1:
        at = rng.randrange(len(word) + 1)
        word = word[:at] + chr(rng.choice((0, 10, 34, 45, 58, 0x3A, 0xDC80, 0x1F600))) + word[at:]
    return word


def _path(rng: random.Random, folder: Path) -> str:
    """Return a path, which is below the folder if a job could write there."""
    word = rng.choice(("scratch", "good.geom", "options.toml", rng.choice(TEXTS)))
    if word.startswith(("/", "~")):
        return word
    return str(folder / rng.choice(("", "new")) / word.replace("/", "_").replace("\0", ""))


def _flags(command: str) -> list:
    actions = load(command).parser()._actions
    return [a for a in actions if a.option_strings and a.dest not in ("help", "config")]


def command_line(rng: random.Random, folder: Path, command: str) -> list[str]:
    """Return the words after the command's name."""
    words = [rng.choice(["50"] * 30 + [_word(rng)])]
    if command in ("merge", "darks", "patch", "submit"):
        words = ["50"] + [_word(rng) for _ in range(rng.choice((0, 0, 0, 1, 3)))]
    if rng.random() < 0.9:
        words += ["--prefix", str(folder)]
    n = min(rng.choice((0, 1, 1, 1, 2, 3, 5)), len(_FLAGS[command]))
    for action in rng.sample(_FLAGS[command], n):
        words.append(rng.choice(action.option_strings))
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            continue
        if action.dest == "prefix" or getattr(action.type, "__name__", "") == "Path":
            words.append(_path(rng, folder))
            continue
        n = action.nargs if isinstance(action.nargs, int) else rng.choice((1, 1, 1, 2))
        for _ in range(n):
            choices = list(action.choices or ())
            words.append(str(rng.choice(choices)) if choices and rng.random() < 0.7 else _word(rng))
    return words


def parse_line(rng: random.Random, known: "Known") -> str:
    """Parse a made-up command line as the command does, and use what comes out."""
    command = rng.choice((*["process"] * 6, *COMMANDS))
    argv = command_line(rng, known.folder, command)
    _parse(rng, known, command, argv)
    return f"{command} {argv}"


def _parse(rng: random.Random, known: "Known", command: str, argv: list[str]) -> None:
    if command == "process":
        given, sigmas = process._parse(argv)
        if given.from_events:
            config = process._config_from_events(given)
        else:
            config = arguments.from_arguments(given)
        # all but the path, which JSON cannot tell from another one that is shown alike
        again = Config.from_json(config.to_json())
        assert (again.sigma, again.trains) == (config.sigma, config.trains)
        if rng.random() < 0.2:
            hit_rates(config, sigmas or [config.sigma])
            decide_finished(config, known.run)
    elif command == "simulate":
        simulate.options_from(simulate.parser().parse_args(argv))
    elif command in ("watch", "submit"):
        batch_options.where(load(command).parser().parse_known_args(argv)[0])
    elif parse := getattr(load(command), "_given", None) or getattr(load(command), "_parse", None):
        parsed = parse(argv)
        if command == "merge" and parsed[2]:
            rows_where(parsed[2], known.columns)
    else:
        arguments.from_arguments(load(command).parser().parse_args(argv))


def _accepted_line(rng: random.Random, known: "Known") -> tuple[str, list[str]]:
    """Return a command and words that its parser takes, if a few attempts find some."""
    for _ in range(30):
        command = rng.choice((*["process"] * 6, *_WITH_RANKS))
        argv = command_line(rng, known.folder, command)
        with contextlib.suppress(XfelmpiError, SystemExit):
            _parse(rng, known, command, argv)
            break
    return command, argv


def whole_job(rng: random.Random, known: "Known") -> str:
    """Run a made-up line as a whole job."""
    command, argv = _accepted_line(rng, known)
    output = known.folder / "whole"
    if command == "simulate":
        argv += ["--prefix", str(output), "--trains", "1", "--cells", "2"]
    elif command == "darks":
        argv += ["--prefix", str(known.folder), "--out", str(output)]
    elif "--from-events" not in argv and command in ("process", "vds", "mask", "merge", "patch"):
        argv += ["--output", str(output)]
    where = f"{command} {argv}"
    # a file: the program says its descriptor to what tells of crashes
    with open(known.folder / "errors", "w+", errors="backslashreplace") as errors:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status = xfelmpi([command, *argv])
        errors.seek(0)
        text = errors.read()
    if status not in (0, 2, 3) and not (command == "verify" and status == 1):
        raise AssertionError(f"{where}: status {status}: {text[-3000:]}")
    if "Traceback" in text or "could not be made" in text:
        raise AssertionError(f"{where}: {text[-3000:]}")
    return where


def _changed(text: str, rng: random.Random) -> bytes:
    """Return a text with some of it changed, perhaps not UTF-8 any more."""
    data = text.encode(errors="surrogatepass")
    for _ in range(rng.choice((0, 1, 1, 1, 2, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(at + rng.choice((0, 1, 1, 5, 50)), len(data))
        new = rng.choice((b"", b"\0", b"\xff", b"9" * 400, b"[" * 3000, b'"', b"\n" * 2000, b"="))
        new = rng.choice((new, bytes([rng.randrange(256)]), data[at:end] * 3))
        data = data[:at] + new + data[end:]
    return data


def toml_file(rng: random.Random, known: "Known") -> str:
    """Read options from a made-up TOML file."""
    lines = []
    for f in rng.sample(_OPTIONS, rng.choice((1, 1, 2, 4))):
        value = rng.choice((json.dumps(printable(_word(rng))), _word(rng), rng.choice(TOML_VALUES)))
        lines.append(f"{rng.choice((f.name, f.name.replace('_', '-')))} = {value}")
    data = _changed("\n".join(lines), rng)
    path = known.folder / "options.toml"
    path.write_bytes(data)
    given, _ = process._parse(["50", "--prefix", str(known.folder), "--config", str(path)])
    arguments.from_arguments(given)
    return f"TOML {data!r}"


def geometry_file(rng: random.Random, known: "Known") -> str:
    """Read a changed geometry."""
    data = _changed(known.geometry, rng)
    if rng.random() < 0.5:
        name = rng.choice(("clen", "coffset", "photon_energy", "detector_shift_x", "mask", "res"))
        name = rng.choice((name, "badx/min_fs", "bad/panel", "p0a0/fs", "p0a0/corner_x", "group_a"))
        data += f"\n{name} = {_word(rng)}\n".encode(errors="surrogatepass")
    path = known.folder / "changed.geom"
    path.write_bytes(data)
    load_geometry(path, AGIPD_1M)
    return f"geometry {data!r:.300}"


def lock_text(rng: random.Random, known: "Known") -> str:
    """Read a changed lock."""
    values = dict(known.lock)
    for name in rng.sample([*values], rng.choice((0, 1, 2))):
        values[name] = rng.choice(JSON_VALUES)
    data = _changed(json.dumps(values), rng)
    path = known.folder / "changed.lock"
    path.write_bytes(data)
    owner = lock_file._read(path)
    lock_file._why_stale(owner, rng.choice((0.0, 1e9, -1e9)))
    path.with_name(f"{path.name}.{owner.token}")
    text = str(owner)
    assert text == printable(text), text
    return f"lock {data!r}"


def status_file(rng: random.Random, known: "Known") -> str:
    """Make an overview of changed files of runs."""
    folder = known.folder / "statuses"
    folder.mkdir(exist_ok=True)
    texts = []
    for number in range(2):
        values = dict(known.status)
        for name in rng.sample([*values], rng.choice((0, 1, 1, 2))):
            values[name] = rng.choice(JSON_VALUES)
        texts.append(_changed(json.dumps(values), rng))
        (folder / f"r{number:04}.json").write_bytes(texts[-1])
    page = overview_page(read_statuses(folder))
    page.encode(errors="backslashreplace")
    return f"status {texts!r:.600}"


def condition(rng: random.Random, known: "Known") -> str:
    """Choose rows by a made-up condition."""
    words = [rng.choice(CONDITION) for _ in range(rng.choice((1, 3, 3, 5, 9, 40)))]
    text = rng.choice((" ", "")).join(words)
    text = rng.choice((text, text, "(" * 3000 + text, "-" * 3000 + text, "not " * 2000 + text))
    rows_where(text, known.columns)
    return f"condition {text!r:.300}"


def launcher(rng: random.Random, known: "Known") -> str:
    """Say how a job is started again."""
    text = _word(rng)
    with patch.dict(os.environ, {"XFELMPI_LAUNCHER": text.replace("\0", "")}):
        launched_as(["50"], rng.choice((1, 3)))
    return f"launcher {text!r}"


_FLAGS = {command: _flags(command) for command in COMMANDS}
_WITH_RANKS = [command for command in COMMANDS if command not in ("watch", "submit")]
"""The others start jobs of their own."""

_OPTIONS = [f for f in fields(Config) if f.metadata]
KINDS = (*[parse_line] * 8, *[toml_file] * 4, lock_text, lock_text, status_file, status_file)
KINDS += (condition, condition, geometry_file, launcher)


class Known:
    """The run, its outputs, and valid texts of all kinds."""

    def __init__(self, folder: Path):
        self.folder = folder
        where = ["--prefix", str(folder)]
        experiment = Experiment(folder, folder / "scratch", 50)
        if not experiment.events.exists():
            assert xfelmpi(["simulate", "50", *where, "--trains", "2", "--cells", "3"]) == 0
            assert xfelmpi(["50", *where]) == 0
        self.run: FinishedRun = read_finished_run(experiment.events)
        n = len(self.run.events.trainId)
        self.columns = {"hit_sigma": np.linspace(-1, 9, n), "run": np.full(n, 50, np.uint16)}
        self.columns |= {"x": np.full(n, 2**62), "pulse_energy": np.full(n, np.nan)}
        from extra_geom import AGIPD_1MGeometry

        path = folder / "good.geom"
        AGIPD_1MGeometry.example().write_crystfel_geom(str(path), photon_energy=9000, clen=0.5)
        self.geometry = path.read_text()
        self.lock = lock_file.asdict(lock_file._myself())
        self.status = {f.name: None for f in fields(RunStatus)}
        self.status |= json.loads(experiment.status.read_text())


def attempt(number: int, seed: int, known: Known) -> str:
    """Do what a number says; return what went wrong, or nothing."""
    rng = random.Random(f"{seed} {number}")
    kind = whole_job if number % WHOLE_JOBS == 0 else rng.choice(KINDS)
    variables = {}
    for name in rng.sample(VARIABLES, rng.choice((0, 0, 1, 2))):
        variables[name] = rng.choice((_word(rng), str(known.folder))).replace("\0", "")
    try:
        with patch.dict(os.environ, variables), contextlib.redirect_stdout(io.StringIO()):
            kind(rng, known)
    except XfelmpiError:
        pass
    except SystemExit as stop:
        if stop.code:
            return f"{number}: {kind.__name__} left with {stop.code}"
    except Exception as error:
        # as the program does at its end: a name that is too long is no bug
        if not isinstance(as_user_error(error), XfelmpiError):
            trace = traceback.format_exc()
            return f"{number}: {kind.__name__} {variables}\n{trace[:1500]} … {trace[-1500:]}"
    return ""


def main() -> int:
    """Make up lines, and tell which ended badly."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("n", type=int, nargs="?", default=1000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    parser.add_argument("--only", type=int)
    given = parser.parse_args()
    known = Known(given.folder.absolute())
    # relative names are made there
    os.chdir(known.folder)
    numbers = range(given.n) if given.only is None else [given.only]
    wrong = [text for number in numbers if (text := attempt(number, given.seed, known))]
    sys.stdout.write("".join(f"{printable(text, keep=chr(10))}\n" for text in wrong))
    sys.stdout.write(f"{len(wrong)} failures of {len(numbers)} lines\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
