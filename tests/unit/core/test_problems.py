"""Problems: every one once, and thousands of a kind in a few."""

from xfelmpi.core.problems import (
    MOST_ALIKE,
    Problem,
    foremost,
    summarised,
)

TRAINS = range(1000, 1000 + 3 * MOST_ALIKE)


def lost(train, n=3, file="a.h5", module=4):
    return Problem(f"{n} frames: chunk does not inflate", file, module, train, "left out")


def test_few_stay_as_they_are():
    problems = [lost(train) for train in TRAINS[:MOST_ALIKE]]
    assert summarised([*problems, *problems]) == sorted(problems)
    assert summarised([]) == []


def test_order_does_not_matter():
    problems = [lost(train, 1 + train % 7) for train in TRAINS]
    assert summarised(problems) == summarised(problems[::-1])


def test_the_rest_of_a_kind_is_one():
    problems = [lost(train, 1 + train % 7) for train in TRAINS]
    found = summarised(problems)
    assert len(found) == MOST_ALIKE + 1
    assert set(problems[:MOST_ALIKE]) < set(found)
    (rest,) = set(found) - set(problems)
    first, last = TRAINS[MOST_ALIKE], TRAINS[-1]
    assert rest.what == (
        f"{2 * MOST_ALIKE} more, trains {first} … {last}, such as: "
        f"{1 + first % 7} frames: chunk does not inflate"
    )
    assert (rest.file, rest.module, rest.train, rest.action) == ("a.h5", 4, first, "left out")


def test_kinds_files_and_modules_are_told_apart():
    problems = [lost(t, file=f, module=m) for t in TRAINS for f in ("a.h5", "b.h5") for m in (1, 2)]
    problems += [Problem("something else", "a.h5", 1, t) for t in TRAINS]
    assert len(summarised(problems)) == 5 * (MOST_ALIKE + 1)


def test_without_trains():
    problems = [Problem(f"train ID 0 at position {i}", "a.h5", 1) for i in range(MOST_ALIKE + 5)]
    assert "5 more, such as: train ID 0 at position" in " ".join(
        p.what for p in summarised(problems)
    )


def test_every_kind_is_among_the_foremost():
    many = [lost(train) for train in TRAINS]
    others = [Problem("something else", f"{i}.h5") for i in range(3)]
    found = foremost([*many, *others], 10)
    assert found == [*many[:7], *others]
    assert foremost(many[:4], 10) == many[:4]
    assert foremost([], 10) == []
