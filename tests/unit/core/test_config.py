"""Command line, TOML file and environment to a configuration, or a message that helps."""

import argparse
import json
import math
import re
import tomllib
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from xfelmpi.__main__ import load
from xfelmpi.cli import process
from xfelmpi.cli.parser import (
    Parser,
    add_arguments,
    add_runs,
    add_with_defaults,
    from_arguments,
    options,
    read_toml,
)
from xfelmpi.core.config.options import GROUPS, Config
from xfelmpi.core.config.parsing import (
    parse_cells,
    parse_energy,
    parse_mask_bits,
    parse_size,
    parse_trains,
)
from xfelmpi.core.config.validation import low_sigma, without_effect
from xfelmpi.core.errors import UsageError
from xfelmpi.core.paths import Experiment

ADD = ("a=S/k", "b_2=A/B/C:output/data.x")

# option: (words on the command line, line of a TOML file, value), none of them the default
EVERY_OPTION = {
    "prefix": (["/exp/p1"], '"/exp/p1"', Path("/exp/p1")),
    "output": (["out"], '"out"', Path("out")),
    "data": (["proc"], '"proc"', "proc"),
    "detector": (["MID_DET_AGIPD1M-1"], '"MID_DET_AGIPD1M-1"', "MID_DET_AGIPD1M-1"),
    "trains": (["2:90"], '"2:90"', (2, 90)),
    "suspect_trains": (["exclude"], '"exclude"', "exclude"),
    "sample": (["gold"], '"gold"', "gold"),
    "mask": (["run", "file"], '["run", "file"]', ("run", "file")),
    "mask_bits": (["NOISY_ADC", "0x3"], '["NOISY_ADC", 3]', (1 << 17, 3)),
    "mask_trains": (["9"], "9", 9),
    "cell_mask": (["c.h5"], '"c.h5"', Path("c.h5").absolute()),
    "global_mask": (["g.h5"], '"g.h5"', Path("g.h5").absolute()),
    "hit_mask": (["h.h5"], '"h.h5"', Path("h.h5").absolute()),
    "hit_modules": (["3", "4", "15"], "[3, 4, 15]", (3, 4, 15)),
    "adu_per_photon": (["8.3"], "8.3", 8.3),
    "photon_threshold": (["0.6"], "0.6", 0.6),
    "constants": (["calib"], '"calib"', Path("calib").absolute()),
    "common_mode": (["asic"], '"asic"', "asic"),
    "score": (["photons"], '"photons"', "photons"),
    "decide": (["fixed"], '"fixed"', "fixed"),
    "sigma": (["5.5"], "5.5", 5.5),
    "fixed_threshold": (["1000"], "1000", 1000.0),
    "min_scores": (["250"], "250", 250),
    "width": (["iqr"], '"iqr"', "iqr"),
    "sigma_floor": (["none"], '"none"', "none"),
    "min_score": (["5"], "5", 5.0),
    "max_score": (["9e4"], "9e4", 9e4),
    "min_pulse_energy": (["200uJ"], '"200uJ"', 200e-6),
    "exclude_cells": (["31,5-7,0"], "[31, 5, 6, 7, 0]", (0, 5, 6, 7, 31)),
    "first_cell": (["2"], "2", 2),
    "normalise": (["pulse-energy"], '"pulse-energy"', "pulse-energy"),
    "miss_fraction": (["0.5"], "0.5", 0.5),
    "miss_base": (["misses"], '"misses"', "misses"),
    "geometry": (["a.geom"], '"a.geom"', Path("a.geom").absolute()),
    "distance": (["0.7"], "0.7", 0.7),
    "add": (["a=S/k", "b_2=A/B/C:output/data.x"], '["a=S/k", "b_2=A/B/C:output/data.x"]', ADD),
    "dragonfly": (["recon"], '"recon"', Path("recon").absolute()),
    "recon": (["2d"], '"2d"', "2d"),
    "bin": (["8"], "8", 8),
    "roi_qmax": (["0.25/nm"], '"0.25/nm"', (0.25, "/nm")),
    "ewald_rad": (["900"], "900", 900.0),
    "polarisation": (["y"], '"y"', "y"),
    "photon_energy": (["6keV"], '"6 keV"', 6000 * 1.602176634e-19),
    "max_bad": (["0.25"], "0.25", 0.25),
    "memory_per_rank": (["1.5G"], '"1.5G"', 3 << 29),
    "checkpoint_minutes": (["7.5"], "7.5", 7.5),
    "analyse": (["radius"], '["radius"]', ("radius",)),
    "also_write": (["npz", "b"], '["npz", "b"]', ("npz", "b")),
    "where": (["photons > 5"], '"photons > 5"', "photons > 5"),
    "hits": (["facility"], '"facility"', "facility"),
    "distance_offset": (["-0.25"], "-0.25", -0.25),
    "background": (["cell"], '"cell"', "cell"),
    "size": (["spheroid"], '"spheroid"', "spheroid"),
    "density": (["334"], "334", 334.0),
    "size_range": (["20:90.5"], '"20:90.5"', (20.0, 90.5)),
}

FLAGS = {f.name: f.default for f in options() if isinstance(f.default, bool)}
DEFAULTS = {f.name: f.default for f in options() if f.name not in FLAGS}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("EXP_PREFIX", raising=False)


def make_parser():
    parser = argparse.ArgumentParser(prog="xfelmpi", allow_abbrev=False)
    parser.add_argument("run", type=int)
    add_arguments(parser)
    return parser


def configure(*words) -> Config:
    return from_arguments(make_parser().parse_args(["50", *map(str, words)]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ("include", 400 << 20, True, None)),
        ("--suspect-trains exclude --memory-per-rank 1G --no-vds --detector A",
         ("exclude", 1 << 30, False, "A")),
    ],
)  # fmt: skip
def test_some_options_for_another_command(words, expected):
    parser = argparse.ArgumentParser()
    names = ("suspect_trains", "memory_per_rank", "vds", "detector")
    add_with_defaults(parser, *names)
    given = parser.parse_args(words.split())
    assert tuple(getattr(given, name) for name in names) == expected
    assert sorted(vars(given)) == sorted(names)


@pytest.fixture
def toml(tmp_path):
    """Write a TOML file and return its name."""

    def write(text):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        return path

    return write


def words_of(name):
    return ["--" + name.replace("_", "-"), *EVERY_OPTION[name][0]]


def test_every_option_is_tested():
    assert set(EVERY_OPTION) == set(DEFAULTS)
    assert all(EVERY_OPTION[name][2] != default for name, default in DEFAULTS.items())


def test_defaults():
    settings = configure("--prefix", "/exp")
    assert settings.run == 50
    assert settings.prefix == Path("/exp")
    assert settings.output == Path("/exp/scratch")
    for name, default in (DEFAULTS | FLAGS).items():
        if name not in ("prefix", "output"):
            assert getattr(settings, name) == default, name


def test_every_option_on_the_command_line():
    settings = configure(*(word for name in EVERY_OPTION for word in words_of(name)))
    for name, (_, _, value) in EVERY_OPTION.items():
        assert getattr(settings, name) == value, name
        assert type(getattr(settings, name)) is type(value), name


@pytest.mark.parametrize("dashes", [True, False])
def test_every_option_in_a_file(toml, dashes):
    names = {name: name.replace("_", "-") if dashes else name for name in EVERY_OPTION}
    path = toml("".join(f"{names[n]} = {line}\n" for n, (_, line, _) in EVERY_OPTION.items()))
    settings = configure("--config", path)
    for name, (_, _, value) in EVERY_OPTION.items():
        assert getattr(settings, name) == value, name
        assert type(getattr(settings, name)) is type(value), name


@pytest.mark.parametrize("name", [n for n in EVERY_OPTION if n not in ("decide", "prefix")])
def test_command_line_wins(toml, name):
    _, line, value = EVERY_OPTION[name]
    table = {"prefix": '"/exp"', "decide": '"fixed"', "fixed_threshold": "3", "sigma": "9"}
    other = {
        "data": '"auto"',
        "suspect_trains": '"include"',
        "score": '"litpixels"',
        "hits": '"own"',
        "background": '"run"',
        "recon": '"3d"',
        "size": '"none"',
        "density": "400",
        "size_range": '"10:20"',
        "common_mode": '"none"',
        "trains": '"1:"',
        "hit_modules": "[9]",
        "mask": '"none"',
        "mask_bits": "9",
        "mask_trains": "7",
        "add": '["c=S/k"]',
        "also_write": '["c"]',
        "analyse": '["c"]',
        "memory_per_rank": '"300M"',
        "checkpoint_minutes": "0",
        "min_scores": "7",
        "width": '"lower"',
        "sigma_floor": '"poisson"',
        "min_pulse_energy": "0.125",
        "exclude_cells": '"9"',
        "first_cell": "7",
        "normalise": '"unmasked"',
        "miss_base": '"hits"',
        "bin": "4",
        "roi_qmax": "70",
        "polarisation": '"none"',
        "photon_energy": '"9keV"',
    }
    table[name] = other.get(name, '"other"' if line.startswith('"') else "0.125")
    path = toml("".join(f"{key} = {text}\n" for key, text in table.items()))
    assert getattr(configure("--config", path), name) != value
    settings = configure("--config", path, *words_of(name))
    assert getattr(settings, name) == value
    assert settings.sigma == (value if name == "sigma" else 9), "the rest of the file stays"


@pytest.mark.parametrize("name", FLAGS)
def test_flags(toml, name):
    """A word without a value turns the default round; in a file it is true or false."""
    default = FLAGS[name]
    option = "--" + ("no-" if default else "") + name.replace("_", "-")
    assert getattr(configure("--prefix", "/exp", option), name) is not default
    for value in (True, False):
        path = toml(f'prefix = "/exp"\n{name} = {str(value).lower()}\n')
        assert getattr(configure("--config", path), name) is value
        assert getattr(configure("--config", path, option), name) is not default
    for wrong in ("1", '"true"', "[true]"):
        with pytest.raises(UsageError, match=name):
            configure("--prefix", "/exp", "--config", toml(f"{name} = {wrong}"))


def test_default_on_the_command_line_wins_too(toml):
    path = toml('prefix = "/exp"\nsigma = 9\ndata = "proc"\n')
    settings = configure("--config", path, "--sigma", "4", "--data", "auto")
    assert (settings.sigma, settings.data) == (4.0, "auto")


def test_experiment_folder(monkeypatch, toml):
    """Command line, else file, else environment; the outputs go below it unless named."""
    with pytest.raises(UsageError, match=r"--prefix DIR or set EXP_PREFIX"):
        configure()
    monkeypatch.setenv("EXP_PREFIX", "")
    with pytest.raises(UsageError, match="EXP_PREFIX"):
        configure()
    monkeypatch.setenv("EXP_PREFIX", "/from/environment")
    path = toml('prefix = "/from/file"')
    assert configure().output == Path("/from/environment/scratch")
    assert configure("--config", path).prefix == Path("/from/file")
    assert configure("--config", path, "--prefix", "/from/line").prefix == Path("/from/line")
    settings = configure("--output", "elsewhere")
    assert settings.prefix == Path("/from/environment")
    assert settings.output == Path("elsewhere")


# what a file can have wrong


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("sigmaa", "sigma"),
        ("adu-per-foton", "adu_per_photon"),
        ("hit_module", "hit_modules"),
        ("photosphere", None),
        ("x", None),
        ("run", None),
        ("config", None),
    ],
)
def test_unknown_name(toml, key, near):
    path = toml(f"{key} = 1\n")
    with pytest.raises(UsageError) as caught:
        configure("--config", path)
    message = str(caught.value)
    assert str(path) in message
    assert f"unknown option {key}" in message
    if near:
        assert f"did you mean {near}?" in message


@pytest.mark.parametrize(
    ("line", "say"),
    [
        ("sigma = true", "sigma"),
        ('sigma = "four"', "sigma"),
        ("sigma = [4]", "sigma"),
        ("sigma = {a = 1}", "sigma"),
        ("[sigma]\na = 1", "sigma"),
        ("prefix = 5", "prefix"),
        ("hit_modules = 3", "list"),
        ('hit_modules = "3 4"', "list"),
        ("hit_modules = [3.7]", "whole numbers"),
        ("hit_modules = [true]", "whole numbers"),
        ('hit_modules = ["a"]', "whole numbers"),
        ('mask = "all"', "run-static"),
        ('mask = ["run", "all"]', "run-static"),
        ("mask = 3", "mask"),
        ("mask = [true]", "mask"),
        ('mask_bits = "NOISY"', "did you mean NOISY_ADC"),
        ('mask_bits = ["NOISY_ADC", 0]', "from 1 to 0xffffffff"),
        ("mask_bits = [1.5]", "mask_bits"),
        ("mask_bits = true", "mask_bits"),
        ("mask_trains = 2.5", "whole"),
        ("add = 3", "list of texts"),
        ("add = [3]", "list of texts"),
        ('add = "a=S/k"', "list of texts"),
        ('add = ["a"]', "NAME=SOURCE/KEY"),
        ("add = {a = 3}", "NAME=SOURCE/KEY"),
        ('score = "pixels"', "litpixels"),
        ("score = 3", "litpixels"),
        ('data = ["proc"]', "data"),
        ('trains = "5"', "A:B"),
        ("trains = 5", "A:B"),
        ("trains = [1, 2, 3]", "two numbers"),
        ('trains = ["a", "b"]', "two numbers"),
        ("trains = [1.5, 4]", "two numbers"),
        ("trains = [-4, 4]", "two numbers"),
        ("trains = [false, true]", "two numbers"),
        ("min_scores = 3.5", "whole"),
        ("first_cell = true", "first_cell"),
        ("exclude_cells = [1.5]", "whole numbers"),
        ("exclude_cells = [true]", "whole numbers"),
        ('exclude_cells = "7-5"', "ascending"),
        ("exclude_cells = 800", "0 to 799"),
        ("exclude_cells = [800]", "0 to 799"),
        ("exclude_cells = [-1]", "names no cells"),
        ('exclude_cells = "a"', "5-10"),
        ('exclude_cells = ""', "5-10"),
        ('min_pulse_energy = "200eV"', "200uJ"),
        ("min_pulse_energy = -1", "200uJ"),
        ('memory_per_rank = "lots"', "400M"),
        ("memory_per_rank = -1", "400M"),
        ("memory_per_rank = 1e30", "400M"),
    ],
)
def test_wrong_form_in_a_file(toml, line, say):
    path = toml(line)
    with pytest.raises(UsageError, match=say) as caught:
        configure("--prefix", "/exp", "--config", path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"sigma = ", b"sigma 4", b"\xff\xfe", b"sigma = 1\nsigma = 2"])
def test_no_toml(tmp_path, content):
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"--config .*settings\.toml"):
        read_toml(path)


def test_no_such_file(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.toml"):
        configure("--config", tmp_path / "absent.toml")


def test_numbers_in_a_file_need_no_point(toml):
    settings = configure("--config", toml('prefix = "/e"\nsigma = 5\ntrains = [0, 12]\nsample = 7'))
    assert settings.sigma == 5.0
    assert type(settings.sigma) is float
    assert settings.trains == (0, 12)
    assert settings.sample == "7"


# impossible values, wherever they come from

IMPOSSIBLE = [
    ("sigma", "nan"),
    ("sigma", "inf"),
    ("sigma", "1e200"),
    ("roi_qmax", "1e200"),
    ("min_score", "1e39"),
    ("max_score", "-1e39"),
    ("adu_per_photon", "0"),
    ("adu_per_photon", "-1"),
    ("adu_per_photon", "nan"),
    ("adu_per_photon", "inf"),
    ("adu_per_photon", "1e39"),
    ("adu_per_photon", "1e-46"),
    ("photon_threshold", "0"),
    ("photon_threshold", "1e-9"),
    ("photon_threshold", "1.001"),
    ("photon_threshold", "-0.5"),
    ("photon_threshold", "nan"),
    ("miss_fraction", "-0.1"),
    ("miss_fraction", "nan"),
    ("miss_fraction", "inf"),
    ("fixed_threshold", "nan"),
    ("fixed_threshold", "inf"),
    ("min_scores", "0"),
    ("min_scores", "-5"),
    ("min_score", "nan"),
    ("max_score", "inf"),
    ("min_pulse_energy", "0"),
    ("min_pulse_energy", "200"),
    ("mask", "auto run"),
    ("mask", "run none"),
    ("mask_trains", "0"),
    ("mask_trains", "101"),
    ("first_cell", "-1"),
    ("first_cell", "800"),
    ("distance", "0"),
    ("distance", "1e-9"),
    ("distance", "-0.7"),
    ("distance", "700"),
    ("distance", "nan"),
    ("memory_per_rank", "255M"),
    ("memory_per_rank", "0"),
    ("checkpoint_minutes", "-1"),
    ("checkpoint_minutes", "inf"),
    ("trains", "5:5"),
    ("trains", "6:5"),
    ("trains", "0:0"),
    ("hit_modules", "16"),
    ("hit_modules", "-1"),
]


@pytest.mark.parametrize(("name", "text"), IMPOSSIBLE)
def test_impossible_values(toml, name, text):
    words = ["--prefix", "/exp"]
    if name == "fixed_threshold":
        words += ["--decide", "fixed"]
    option = name.replace("_", "-")
    with pytest.raises(UsageError, match=f"--{option}: found .*, expected "):
        configure(
            *words, *(["--mask", *text.split()] if name == "mask" else [f"--{option}={text}"])
        )
    line = f"[{text}]" if name == "hit_modules" else text
    if name == "mask":
        line = str(text.split())
    if name in ("trains", "memory_per_rank"):
        line = f'"{text}"'
    with pytest.raises(UsageError, match=option):
        configure(*words, "--config", toml(f"{name} = {line}"))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("sigma", "-2", -2.0),
        ("sigma", "0", 0.0),
        ("photon_threshold", "1", 1.0),
        ("photon_threshold", "1e-6", 1e-6),
        ("miss_fraction", "0", 0.0),
        ("memory_per_rank", "256M", 256 << 20),
        ("distance", "99.9", 99.9),
        ("distance", "0.001", 0.001),
        ("trains", "0:1", (0, 1)),
        ("hit_modules", "0", (0,)),
    ],
)
def test_values_just_possible(name, text, value):
    found = configure("--prefix", "/exp", "--" + name.replace("_", "-"), text)
    assert getattr(found, name) == value


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--hit-modules 3,4,8,15", (3, 4, 8, 15)),
        ("--hit-modules 3 4 --hit-modules 15", (3, 4, 15)),
        ("--hit-modules 0-3,8", (0, 1, 2, 3, 8)),
        ("--exclude-cells 0 5-7", (0, 5, 6, 7)),
        ("--exclude-cells 0,5-7 9", (0, 5, 6, 7, 9)),
    ],
)
def test_lists_in_one_word_or_in_several(words, value):
    found = configure("--prefix", "/exp", *words.split())
    assert getattr(found, words.split()[0][2:].replace("-", "_")) == value


@pytest.mark.parametrize("run", [-1, 100_000])
def test_impossible_run(run):
    with pytest.raises(UsageError, match="99999"):
        Config(run=run)


def test_scores_from_below_to_above():
    with pytest.raises(UsageError, match=r"--max-score: found 4\.0, expected at least --min-score"):
        configure("--prefix", "/e", "--min-score", "5", "--max-score", "4")
    settings = configure("--prefix", "/e", "--min-score", "5", "--max-score", "5")
    assert (settings.min_score, settings.max_score) == (5.0, 5.0)


@pytest.mark.parametrize(
    ("text", "energy"),
    [
        ("200uJ", 200e-6),
        ("200 µJ", 200e-6),
        ("0.5mJ", 5e-4),
        ("2e-4", 2e-4),
        ("2E-4 J", 2e-4),
        ("30nJ", 30e-9),
        (2e-4, 2e-4),
        ("1.5e1uJ", 1.5e-5),
    ],
)
def test_energies(text, energy):
    assert parse_energy(text) == energy


@pytest.mark.parametrize("text", ["", "uJ", "-1uJ", "nan", "200u", "1.2.3", "200 keV"])
def test_no_energies(text):
    with pytest.raises(ValueError, match=r"could not convert|is not an energy"):
        parse_energy(text)


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("0", (0,)),
        ("5-5", (5,)),
        ("350-351,3 2", (2, 3, 350, 351)),
        ("1-3,2-4", (1, 2, 3, 4)),
        ([9, 4, 9], (4, 9)),
        ([], ()),
        (7, (7,)),
    ],
)
def test_cells(text, cells):
    assert parse_cells(text) == cells


@pytest.mark.parametrize("text", ["", "-3", "3-", "5-3", "800", "1;2", "a", "1-2-3"])
def test_no_cells(text):
    with pytest.raises(ValueError, match=r"names no cells|cells from 0 to 799"):
        parse_cells(text)


@pytest.mark.parametrize(
    ("text", "bits"),
    [
        ("OFFSET_OUT_OF_THRESHOLD", 1),
        ("noisy_adc", 1 << 17),
        ("NON_STANDARD_SIZE", 1 << 22),
        ("CI_GAIN_OUT_OF_THRESHOLD", 16),
        ("CI_GAIN_OF_OF_THRESHOLD", 16),
        ("4096", 4096),
        ("0x12", 18),
        ("0b101", 5),
        ("4294967295", 0xFFFFFFFF),
        (6, 6),
    ],
)
def test_mask_bits(text, bits):
    assert parse_mask_bits(text) == bits


@pytest.mark.parametrize("text", ["", "0", "-1", "4294967296", "1.5", "HOT", "NOISY_ADC,OVERSCAN"])
def test_no_mask_bits(text):
    with pytest.raises(ValueError, match=r"expected bits from 1|kind of bad pixel"):
        parse_mask_bits(text)


@pytest.mark.parametrize("name", ["mask", "mask_bits"])
def test_no_masks_or_bits_in_a_list(toml, name):
    with pytest.raises(UsageError, match=r"--mask.*found none, expected at least one"):
        configure("--prefix", "/e", "--config", toml(f"{name} = []"))


def test_one_mask_in_a_file_needs_no_list(toml):
    settings = configure("--prefix", "/e", "--config", toml('mask = "run"\nmask_bits = "OVERSCAN"'))
    assert (settings.mask, settings.mask_bits) == (("run",), (1 << 18,))


def test_empty_list_of_modules(toml):
    """Not the same as none named: it would leave no region and no hits."""
    with pytest.raises(UsageError, match="hit-modules"):
        configure("--prefix", "/e", "--config", toml("hit-modules = []"))


def test_fixed_threshold_and_fixed_decision_belong_together():
    with pytest.raises(UsageError, match="fixed-threshold"):
        configure("--prefix", "/e", "--decide", "fixed")
    with pytest.raises(UsageError, match="--decide fixed"):
        configure("--prefix", "/e", "--fixed-threshold", "100")
    settings = configure("--prefix", "/e", "--decide", "fixed", "--fixed-threshold", "0")
    assert settings.fixed_threshold == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--sigma", "four"],
        ["--score", "pixels"],
        ["--hit-modules", "a"],
        ["--hit-modules"],
        ["--trains", "5"],
        ["--memory-per-rank", "lots"],
        ["--sig", "4"],
        ["--unknown"],
    ],
)
def test_wrong_words(capsys, words):
    """argparse's own way out: status 2, and the option's name on standard error."""
    with pytest.raises(SystemExit) as caught:
        configure("--prefix", "/e", *words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_values_to_add(toml):
    settings = configure("--prefix", "/e", "--add", "a=S/k", " b = S/k ", "--add", "c=S/T/k.value")
    assert settings.add == ("a=S/k", "b=S/k", "c=S/T/k.value")
    table = toml('prefix = "/e"\n[add]\na = "S/k"\nb = "S/T:output/data.x"\n')
    assert configure("--config", table).add == ("a=S/k", "b=S/T:output/data.x")


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a=",
        "=S/k",
        "a=S",
        "a=S/",
        "1a=S/k",
        "a-b=S/k",
        "ä=S/k",
        "a=S /k",
        "a/b=S/k",
        "a=b=S/k",
    ],
)
def test_values_to_add_of_another_form(toml, text):
    with pytest.raises(UsageError, match="NAME=SOURCE/KEY"):
        configure("--prefix", "/e", "--config", toml(f'add = ["{text}"]'))


@pytest.mark.parametrize(
    "names",
    [
        ("trainId",),
        ("is_hit",),
        ("gain_switched",),
        ("problems",),
        ("sums",),
        ("name",),
        ("detector_1",),
        # columns of hits, of which --where knows only the name
        ("lit_pixels",),
        ("hit_score",),
        ("train_id",),
        ("vds_index",),
        ("photon_energy",),
        ("run",),
        ("a", "a"),
    ],
)
def test_names_of_values_to_add(names):
    with pytest.raises(UsageError, match=r"--add: found .*, expected "):
        configure("--prefix", "/e", "--add", *(f"{name}=S/k" for name in names))


@pytest.mark.parametrize("run", [[], ["fifty"], ["5.5"]])
def test_run_is_a_number(capsys, run):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args(run)
    assert caught.value.code == 2
    assert "run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400M", 400 << 20),
        ("1.5G", 3 << 29),
        ("2k", 2048),
        ("2K", 2048),
        ("1T", 1 << 40),
        ("512MiB", 512 << 20),
        ("512MB", 512 << 20),
        ("10B", 10),
        (" 3 G ", 3 << 30),
        ("123456", 123456),
        (123456, 123456),
        (5e8, 500_000_000),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size
    assert type(parse_size(text)) is int


@pytest.mark.parametrize(
    "text", ["", "M", "-1M", "1 0M", "1,5G", "400m", "1P", "1e9", "nan", "1..5G"]
)
def test_no_sizes(text):
    with pytest.raises(ValueError, match=r"expected e\.g\. 400M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "trains"),
    [
        ("0:100", (0, 100)),
        (":100", (None, 100)),
        ("7:", (7, None)),
        (":", (None, None)),
        ([3, 9], (3, 9)),
    ],
)
def test_trains(text, trains):
    assert parse_trains(text) == trains
    assert list(range(200))[slice(*trains)] == list(range(trains[0] or 0, trains[1] or 200))


@pytest.mark.parametrize("text", ["", "5", "1:2:3", "-3:", "a:b", "1.5:2", "1 : 2", None])
def test_no_trains(text):
    with pytest.raises(ValueError, match="A:B"):
        parse_trains(text)


def test_help_names_everything():
    """Every option, in the group of its stage, with its default unless that is nothing."""
    text = process.parser().format_help()
    places = [text.index(f"\n{title}:") for title in GROUPS.values()]
    assert places == sorted(places)
    stage = {n: text[a:b] for n, a, b in zip(GROUPS, places, [*places[1:], None], strict=True)}
    for f in options():
        entries = re.split(r"\n  --(?:no-)?", stage[f.metadata["group"]])
        name = f.name.replace("_", "-")
        (about,) = (" ".join(e.split()) for e in entries if re.match(rf"{name}\b(?!-)", e))
        assert f.metadata["help"] in about
        if f.default is not None and f.name not in FLAGS:
            assert "(default: " in about, f.name
    assert "(default: 400M)" in text
    assert "--config" in text


def test_configuration_is_frozen():
    settings = configure("--prefix", "/exp")
    with pytest.raises(FrozenInstanceError):
        settings.sigma = 3.0
    with pytest.raises(UsageError):
        replace(settings, sigma=math.nan)


def test_json_has_everything(toml):
    """All options, readable by any JSON reader, and the same text for the same settings."""
    words = [word for name in EVERY_OPTION for word in words_of(name)]
    text = configure(*words).to_json()

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    found = json.loads(text, parse_constant=no_constant)
    assert found.pop("run") == 50
    for name, (_, _, value) in EVERY_OPTION.items():
        value = str(value) if isinstance(value, Path) else value
        assert found.pop(name) == (list(value) if isinstance(value, tuple) else value)
    assert found == FLAGS
    path = toml("\n".join(f"{n} = {line}" for n, (_, line, _) in EVERY_OPTION.items()))
    assert tomllib.loads(path.read_text())
    assert configure("--config", path).to_json() == text


@pytest.mark.parametrize("text", ["50", "r0050", "R50"])
def test_forms_of_a_run_number(text):
    from xfelmpi.core.config.parsing import parse_run

    assert parse_run(text) == 50


@pytest.mark.parametrize("text", ["50-53", "", "p50", "5.0", "-1", "\0", "٥", "9" * 400])
def test_no_run_number(text):
    from xfelmpi.core.config.parsing import parse_run

    with pytest.raises(ValueError, match="50 or r0050"):
        parse_run(text)


def test_runs_of_five_digits():
    from xfelmpi.core.config.parsing import parse_run

    assert parse_run("r12345") == 12345
    assert Experiment(Path("/e"), Path("/o"), parse_run("12345")).name == "r12345"
    with pytest.raises(ValueError, match="found 100000, expected a run number 0 … 99999"):
        parse_run("100000")


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ("50 51", [50, 51]),
        ("r0050 R51", [50, 51]),
        ("50-53", [50, 51, 52, 53]),
        ("r0050-r0052 60", [50, 51, 52, 60]),
        ("51,50 60-61", [51, 50, 60, 61]),
    ],
)
def test_several_runs(words, runs):
    parser = Parser()
    add_runs(parser, "runs")
    assert parser.parse_args(words.split()).runs == runs


@pytest.mark.parametrize("words", ["53-50", "50-", "-50", "50--51", "50-53-55", "0-99999"])
def test_no_runs(words):
    parser = Parser()
    add_runs(parser, "runs")
    with pytest.raises(UsageError, match=r"expected|required|unrecognized"):
        parser.parse_args([words])


COMMANDS = ("process", "mask", "vds", "verify", "report", "show", "simulate", "merge", "darks")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_the_same_forms_of_a_run(command):
    parser = load(command).parser()
    given = parser.parse_args(["r0050"])
    assert getattr(given, "run", None) == 50 or given.runs == [50]
    with pytest.raises(UsageError, match="expected"):
        parser.parse_args(["run50"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"decide": "auto", "sigma": 5.0, "min_scores": 7}, ""),
        ({"decide": "auto", "width": "iqr"}, "--width iqr has no effect with --decide auto"),
        ({"decide": "train", "width": "iqr"}, ""),
        ({"decide": "run", "min_scores": 7}, "--min-scores 7 has no effect with --decide run"),
        ({"decide": "run", "min_scores": 7, "normalise": "pulse-energy"}, ""),
        (
            {"decide": "fixed", "fixed_threshold": 5.0, "sigma": 3.0, "width": "iqr"},
            "--sigma 3.0, --width iqr have no effect with --decide fixed",
        ),
        ({"hits": "facility", "exclude_cells": (0,), "min_pulse_energy": 1e-4}, ""),
        (
            {"hits": "facility", "sigma": 9.0, "hit_modules": (3, 4), "normalise": "pulse-energy"},
            "--sigma 9.0, --normalise pulse-energy, --hit-modules 3 4 have no effect with "
            "--hits facility",
        ),
        (
            {"hits": "facility", "min_scores": 7, "normalise": "pulse-energy"},
            "--min-scores 7, --normalise pulse-energy have no effect with --hits facility",
        ),
    ],
)
def test_options_without_effect_are_said(options, told):
    assert without_effect(Config(50, **options)) == told


@pytest.mark.parametrize("sigma", [0.0, -5.0])
def test_sigma_that_makes_hits_of_the_background(sigma):
    """It is not refused: whoever wants all frames as hits gives it, or with a lowest score."""
    said = f"--sigma {sigma:g}: half of the frames without a particle, or more, become hits"
    for decide in ("auto", "train", "window", "run"):
        assert low_sigma(Config(50, decide=decide, sigma=sigma)).startswith(said)
        assert low_sigma(Config(50, decide=decide, sigma=0.1)) == ""
    assert low_sigma(Config(50, sigma=sigma, min_score=100.0)) == ""
    assert low_sigma(Config(50, sigma=sigma, decide="fixed", fixed_threshold=5.0)) == ""
    assert low_sigma(Config(50, sigma=sigma, hits="facility")) == ""


def test_file_that_cannot_be_read(tmp_path):
    for path, reason in (
        (tmp_path / "no.toml", "No such file or directory"),
        (tmp_path, "regular"),
    ):
        with pytest.raises(UsageError, match=reason) as caught:
            read_toml(path)
        assert "Errno" not in str(caught.value)
