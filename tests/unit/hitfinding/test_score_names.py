"""Every score can be chosen; one table has its title in the run report and its help text."""

from xfelmpi.cli.process import parser
from xfelmpi.core.config import choices
from xfelmpi.core.config.choices import score_title
from xfelmpi.hitfinding.frame_scores import SCORES


def test_every_score_can_be_chosen():
    assert set(choices.SCORES) == {*SCORES, "facility"}


def test_titles_differ():
    assert len({score.title for score in choices.SCORES.values()}) == len(choices.SCORES)


def test_help_text_says_what_every_score_counts():
    text = " ".join(parser().format_help().split())
    for name, score in choices.SCORES.items():
        assert f"{name}: {score.help}" in text


def test_score_of_another_version_has_a_title():
    assert score_title("energy") == "score (energy)"
