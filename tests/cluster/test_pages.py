"""Every command in the documentation, run in order, page by page, as a reader would."""

import os
import re
import shutil

import pytest
from docpages import (
    COMMANDS,
    EXPERIMENT,
    PAGES,
    ROOT,
    Shell,
    blocks,
    name,
    reader_environment,
    shape,
)

from xfelmpi.simulate import SimulationOptions, simulate

SMALL = {"trains": 2, "cells": tuple(range(12)), "hit_rate": 0.25, "truth": "hits"}
"""The runs of the pages here: what is said there of 10⁶ frames holds of 24."""

HALF = {"detector": "AGIPD-500K"}
"""And what is said of 10⁶ pixels holds of half of them."""

WHOLE = ("docs/tutorial.md", *(f"docs/howto/{page}.md" for page in ("python", "raw")))
"""Pages that need the larger detector: of raw data, or that show the shape of frames."""

OF_RAW = re.compile(r"xfelmpi (darks|\d+ --data raw)")
"""Commands in other pages for raw data, which can be simulated for the larger detector only."""

SHORTER = {
    "--trains 16 --cells 16": "--trains 2 --cells 12 --hit-rate 0.25",
    "--trains 8 --cells 4": "--trains 4 --cells 2",
    "--trains 4 --cells 16": "--trains 2 --cells 12 --hit-rate 0.25 --detector AGIPD-500K",
    "--trains 4 --cells 64": "--trains 2 --cells 12 --hit-rate 0.25 --detector AGIPD-500K",
    "RANKS=2 bash jobs/process_run.sh $run": "RANKS=1 bash jobs/process_run.sh $run",
    "np.ones((16, 512, 128), bool)": "np.ones((8, 512, 128), bool)",
    "--hit-modules 3 4 8 15": "--hit-modules 1 2 5 6",
    # an iteration takes a second
    "dragonfly.emc -t 2 3": "dragonfly.emc -t 2 1",
    "dragonfly.emc -t 4 3": "dragonfly.emc -t 4 1",
    "dragonfly.emc -t 4 15": "dragonfly.emc -t 4 2",
}
"""The same for runs that a page simulates, with nearly as many hits, for jobs in a loop, modules,
and reconstructions."""

PARTS = (".venv", "tests", "docs", "CHANGES.md")

pytestmark = pytest.mark.filterwarnings("default")

RUN_PAGES = [page for page in PAGES if any(b.language in COMMANDS for b in blocks(page))]


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment folder: corrected run 50, raw run 60, darks 41 to 43."""
    prefix = tmp_path_factory.mktemp("experiment") / "p007927"
    raw = {"trains": 4, "cells": (0, 1), "hit_rate": 0.3}
    simulate(SimulationOptions(run=50, prefix=prefix, **SMALL, seed=50))
    simulate(SimulationOptions(run=60, prefix=prefix, kind="raw", **raw))
    for run, stage in ((41, "high"), (42, "medium"), (43, "low")):
        simulate(SimulationOptions(run=run, prefix=prefix, kind="dark", gain_stage=stage, **raw))
    return prefix


@pytest.fixture(scope="module")
def half_experiment(tmp_path_factory):
    """One of a smaller detector: corrected runs 50 to 53."""
    prefix = tmp_path_factory.mktemp("half") / "p007927"
    for run in (50, 51, 52, 53):
        masks = {"with_mask": run == 51}
        simulate(SimulationOptions(run=run, prefix=prefix, **SMALL, **HALF, **masks, seed=run))
    return prefix


@pytest.fixture
def project(tmp_path):
    """A folder that looks like the project's, to work in."""
    folder = tmp_path / "project"
    (folder / "jobs").mkdir(parents=True)
    for path in (*(ROOT / p for p in PARTS), *ROOT.glob("jobs/*")):
        (folder / path.relative_to(ROOT)).symlink_to(path)
    # all is installed, or no test would run; and the tests' own .venv must stay as it is
    (folder / "jobs" / "setup.sh").unlink()
    (folder / "jobs" / "setup.sh").write_text("#!/usr/bin/env bash\n")
    return folder


@pytest.fixture
def shell(request, project, tmp_path):
    """A reader's terminal in the project, with an experiment that nobody has worked on yet."""
    prefixes = {"experiment": tmp_path / "p007927", "half_experiment": tmp_path / "half/p007927"}
    if EXPERIMENT in request.param.read_text():
        for fixture, copy in prefixes.items():
            shutil.copytree(
                request.getfixturevalue(fixture), copy, copy_function=os.link, symlinks=True
            )
    words = ("sbatch", "srun", "xfelmpi submit")
    with_slurm = any(word in b.text for b in blocks(request.param) for word in words)
    environment = reader_environment(tmp_path / "programs")
    if with_slurm:
        environment["SLURM_CONF"] = str(request.getfixturevalue("slurm").config)
    yield Shell(tmp_path / "state", project, environment), prefixes
    shutil.rmtree(tmp_path)  # hundreds of MB


@pytest.mark.parametrize("shell", RUN_PAGES, indirect=True, ids=name)
def test_commands_of_a_page(shell, project, request):
    terminal, prefixes = shell
    page = request.node.callspec.params["shell"]
    prefix = prefixes["experiment" if name(page) in WHOLE else "half_experiment"]
    with_half = prefix.exists() and name(page) not in WHOLE
    output = ""
    for block in blocks(page):
        if block.skip:
            continue
        text = block.text.replace(EXPERIMENT, str(prefix))
        for whole, shorter in SHORTER.items():
            text = text.replace(whole, shorter)
        if block.language == "bash":
            if with_half and OF_RAW.search(text):
                text = f"(export EXP_PREFIX={prefixes['experiment']}\n{text})"
            done = terminal.run(text)
            output = done.stdout + (wait_for_jobs(request, terminal) if submits(text) else "")
        elif block.language == "python":
            done = terminal.run_python(text)
            output = done.stdout
        elif block.language == "text":
            assert_shown(block, text, output, project)
            continue
        else:
            continue
        assert done.returncode == block.status, (
            f"{block}: status {done.returncode}\n{output}\n{traces(terminal)}"
        )
        assert "Traceback" not in output, f"{block}\n{output}"


def submits(text) -> bool:
    """Whether commands submit jobs to Slurm."""
    return "sbatch" in text or "xfelmpi submit" in text


def traces(terminal) -> str:
    """Return what the page's commands have left behind: files and logs of batch jobs."""
    return terminal.run(
        'find "$EXP_PREFIX/scratch" -type f -printf "%TT %s %P\\n" | sort; scontrol -o show jobs;'
        ' tail -n 30 slurm-*.out "$EXP_PREFIX"/scratch/log/*.log'
    ).stdout


def wait_for_jobs(request, terminal) -> str:
    """Wait until all batch jobs are over, and return what is in their logs."""
    slurm = request.getfixturevalue("slurm")
    slurm.wait_for_all()
    jobs = slurm.run("scontrol", "--oneliner", "show", "jobs").stdout
    logs = terminal.run(
        'cat slurm-*.out "$EXP_PREFIX"/scratch/log/*.log 2>/dev/null || true'
    ).stdout
    ended = set(re.findall(r"JobState=(\w+)", jobs))
    assert ended == {"COMPLETED"}, f"{jobs}\n{logs}"
    return logs


def assert_shown(block, text, output, project):
    """Every line that the page shows is a line of the output, but for numbers."""
    lines = {shape(line, project) for line in output.splitlines()}
    for line in text.splitlines():
        wanted = shape(line, project)
        assert wanted in lines or wanted in ("", "…"), f"{block}: {line!r} is not in\n{output}"
