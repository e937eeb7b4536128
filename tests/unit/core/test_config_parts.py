"""Parts of the settings are what `Config` has, and stages get no more."""

import inspect
from dataclasses import FrozenInstanceError, fields

import pytest

from xfelmpi.calibration.constants import load_calibration
from xfelmpi.calibration.pixel_mask import load_masks
from xfelmpi.core.config import parts
from xfelmpi.core.config.options import Config
from xfelmpi.hitfinding.hit_finder import decide_run, draw_misses
from xfelmpi.reduction.observers import FrameKeeper, LikelyHits

PARTS = (parts.HitSettings, parts.RawSettings, parts.MaskSettings)


@pytest.mark.parametrize("part", PARTS)
def test_values_and_types_are_those_of_the_settings(part):
    config = Config(50, sigma=3.5, hit_modules=(3, 4), adu_per_photon=60.0)
    found = config.part(part)
    types = {field.name: field.type for field in fields(Config)}
    assert fields(part)
    for field in fields(part):
        assert getattr(found, field.name) == getattr(config, field.name)
        assert field.type == types[field.name], field.name
    with pytest.raises(FrozenInstanceError):
        setattr(found, fields(part)[0].name, None)


@pytest.mark.parametrize(
    ("stage", "part"),
    [
        (decide_run, parts.HitSettings),
        (draw_misses, parts.HitSettings),
        (LikelyHits, parts.HitSettings),
        (FrameKeeper, parts.HitSettings),
        (load_calibration, parts.RawSettings),
        (load_masks, parts.MaskSettings),
    ],
)
def test_stages_say_what_they_use(stage, part):
    assert inspect.signature(stage).parameters["settings"].annotation is part
