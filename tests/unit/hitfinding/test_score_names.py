"""Every score and decision can be chosen; one table has what help text and report say of each."""

import pytest

from xfelmpi.cli.process import parser
from xfelmpi.core.config import choices
from xfelmpi.core.config.choices import DECISIONS, score_title
from xfelmpi.core.config.parts import HitSettings
from xfelmpi.hitfinding.frame_scores import SCORES


def test_every_score_can_be_chosen():
    assert set(choices.SCORES) == {*SCORES, "facility"}


def test_titles_differ():
    assert len({score.title for score in choices.SCORES.values()}) == len(choices.SCORES)


@pytest.mark.parametrize(("option", "table"), [("score", choices.SCORES), ("decide", DECISIONS)])
def test_help_text_says_what_every_choice_is(option, table):
    (action,) = (a for a in parser()._actions if a.dest == option)
    assert tuple(action.choices) == tuple(table)
    for name, choice in table.items():
        assert f"{name}: {choice.help}" in action.help


def test_options_without_effect_exist():
    for decision in DECISIONS.values():
        assert set(decision.not_used) <= set(HitSettings.__dataclass_fields__)


def test_score_of_another_version_has_a_title():
    assert score_title("energy") == "score (energy)"
