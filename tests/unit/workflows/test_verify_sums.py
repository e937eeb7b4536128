"""What verify expects of the sums and scores of the events file."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xfelmpi.core.config.options import Config
from xfelmpi.workflows.verify.events import sums


def outputs_with(score: str, hitscore) -> SimpleNamespace:
    """Return outputs of two frames of 3 and 5 lit pixels, of which one has two photons."""
    lit = np.array([3, 5])
    events = SimpleNamespace(
        litpixels=lit,
        photons=lit + 1,
        modules=np.full(2, 0xFFFF, np.uint16),
        hitscore=np.asarray(hitscore, np.float32),
        is_hit=np.zeros(2, bool),
        is_miss=np.zeros(2, bool),
    )
    own = SimpleNamespace(ones=lit - 1, peak=np.full(2, 2), entries=lit)
    run = SimpleNamespace(
        events=events,
        sums=own,
        modules_in_run=0xFFFF,
        config=Config(score=score),
        whole=True,
        attributes={},
    )
    paths = SimpleNamespace(events=Path("events.h5"))
    return SimpleNamespace(experiment=paths, run=run, mask_patched=False)


@pytest.mark.parametrize(("score", "right"), [("litpixels", [3, 5]), ("photons", [4, 6])])
def test_scores_are_sums(score, right):
    assert list(sums(outputs_with(score, right))) == []
    (finding,) = sums(outputs_with(score, [right[0], 7]))
    assert f"hitscore ({score})" in finding.text


def test_scores_that_are_no_column_are_left_to_the_run():
    """Of another score, the events file alone does not tell what it must be."""
    assert list(sums(outputs_with("photons per lit pixel", [4 / 3, 6 / 5]))) == []
