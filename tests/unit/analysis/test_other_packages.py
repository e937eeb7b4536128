"""Analyses and formats of other packages: what does not keep to the contract is named, early."""

from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from xfelmpi import mpi
from xfelmpi.analysis.hit_analysis import (
    AnalysedHits,
    analyse_hits,
    hit_analyses,
    require_columns,
)
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment
from xfelmpi.core.sparse_frames import SparseFrames
from xfelmpi.output.hit_formats import GROUP as FORMATS
from xfelmpi.output.hit_formats import hit_formats, hit_paths

ANALYSES = "xfelmpi.hit_analyses"

numbers = count()

ANALYSIS = """
import numpy as np
from xfelmpi.analysis.hit_analysis import AnalysisColumn

class Mine:
    columns = ({columns})
    def __init__(self, run):
        {begin}
    def process(self, hits):
        n = len(hits.frames)
        return {values}
"""

FORMAT = """
from xfelmpi.output.hit_writer import HitWriter

class Mine(HitWriter):
    @classmethod
    def paths(cls, files):
        return {paths}
"""


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Write packages as pip installs them; each has a module, and names its class."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name="mine", group=ANALYSES):
        # a module is imported once
        module = f"other_package_{next(numbers)}"
        (tmp_path / f"{module}.py").write_text(text)
        about = tmp_path / f"{module}-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:Mine\n")
        return module

    return write


def analysis(columns='AnalysisColumn("mass", "kg"),', values="[np.zeros(n)]", begin="pass"):
    return ANALYSIS.format(columns=columns, values=values, begin=begin)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ('AnalysisColumn("mass", "kg", dtype="u2"),', "column mass is u2, expected f4 or f8"),
        ('AnalysisColumn("mass", "kg", dtype="i2"),', "column mass is i2, expected f4 or f8"),
        ('AnalysisColumn("mass", "kg")', "found the column 'mass', expected an AnalysisColumn"),
        ('AnalysisColumn("hit_score", ""),', "the name hit_score: the outputs have that already"),
        ('AnalysisColumn("litpixels", ""),', "the name litpixels: the outputs have that already"),
        ('AnalysisColumn("a", ""), AnalysisColumn("a", "m")', "the name a: mine has that already"),
        ('AnalysisColumn("a/b", ""),', "column 'a/b', expected letters"),
        ('AnalysisColumn("data", "", "instrument_1/detector_1"),', "group instrument_1/detector_1"),
        ('AnalysisColumn("x", "", "trainId"),', "group trainId of the CXI file has other things"),
        ('("mass", "kg", "", "f8"),', "expected an AnalysisColumn"),
        ("", "is no HitAnalysis with columns"),
    ],
)
def test_columns_that_cannot_be_in_the_outputs(columns, said, offer):
    offer(analysis(columns))
    with pytest.raises(UsageError, match="--analyse mine: ") as error:
        hit_analyses(("mine",))
    assert said in str(error.value)


def test_column_that_add_has_already(offer):
    offer(analysis())
    classes = hit_analyses(("mine",))
    require_columns(classes, ("pressure",))
    with pytest.raises(UsageError, match="the name mass: --add has that already"):
        require_columns(classes, ("pressure", "mass"))


@pytest.mark.parametrize("text", ["1 / 0", "raise SystemError('none')", "def f(:", "import nobody"])
def test_module_that_cannot_be_imported(text, offer):
    offer(text + "\n")
    with pytest.raises(UsageError, match=r"--analyse mine: \w+:Mine: "):
        hit_analyses(("mine",))


def test_name_of_several(offer):
    """Nobody can tell which one is meant; also if one of them is of this package."""
    modules = [offer(analysis()), offer(analysis())]
    offer(analysis(), name="radius")
    names = ", ".join(f"{module}:Mine" for module in sorted(modules))
    with pytest.raises(UsageError, match=f"is the name of several: {names}"):
        hit_analyses(("mine",))
    with pytest.raises(UsageError, match="--analyse radius: is the name of several"):
        hit_analyses(("radius",))


def analysed(n=3):
    """Run the analysis over the hits of a rank, whose frames are no hits else."""
    frames = SparseFrames(np.arange(n + 1), np.arange(n, dtype="u4"), np.ones(n, "u2"))
    hits = AnalysedHits(frames, np.zeros(n, int), np.ones(n), np.ones(n))
    blocks = iter([(np.arange(1, n + 1), hits)])
    classes, run = hit_analyses(("mine",)), SimpleNamespace()
    return analyse_hits(mpi.alone(), classes, run, blocks, n + 2)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("[0.0]", "process returned float64 of shape () for mass, expected 3 numbers"),
        ("[np.zeros((n, 1))]", "float64 of shape (3, 1)"),
        ("[np.zeros(n + 1)]", "float64 of shape (4,)"),
        ("[np.zeros(n, complex)]", "complex128 of shape (3,)"),
        ("[np.array(['1'] * n)]", "<U1 of shape (3,)"),
        ("[np.zeros(n), np.zeros(n)]", "returned 2 arrays, expected one for each of its 1 columns"),
        ("np.zeros(n)", "returned 3 arrays"),
        ("None", "TypeError: 'NoneType'"),
        ("[np.ones(n) / {}[0]]", "{module}.py, line 11: KeyError: 0"),
    ],
)
def test_values_that_are_no_column(values, said, offer):
    module = offer(analysis(values=values))
    with pytest.raises(UsageError, match="--analyse mine: ") as error:
        analysed()
    assert said.format(module=module) in str(error.value)


def test_error_before_the_first_hit(offer):
    offer(analysis(begin="raise ValueError('no geometry')"))
    with pytest.raises(UsageError, match=r"mine: \w+.py, line 8: ValueError: no geometry"):
        analysed()


def test_values_of_any_kind_of_number(offer):
    offer(analysis(values="[np.arange(n, dtype='u1')]"))
    (column,) = analysed()
    np.testing.assert_array_equal(column.values, [np.nan, 0, 1, 2, np.nan])


def test_formats_that_are_none(offer, tmp_path):
    offer(FORMAT.format(paths="[]"), name="cxi", group=FORMATS)
    with pytest.raises(UsageError, match="--also-write cxi: every job writes that"):
        hit_formats(("cxi",))
    offer("class Mine: pass\n", group=FORMATS)
    with pytest.raises(UsageError, match=r"--also-write mine: .* is no subclass of HitWriter"):
        hit_formats(("mine",))


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ("[files.cxi]", "r0050_hits.cxi is a file of cxi"),
        ("[files.events]", "r0050_events.h5 is a file of every job"),
        ("['x.h5']", "paths has 'x.h5', expected a Path"),
        ("[files.nothing]", ".py, line 7: AttributeError"),
    ],
)
def test_files_of_others(paths, said, offer, tmp_path):
    offer(FORMAT.format(paths=paths), group=FORMATS)
    settings = SimpleNamespace(also_write=("mine",))
    with pytest.raises(UsageError, match="--also-write mine: ") as error:
        hit_paths(settings, Experiment(tmp_path, tmp_path / "out", 50))
    assert said in str(error.value)
