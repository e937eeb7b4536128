"""Ids on which modules differ: what most of them say counts, and the odd one is named.

One module's wrong pulseIds would give wrong pulse energies, its wrong cellIds frames whose parts
are of different pulses. Where no more than half of the modules agree, an id is unknown.
"""

import numpy as np

from xfelmpi.core.problems import Problem

UNKNOWN_PULSE = np.uint64(2**64 - 1)
"""The pulseId of a frame whose modules contradict each other: none that a pulse has."""

_NO_ENERGY = "pulseId unknown, pulse energy NaN there"

_AT_ONCE = 1 << 16
"""Frames whose pulseIds are counted at a time."""


def settle_cells(modules: dict, cell_bits: int, problems: list[Problem]) -> None:
    """Leave out, in place, frames of a module whose cellIds contradict those of most modules.

    Such a module has cells in a train that most others lack, though with pulses that these have,
    and lacks others that most have. If it has as many frames as they have, those that have other
    cells at their place go; else all of that train.

    Parameters
    ----------
    modules : dict of int to ModuleFrames
    cell_bits : int
        Of the keys.
    problems : list of Problem
        Gets one for each such module.
    """
    keys = [module.key for module in modules.values()]
    union = keys[0]
    if all(key is union or np.array_equal(key, union) for key in keys):
        return
    for key in {id(key): key for key in keys}.values():
        union = np.union1d(union, key)
    votes = np.zeros(len(union), int)
    for key in keys:
        votes[np.searchsorted(union, key)] += 1
    trains, of_union = np.unique(union >> cell_bits, return_inverse=True)
    present = np.zeros(len(trains), int)
    for key in keys:
        present[np.unique(np.searchsorted(trains, key >> cell_bits))] += 1
    rare, common = 2 * votes < present[of_union], 2 * votes > present[of_union]
    doubtful: dict[int, np.ndarray] = {}
    for m, module in modules.items():
        has = np.zeros(len(union), bool)
        has[np.searchsorted(union, module.key)] = True
        there = np.zeros(len(trains), bool)
        there[of_union[has]] = True
        there = there[of_union]
        odd = np.intersect1d(of_union[has & rare], of_union[~has & common & there])
        if len(odd):
            doubtful[m] = trains[odd]
    for m, odd_trains in doubtful.items():
        others = [modules[k] for k in modules if k not in doubtful]
        _leave_out(modules, m, odd_trains, others, cell_bits, problems)


def _leave_out(modules, m: int, trains, others: list, cell_bits: int, problems) -> None:
    """Leave out a module's frames of some trains that have another cell where the others stand.

    A frame whose cell no other module has stays if its pulse is one that no other has either:
    its ids do not contradict theirs.
    """
    module = modules[m]
    keep = np.ones(len(module.key), bool)
    for train in trains.tolist():
        own = _in_order(module, train, cell_bits)
        for other in others:
            usual = _in_order(other, train, cell_bits)
            if len(usual):
                break
        else:
            continue
        own_keys, keys = module.key[own], other.key[usual]
        extra = ~np.isin(own_keys, keys)
        if extra.any() and not np.isin(module.pulse[own[extra]], other.pulse[usual]).any():
            continue
        same = own_keys == keys if len(own) == len(usual) else np.zeros(len(own), bool)
        keep[own[~same]] = False
    if not keep.all():
        odd = np.unique(module.key[~keep] >> cell_bits)
        what = f"cellId of {(~keep).sum()} frames in {len(odd)} trains differs from that of most "
        problems.append(Problem(f"{what}modules", "", m, int(odd[0]), "frames left out there"))
        modules[m] = module.keep(keep)


def _in_order(module, train: int, cell_bits: int) -> np.ndarray:
    """Return the places of a train's frames in a module, in the order of its files."""
    a, b = np.searchsorted(module.key, [train << cell_bits, (train + 1) << cell_bits])
    return a + np.lexsort((module.row[a:b], module.file[a:b]))


def settle_pulses(
    union: np.ndarray, modules: dict, cell_bits: int, problems: list[Problem]
) -> np.ndarray:
    """Return the pulseId of every frame, uint64 (frame,), by most of the modules that have it.

    Modules whose pulseIds are wrong elsewhere do not count where there is no majority, and not
    where they are alone. If cells stand at other places in the files of such a module than in the
    others', its cellIds are wrong rather than its pulseIds: these frames are left out, in place.

    Parameters
    ----------
    union : ndarray, int64 (frame,)
        Keys of all frames, ascending.
    modules : dict of int to ModuleFrames
    cell_bits : int
        Of the keys.
    problems : list of Problem
        Gets one for each module that differs, and for frames whose pulseId stays unknown: there is
        no majority, or several frames of a train have the same.
    """
    pulse, voters, disputed = _first_pulses(union, modules)
    if disputed.any():
        pulse = _settled_by_most(union, modules, (pulse, voters, disputed), cell_bits, problems)
    return _without_repeats(union >> cell_bits, pulse, problems)


def _settled_by_most(union, modules: dict, first, cell_bits: int, problems) -> np.ndarray:
    """Return the pulseId of most modules, `UNKNOWN_PULSE` where there is no majority."""
    pulse, voters, disputed = first
    blamed: set[int] = set()
    frames = np.flatnonzero(disputed)
    tied = np.zeros(len(union), bool)
    for start in range(0, len(frames), _AT_ONCE):
        some = frames[start : start + _AT_ONCE]
        pulse[some], settled, odd = _vote(union[some], modules)
        tied[some] = ~settled
        blamed |= odd
    if tied.any() and blamed:
        trusted = {m: module for m, module in modules.items() if m not in blamed}
        frames = np.flatnonzero(tied)
        pulse[frames], settled, _ = _vote(union[frames], trusted)
        tied[frames] = ~settled
    for m in blamed:
        at = np.searchsorted(union, modules[m].key)
        tied[at[voters[at] == 1]] = True
    pulse[tied] = UNKNOWN_PULSE
    for m in sorted(blamed):
        _name_odd(m, union, pulse, modules, blamed, cell_bits, problems)
    if tied.any():
        what = f"pulseId of {tied.sum()} frames is not settled by a majority of modules"
        train = int(union[np.argmax(tied)] >> cell_bits)
        problems.append(Problem(what, "", -1, train, _NO_ENERGY))
    return pulse


def _without_repeats(train: np.ndarray, pulse: np.ndarray, problems) -> np.ndarray:
    """Return pulseIds without those that several frames of a train have: no two share a pulse.

    Parameters
    ----------
    train : ndarray, int64 (frame,)
        Ascending.
    pulse : ndarray, uint64 (frame,)
    problems : list of Problem
        Gets one for all of them.
    """
    same_train = train[1:] == train[:-1]
    if not (same_train & (pulse[1:] <= pulse[:-1])).any():
        return pulse  # they ascend in every train, as almost always
    order = np.lexsort((pulse, train))
    alike = same_train & (pulse[order][1:] == pulse[order][:-1])
    repeated = np.zeros(len(pulse), bool)
    repeated[order[1:][alike]] = repeated[order[:-1][alike]] = True
    repeated &= pulse != UNKNOWN_PULSE
    if not repeated.any():
        return pulse
    trains = np.unique(train[repeated])
    what = f"pulseId of {repeated.sum()} frames in {len(trains)} trains is that of another frame "
    problems.append(Problem(f"{what}of the train", "", -1, int(trains[0]), _NO_ENERGY))
    return np.where(repeated, UNKNOWN_PULSE, pulse)


def _first_pulses(union, modules: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the first module's pulseIds, how many modules have each frame, and which differ."""
    disputed = np.zeros(len(union), bool)
    first = modules[min(modules)]
    if all(module.key is union and module.pulse is first.pulse for module in modules.values()):
        return first.pulse, np.full(len(union), len(modules), np.int8), disputed
    pulse = np.zeros(len(union), np.uint64)
    voters = np.zeros(len(union), np.int8)
    for _, module in sorted(modules.items()):
        at = np.searchsorted(union, module.key)
        known = voters[at] > 0
        disputed[at] |= known & (pulse[at] != module.pulse)
        pulse[at[~known]] = module.pulse[~known]
        voters[at] += 1
    return pulse, voters, disputed


def _vote(keys: np.ndarray, modules: dict) -> tuple[np.ndarray, np.ndarray, set[int]]:
    """Return the pulseId of most modules, whether it is that of more than half, and who differs."""
    numbers = sorted(modules)
    if not numbers:
        return np.zeros(len(keys), np.uint64), np.zeros(len(keys), bool), set()
    said = np.zeros((len(numbers), len(keys)), np.uint64)
    says = np.zeros(said.shape, bool)
    for i, m in enumerate(numbers):
        _, own, there = np.intersect1d(
            modules[m].key, keys, assume_unique=True, return_indices=True
        )
        said[i, there], says[i, there] = modules[m].pulse[own], True
    alike = np.stack([((said == said[i]) & says).sum(axis=0) for i in range(len(numbers))])
    alike[~says] = 0
    best = alike.argmax(axis=0)
    every = np.arange(len(keys))
    settled = 2 * alike[best, every] > says.sum(axis=0)
    winner = said[best, every]
    odd = (says & (said != winner) & settled).any(axis=1)
    return winner, settled, {numbers[i] for i in np.flatnonzero(odd)}


def _name_odd(m: int, union, pulse, modules: dict, blamed: set[int], cell_bits, problems) -> None:
    """Name a module whose pulseIds differ; leave out frames whose cellIds are the wrong ones."""
    module = modules[m]
    right = pulse[np.searchsorted(union, module.key)]
    differs = (module.pulse != right) & (right != UNKNOWN_PULSE)
    trains = np.unique(module.key[differs] >> cell_bits)
    others = [modules[k] for k in modules if k not in blamed]
    swapped = [t for t in trains.tolist() if _other_order(module, others, t, cell_bits)]
    if swapped:
        _leave_out(modules, m, np.array(swapped), others, cell_bits, problems)
        differs &= ~np.isin(module.key >> cell_bits, swapped)
        trains = np.setdiff1d(trains, swapped)
    if differs.any():
        what = f"pulseId of {differs.sum()} frames in {len(trains)} trains differs from that of "
        what += "most modules"
        problems.append(Problem(what, "", m, int(trains[0]), "that of most modules used"))


def _other_order(module, others: list, train: int, cell_bits: int) -> bool:
    """Return whether a train's cells have another order than in the first other module."""
    own = module.key[_in_order(module, train, cell_bits)]
    for other in others:
        rows = _in_order(other, train, cell_bits)
        if len(rows):
            return len(rows) == len(own) and bool((other.key[rows] != own).any())
    return False
