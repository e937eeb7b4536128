"""Every score can be chosen, and every choice has a title in the run report."""

from xfelmpi.core.config.choices import SCORES as TITLES
from xfelmpi.hitfinding.frame_scores import SCORES


def test_every_score_can_be_chosen():
    assert set(TITLES) == {*SCORES, "facility"}


def test_titles_differ():
    assert len(set(TITLES.values())) == len(TITLES)
