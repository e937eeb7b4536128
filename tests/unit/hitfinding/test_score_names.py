"""Every score can be chosen, and has a title in the run report."""

from xfelmpi.core.config.choices import SCORES as CHOICES
from xfelmpi.hitfinding.frame_scores import SCORES
from xfelmpi.report.run_page import _SCORES


def test_every_score_can_be_chosen():
    assert set(CHOICES) == {*SCORES, "facility"}


def test_every_score_has_a_title():
    assert set(_SCORES) == set(SCORES)
