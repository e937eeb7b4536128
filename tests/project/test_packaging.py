"""The conda recipe and the container's definition say what pyproject.toml says, and can be read.

Neither conda-build nor Apptainer is here: that they build is not tested.
"""

import re
import shutil
import subprocess
import tomllib

import pytest
from docpages import ROOT

PACKAGING = ROOT / "packaging"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def recipe(mpi: str) -> dict:
    """The recipe as conda-build would read it: selectors, then Jinja, then YAML."""
    yaml = pytest.importorskip("yaml")
    jinja2 = pytest.importorskip("jinja2")
    kept = []
    for line in (PACKAGING / "conda" / "meta.yaml").read_text().splitlines():
        selector = re.search(r"#\s*\[(.+)\]$", line)
        if not selector or eval(selector[1], {"mpi": mpi, "linux": True}):
            kept.append(line.partition("#")[0] if selector else line)
    names = {"PYTHON": "python", "CONDA_PY": "311", "PKG_HASH": "0", "PKG_BUILDNUM": "0"}
    text = jinja2.Template("\n".join(kept), undefined=jinja2.StrictUndefined).render(
        mpi=mpi, compiler=lambda language: f"{language}-compiler", environ={}, **names
    )
    return yaml.safe_load(text)


@pytest.mark.parametrize("mpi", ["nompi", "openmpi", "mpich"])
def test_recipe_asks_for_what_the_project_asks_for(mpi):
    found = recipe(mpi)
    run = [" ".join(text.split()) for text in found["requirements"]["run"]]
    wanted = [text.replace(">=", " >=") for text in PROJECT["project"]["dependencies"]]
    assert set(wanted) <= set(run)
    assert f"python {PROJECT['project']['requires-python']}" in run
    assert ("h5py * nompi_*" in run) == (mpi == "nompi")
    assert (f"h5py * mpi_{mpi}_*" in run) == (mpi != "nompi")
    host = {text.split()[0] for text in found["requirements"]["host"]}
    built_with = {re.match(r"[\w-]+", text)[0] for text in PROJECT["build-system"]["requires"]}
    assert built_with | {"libdeflate"} <= host
    assert found["about"]["license"] == PROJECT["project"]["license"]
    assert found["about"]["summary"] == PROJECT["project"]["description"]
    (entry,) = found["build"]["entry_points"]
    assert entry == f"xfelmpi = {PROJECT['project']['scripts']['xfelmpi']}"
    assert "skip" not in found["build"]


def sections() -> dict[str, str]:
    """The sections of the definition, which begin with %name."""
    text = (PACKAGING / "apptainer" / "xfelmpi.def").read_text()
    head, *rest = re.split(r"^%(\w+)\n", text, flags=re.MULTILINE)
    assert "Bootstrap: docker" in head
    return dict(zip(rest[::2], rest[1::2], strict=True))


def test_definition_has_scripts_that_a_shell_can_read():
    found = sections()
    assert set(found) == {"files", "post", "environment", "runscript", "test", "labels"}
    for name in ("post", "environment", "runscript", "test"):
        checked = subprocess.run(["sh", "-n"], input=found[name], text=True, capture_output=True)
        assert checked.returncode == 0, (name, checked.stderr)
        if shutil.which("shellcheck"):
            command = ["shellcheck", "-s", "sh", "-e", "SC1091", "-"]
            checked = subprocess.run(command, input=found[name], text=True, capture_output=True)
            assert checked.returncode == 0, checked.stdout
    assert "bash jobs/setup.sh" in found["post"]


def test_citation_says_what_the_project_says():
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(found)
    assert found["license"] == PROJECT["project"]["license"]
    summary = PROJECT["project"]["description"]
    assert found["title"].lower() == f"{PROJECT['project']['name']}: {summary}".lower()
