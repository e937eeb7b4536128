"""Sample and run type from the metadata catalogue: a package that the test writes, or none."""

import sys
import time

import pytest

from xfelmpi.core.config.options import Config
from xfelmpi.core.machine_records import MachineData
from xfelmpi.run import find_run
from xfelmpi.run.machine import metadata_catalogue
from xfelmpi.run.machine.metadata_catalogue import CatalogueQuery

PACKAGE = """
import time
class Proposal:
    def __init__(self, number):
        {begin}
        self.number = number
    def run_sample_name(self, run):
        {sample}
    def run_type(self, run):
        {run_type}
"""
ANSWERS = {
    "begin": "pass",
    "sample": "return f'virus of {self.number} r{run}'",
    "run_type": "return 'Sample'",
}


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """Write the package ``extra_proposal``; other answers than the usual by name."""

    def write(**answers):
        (tmp_path / "extra_proposal.py").write_text(PACKAGE.format(**ANSWERS | answers))
        sys.modules.pop("extra_proposal", None)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("EXTRA_DATA_DATA_ROOT", str(tmp_path))

    yield write
    sys.modules.pop("extra_proposal", None)


def test_answer(catalogue):
    catalogue()
    answer, why = CatalogueQuery(7927, 50).answer()
    assert answer == {"sample": "virus of 7927 r50", "run_type": "Sample"}
    assert why == ""


@pytest.mark.parametrize(("proposal", "allowed"), [(0, True), (7927, False)])
def test_not_asked(catalogue, proposal, allowed):
    catalogue(begin="raise SystemExit(9)")
    assert CatalogueQuery(proposal, 50, allowed=allowed).answer() == ({}, "")


def test_not_at_the_facility(catalogue, monkeypatch, tmp_path):
    catalogue()
    monkeypatch.setenv("EXTRA_DATA_DATA_ROOT", str(tmp_path / "none"))
    answer, why = CatalogueQuery(7927, 50).answer()
    assert answer == {}
    assert f"not asked: no folder {tmp_path}/none" in why
    assert "extra_proposal" not in sys.modules


def test_not_installed(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    assert CatalogueQuery(7927, 50).answer() == ({}, "")


@pytest.mark.parametrize(
    ("answers", "known"),
    [
        ({"begin": "raise SystemExit('no credentials')"}, set()),
        ({"begin": "raise RuntimeError('no credentials')"}, set()),
        ({"run_type": "raise OSError('no credentials')"}, {"sample"}),
    ],
)
def test_whatever_goes_wrong_is_a_note(catalogue, answers, known):
    catalogue(**answers)
    answer, why = CatalogueQuery(7927, 50).answer()
    assert set(answer) == known
    assert "no credentials" in why


def test_slow_answers_are_not_waited_for(catalogue, monkeypatch):
    monkeypatch.setattr(metadata_catalogue, "SECONDS", 0.3)
    catalogue(run_type="time.sleep(60)")
    query = CatalogueQuery(7927, 50)
    begin = time.monotonic()
    answer, why = query.answer()
    assert time.monotonic() - begin < 50
    assert "no answer within 0.3 s" in why
    assert set(answer) <= {"sample"}


def described(catalogue, stored="No Sample", **options):
    machine = MachineData(
        pulse_energy=None, wavelength=None, n_pulses=None, sample=stored, run_type="Test"
    )
    config = Config(50, **options)
    asked = CatalogueQuery(7927, 50, allowed=config.ask_catalogue)
    return find_run._described(config.sample, machine, asked)


def test_catalogue_before_metadata(catalogue):
    catalogue()
    found = described(catalogue)
    assert (found.sample, found.run_type) == ("virus of 7927 r50", "Sample")
    assert {s.value: s.source for s in found.sources} == dict.fromkeys(
        ("sample", "run_type"), "metadata catalogue (extra_proposal)"
    )
    # the files call the run a test
    (warning,) = found.warnings
    assert "run type is 'Sample'" in warning
    assert "'Test' by METADATA" in warning


def test_no_sample_is_unknown(catalogue):
    catalogue(sample="return 'No Sample'", run_type="return ''")
    assert described(catalogue).sample == ""
    assert described(catalogue, "lysozyme").sample == "lysozyme"


@pytest.mark.parametrize(
    ("stored", "ask", "name", "source"),
    [
        ("x", True, "virus of 7927 r50", "metadata catalogue (extra_proposal)"),
        ("x", False, "x", "METADATA of the run's files"),
        ("No Sample", False, "mine", "--sample"),
    ],
)
def test_what_the_user_says_counts_last(catalogue, stored, ask, name, source):
    """But whoever is contradicted hears so."""
    catalogue()
    found = described(catalogue, stored, sample="mine", ask_catalogue=ask)
    assert found.sample == name
    assert next(s.source for s in found.sources if s.value == "sample") == source
    (said,) = [text for text in found.warnings if text.startswith("sample is")] or [""]
    assert ("'mine' by --sample" in said) == (name != "mine")
