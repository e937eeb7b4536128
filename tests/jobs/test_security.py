"""What files and options say is never run, and never leads out of the output folder."""

import ast
import json
import os
import re
import shutil
import stat
import tempfile
import uuid
from html import escape
from pathlib import Path

import h5py
import numpy as np
import pytest
from launch import all_files, call_xfelmpi, run_program, run_xfelmpi
from mockrun import tiny_run

from xfelmpi.core.paths import Experiment
from xfelmpi.report import overview
from xfelmpi.report.build import make_report

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "subprocess"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "system", "popen", "load_pickle"}
UNSAFE_OPTIONS = {"shell", "allow_pickle"}
SAFE_YAML = {"safe_load", "YAMLError"}
ALLOWED = {"queues.py": {"subprocess"}}
"""Starts Slurm's commands and the script of a job, word by word: a shell is still refused."""


def unsafe(source: str) -> list[str]:
    """Return what in a program could run what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [n.name for n in node.names if n.name.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE_MODULES:
            found.append(node.module)
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            of = getattr(getattr(node.func, "value", None), "id", "")
            if called in UNSAFE_CALLS and of != "re":
                found.append(called)
            found += [k.arg for k in node.keywords if k.arg in UNSAFE_OPTIONS]
        if isinstance(node, ast.ImportFrom) and node.module == "yaml":
            found += [n.name for n in node.names if n.name not in SAFE_YAML]
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "yaml":
            found += [node.attr] if node.attr not in SAFE_YAML else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_that_is_read_is_run(path):
    assert set(unsafe(path.read_text())) <= ALLOWED.get(path.name, set())


def test_what_is_unsafe_is_found():
    lines = ("import pickle", "from yaml import load", "eval('1')", "os.system('ls')")
    lines += ("import yaml; yaml.load(text)", "import yaml; yaml.unsafe_load(text)")
    options = ("run('ls', shell=True)", "np.load('x', allow_pickle=True)")
    assert all(unsafe(line) for line in (*lines, *options))
    assert not unsafe("re.compile('x'); json.loads('1'); yaml.safe_load('1')")


@pytest.fixture(scope="module")
def mock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("security") / "p007927"
    return tiny_run(folder, trains=2, cells=(0, 1), sample=HOSTILE)


TOUCHED = Path(tempfile.gettempdir()) / f"xfelmpi-{uuid.uuid4().hex}"
"""Exists if anybody has run what stands in `HOSTILE`."""

HOSTILE = (
    "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>"
    f"$(touch {TOUCHED});`touch {TOUCHED}`/../../"
)
ADDED = "SPB_XTD9_XGM/DOOCS/MAIN/pulseEnergy.wavelengthUsed"


def test_hostile_texts_in_the_run(mock, tmp_path):
    """The sample's name stands in a file of the run: it is shown as it is, and does nothing."""
    args = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    done = run_xfelmpi([50, *args, "--decide", "fixed", "--fixed-threshold", 0], 2)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report" / "r0050.html").read_text()
    index = (tmp_path / "out" / "report" / "index.html").read_text()
    for text in (page, index):
        assert escape(HOSTILE) in text
        assert HOSTILE not in text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    outside = [name for name in all_files(tmp_path) if not name.startswith("out/")]
    assert outside == []
    assert not TOUCHED.exists()


CHECKED = ("configuration", "command_line", "data", "creation_date")
"""Attributes that are compared with what they may be when the file is read."""


def poison(item, depth=0) -> int:
    """Replace every text of an HDF5 group, but for the settings; returns how many there were."""
    count = 0
    for name, value in item.attrs.items():
        if name in ("input_files", "warnings"):
            item.attrs[name] = json.dumps([HOSTILE])
        elif name == "beamline_sources":
            item.attrs[name] = json.dumps([dict.fromkeys(json.loads(value)[0], HOSTILE)])
        elif name == "reduction":
            item.attrs[name] = json.dumps([[HOSTILE, HOSTILE]])
        elif name == "used_files":
            file = dict.fromkeys(("role", "path", "mtime", "sha256"), HOSTILE)
            item.attrs[name] = json.dumps([{**file, "size": None}, {**file, "size": 1}])
        elif isinstance(value, str) and name not in CHECKED:
            item.attrs[name] = HOSTILE
        count += isinstance(value, str)
    if isinstance(item, h5py.Group) and depth < 4:
        return count + sum(
            poison(item[name], depth + 1) for name in item if item.get(name) is not None
        )
    return count


def test_hostile_texts_in_the_outputs(mock, tmp_path):
    """Whoever can write to the output folder must not run a script in another one's browser."""
    out = tmp_path / "out"
    args = ["--prefix", mock.options.prefix, "--output", out, "--add", f"wave={ADDED}"]
    done = run_xfelmpi([50, *args, "--decide", "fixed", "--fixed-threshold", 0, "--no-report"])
    assert done.returncode == 0, done.stderr
    experiment = Experiment(mock.options.prefix, out, 50)
    kind = np.dtype([("what", "S200"), ("file", "S80"), ("module", "i2"), ("train", "u8")])
    kind = np.dtype([*kind.descr, ("action", "S80")])
    text = HOSTILE.encode()
    for path in (experiment.events, experiment.powder, experiment.cxi):
        with h5py.File(path, "r+") as file:
            poison(file)
            if "problems" in file:
                del file["problems"]
                file["problems"] = np.array([(text, text, 3, 5, text)], kind)
    make_report(experiment)
    page = experiment.page.read_text()
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert page.count(escape("<script>alert('x')")) > 5


def test_hostile_files_about_runs(tmp_path):
    """The overview is made of files that others wrote."""
    values = {"run": 50, "status": HOSTILE, "time": HOSTILE, "message": HOSTILE}
    values |= {"sample": HOSTILE, "thumbnail": HOSTILE, "frames": 3}
    (tmp_path / "r0050.json").write_text(json.dumps(values))
    (tmp_path / "r0051.json").write_text(json.dumps(values | {"run": HOSTILE}))
    (tmp_path / "r0052.json").write_text(json.dumps(values | {"frames": HOSTILE}))
    overview.rebuild(tmp_path / "index.html")
    text = (tmp_path / "index.html").read_text()
    assert escape(HOSTILE) in text
    assert "<script>alert" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".hidden", "a\nb", "", "a\0b"])
def test_merged_files_stay_in_their_folder(name, mock, tmp_path):
    args = ["merge", "50", "--prefix", str(mock.options.prefix), "--output", str(tmp_path)]
    done = call_xfelmpi([*args, f"--name={tmp_path / 'y' if name == '/x' else name}"])
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert [n for n in all_files(tmp_path) if "report" not in n] == []


@pytest.mark.parametrize("run", ["-5", "../50", "50/../51", "99999999999999999999"])
def test_run_numbers_stay_in_their_folder(run, mock, tmp_path):
    where = ["--prefix", mock.options.prefix, "--output", tmp_path / "out"]
    for command in ("process", "vds", "mask"):
        done = call_xfelmpi([command, run, *where])
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
    assert all(name.startswith("out/") for name in all_files(tmp_path))


@pytest.mark.parametrize("umask", ["022", "077", "002"])
def test_who_may_read_the_outputs(umask, mock, tmp_path):
    """What the umask allows, and group and world may always read."""
    args = ["--prefix", mock.options.prefix, "--output", tmp_path / "a" / "out"]
    args += ["--decide", "fixed", "--fixed-threshold", "0", "--distance", "0.7"]
    command = 'umask "$0"; exec "$@"'
    python = [shutil.which("python"), "-m", "xfelmpi"]
    tmp_path.chmod(0o755)
    done = run_program(["sh", "-c", command, umask, *python, 50, *args])
    assert done.returncode == 0, done.stderr
    allowed = 0o777 & ~int(umask, 8)
    paths = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
    assert len([path for path in paths if path.is_file()]) >= 9
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        right = allowed | 0o055 if path.is_dir() else allowed & 0o666 | 0o044
        assert mode == right, f"{path}: {mode:o}, expected {right:o}"


def test_no_secrets_in_the_outputs(mock, tmp_path):
    """The environment is nobody's business."""
    secret = uuid.uuid4().hex
    where = ["--prefix", mock.options.prefix, "--output", tmp_path]
    env = {"SOME_TOKEN": secret, "AWS_SECRET_ACCESS_KEY": secret, "PASSWORD": secret}
    done = run_xfelmpi([50, *where], 2, **env)
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    for name in all_files(tmp_path):
        assert secret.encode() not in (tmp_path / name).read_bytes(), name


# folders and files that may not be read or written; the superuser must give up the right to


def run_without_rights(args):
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    python = [shutil.which("python"), "-m", "xfelmpi"]
    return run_program([*(drop if os.geteuid() == 0 else []), *python, *args])


LOCKED = {
    "run folder": ("proc/r0050", 0o000, ["50"]),
    "files in it": ("proc/r0050", 0o444, ["50"]),
    "proc": ("proc", 0o000, ["50"]),
    "experiment": ("", 0o000, ["50"]),
    "experiment, vds": ("", 0o000, ["vds", "50"]),
    "experiment, mask": ("", 0o000, ["mask", "50"]),
    "experiment, darks": ("", 0o000, ["darks", "50"]),
    "masks": ("scratch/det", 0o000, ["50"]),
    "geometry": ("scratch/det/agipd.geom", 0o000, ["50"]),
    "output, again": ("scratch/events", 0o000, ["50", "--from-events"]),
    "output, show": ("scratch/events", 0o000, ["show", "50"]),
    "output, report": ("scratch/events", 0o000, ["report", "50"]),
    "output": ("scratch/events", 0o555, ["50"]),
    "all outputs": ("scratch", 0o555, ["merge", "50"]),
}


@pytest.mark.parametrize("name", LOCKED)
def test_what_may_not_be_used(name, mock, tmp_path):
    path, mode, args = LOCKED[name]
    prefix = shutil.copytree(mock.options.prefix, tmp_path / "p007927")
    (prefix / "scratch" / "events").mkdir()
    (prefix / path).chmod(mode)
    try:
        done = run_without_rights([*args, "--prefix", prefix])
    finally:
        (prefix / path).chmod(0o755)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = re.findall("^xfelmpi: error: (.*)$", done.stderr, re.MULTILINE)
    assert "ermission denied" in line or "[Errno 13]" in line
    assert str(prefix / path) in line


def test_options_that_may_not_be_read(mock, tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("sigma = 3\n")
    config.chmod(0)
    done = run_without_rights([50, "--prefix", mock.options.prefix, "--config", config])
    assert done.returncode == 2
    assert "a.toml" in done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
