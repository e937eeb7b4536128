"""The version of the program comes from the git tags, and from nowhere else."""

import os
import re
import shutil
import subprocess

import pytest
from docpages import ROOT

import xfelmpi


@pytest.fixture
def sources(tmp_path):
    """A folder with the script that says the version."""
    (tmp_path / "jobs").mkdir()
    shutil.copy(ROOT / "jobs" / "version.sh", tmp_path / "jobs")
    return tmp_path


def git(folder, *words):
    names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
    environment = {**os.environ, **dict.fromkeys(names, "a"), "GIT_CONFIG_GLOBAL": os.devnull}
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True, env=environment)


def commit(folder):
    git(folder, "commit", "--allow-empty", "-m", "a")


def version(folder, *words, **env):
    command = [str(folder / "jobs" / "version.sh"), *words]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **env}
    )
    return done.stdout.strip()


def test_tags_say_the_version(sources):
    git(sources, "init", "-q")
    commit(sources)
    commit(sources)
    assert version(sources) == "0.2.0.dev2"
    git(sources, "tag", "v0.2.0")
    assert version(sources) == "0.2.0"
    commit(sources)
    assert version(sources) == "0.2.1.dev1"
    git(sources, "tag", "another-tag")
    assert version(sources) == "0.2.1.dev1"
    git(sources, "tag", "-a", "v0.10.9", "-m", "a")
    assert version(sources) == "0.10.9"
    commit(sources)
    commit(sources)
    assert version(sources) == "0.10.10.dev2"


def test_archive_keeps_version_and_commit(sources, tmp_path):
    assert version(sources, "commit") == "unknown"
    assert version(sources) == "0.2.0.dev0"
    git(sources, "init", "-q")
    commit(sources)
    git(sources, "tag", "v3.1.4")
    (sources / "new").touch()
    git(sources, "add", "new")
    of_git = version(sources, "commit")
    assert re.fullmatch("[0-9a-f]{12}-dirty", of_git)
    assert version(sources, "keep", MESON_DIST_ROOT=str(tmp_path)) == ""
    shutil.rmtree(sources / ".git")
    assert version(sources) == "3.1.4"
    # the archive has what was committed, and nothing else
    assert version(sources, "commit") == of_git.removesuffix("-dirty")


def test_version_of_the_program():
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", xfelmpi.__version__)
    assert xfelmpi.__version__ != "0.1.0"


def test_version_stands_nowhere_else():
    for path in ("pyproject.toml", "meson.build", "src/xfelmpi/__init__.py"):
        assert not re.search(r"version\W*[=:]\s*[\"']\d", (ROOT / path).read_text()), path
