"""Masks: what they say of every pixel and cell, and what is refused."""

import zlib
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from xfelmpi.calibration.mask_blocks import BLOCK_BYTES, mask_blocks, with_chunk_cache
from xfelmpi.calibration.mask_files import MaskFile, check_mask, join_mask
from xfelmpi.calibration.pixel_mask import load_masks
from xfelmpi.calibration.plausible import few_good_pixels
from xfelmpi.core.config.options import Config
from xfelmpi.core.errors import InputError
from xfelmpi.core.paths import Experiment
from xfelmpi.detectors.agipd import AGIPD_1M
from xfelmpi.detectors.pixel_bits import pack, unpack

SHAPE = (16, 512, 128)
CELLS = np.array([0, 2, 5])


@pytest.fixture
def experiment(tmp_path):
    here = Experiment(tmp_path / "p007927", tmp_path / "out", 50)
    here.det.mkdir(parents=True)
    return here


def random_pixels(seed, *first):
    return np.random.default_rng(seed).random((*first, *SHAPE), np.float32) < 0.7


def write(path, good, cells=None):
    with h5py.File(path, "w") as file:
        file["entry_1/good_pixels"] = good
        if cells is not None:
            file["entry_1/cellIds"] = cells
    return path


def load(experiment, cells=CELLS, **options):
    config = Config(50, experiment.prefix, experiment.output, **options)
    return load_masks(MPI.COMM_SELF, experiment, config, np.asarray(cells), detector=AGIPD_1M)


def good_of(masks, cell):
    return unpack(masks.good[:, masks.row_of_cell[cell]]).astype(bool).reshape(SHAPE)


def region_of(masks):
    return unpack(masks.region).astype(bool).reshape(SHAPE)


def test_no_masks(experiment):
    masks = load(experiment)
    assert masks.good.shape == (16, 1, 8192)
    assert (masks.good == 0xFF).all()
    assert (masks.row_of_cell == 0).all()
    assert (masks.region == 0xFF).all()
    assert masks.problems == ()
    assert len(masks.notes) == 4


def test_good_pixels_of_the_region(experiment):
    """By module and cell, whatever cells have masks of their own."""
    cells, region = random_pixels(1, 3), random_pixels(2)
    path = write(experiment.det / "c.h5", cells, CELLS)
    masks = load(experiment, cell_mask=path, hit_mask=write(experiment.det / "r.h5", region))
    assert masks.region_pixels == region.sum()
    assert masks.good_in_region.shape == (16, 352)
    for cell, good in zip(CELLS, cells, strict=True):
        right = (good & region).sum(axis=(1, 2))
        assert masks.good_in_region[:, cell].tolist() == right.tolist()
    everything = load(experiment)
    assert everything.region_pixels == 16 * 65536
    assert (everything.good_in_region == 65536).all()


ALL_MODULES = 0xFFFF


def told_of(experiment, modules=ALL_MODULES, **options):
    return few_good_pixels(MPI.COMM_SELF, load(experiment, **options), modules)


def test_masks_that_leave_few_pixels(experiment):
    """128 of a million: said, with the file; nothing is said of a usual mask."""
    few = np.zeros(SHAPE, bool)
    few[3, 0] = True
    path = write(experiment.det / "few.h5", few)
    (told,) = told_of(experiment, global_mask=path)
    assert told.startswith("masks leave 128 of 1,048,576 pixels good (0.012 %; global mask: ")
    assert f"{path}): is one of them inverted?" in told
    assert told_of(experiment) == ()
    usual = write(experiment.det / "usual.h5", random_pixels(4))
    assert told_of(experiment, global_mask=usual, hit_modules=(3,)) == ()


def test_few_pixels_in_one_module_alone(experiment):
    """What counts are the modules of the run; of cells, their mean."""
    good = np.ones((3, *SHAPE), bool)
    good[:, 5, 100:] = False
    path = write(experiment.det / "c.h5", good, CELLS)
    assert told_of(experiment, cell_mask=path) == ()
    assert told_of(experiment, 1 << 5, cell_mask=path) == ()
    good[:2, 5] = False
    write(path, good, CELLS)
    (told,) = told_of(experiment, 1 << 5, cell_mask=path)
    assert "masks leave 4,267 of 65,536 pixels good" in told


def test_modules_without_a_good_pixel(experiment):
    good = np.ones(SHAPE, bool)
    good[[2, 9]] = False
    path = write(experiment.det / "dead.h5", good)
    (told,) = told_of(experiment, global_mask=path)
    assert told == "masks leave no good pixel of modules 2, 9, though there are frames"
    assert told_of(experiment, ALL_MODULES ^ (1 << 2 | 1 << 9), global_mask=path) == ()


def test_region_of_few_pixels(experiment):
    region = np.zeros(SHAPE, bool)
    region[3, 0] = True
    (told,) = told_of(experiment, hit_mask=write(experiment.det / "r.h5", region))
    assert told.startswith("hit-finding region: 128 pixels (0.012 %): is it inverted?")


def test_pixels_are_bits_in_order():
    good = np.zeros((2, 512, 128), bool)
    good[0, 0, 9] = good[1, 511, 127] = True
    bits = pack(good)
    assert bits.shape == (2, 8192)
    assert bits[0, 1] == 2
    assert bits[1, -1] == 0x80
    assert bits.sum() == 0x82
    pixels = random_pixels(1)
    np.testing.assert_array_equal(unpack(pack(pixels)).reshape(SHAPE), pixels)


@pytest.mark.parametrize("dtype", [bool, "u1", "i4", "u2", "i8", "f4", ">f8", ">i2"])
def test_global_mask(experiment, tmp_path, dtype):
    good = random_pixels(2)
    masks = load(experiment, global_mask=write(tmp_path / "m.h5", good.astype(dtype)))
    for cell in (0, 5, 351):
        np.testing.assert_array_equal(good_of(masks, cell), good)


def test_mask_of_an_image(experiment, tmp_path):
    """Programs that draw masks write white as 255."""
    good = random_pixels(3)
    path = write(tmp_path / "m.h5", good.astype("u1") * np.uint8(255))
    masks = load(experiment, global_mask=path)
    np.testing.assert_array_equal(good_of(masks, 0), good)
    assert masks.warnings == ()


def test_names_that_masks_have(experiment, tmp_path):
    """One is good, in all of them; that of this program counts if there are several."""
    good = random_pixels(20)
    for name in ("data", "mask", "good_pixels", "entry_1/good_pixels"):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file[name] = good
            file.create_group("data" if name != "data" else "mask")
        masks = load(experiment, global_mask=tmp_path / "m.h5")
        np.testing.assert_array_equal(good_of(masks, 0), good)
        (note,) = [note for note in masks.notes if "m.h5" in note]
        assert note.endswith("m.h5" if "entry" in name else f"dataset {name}, 1 = good")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file["mask"] = ~good
    np.testing.assert_array_equal(good_of(load(experiment, global_mask=tmp_path / "m.h5"), 0), good)


def test_masks_of_all_cells_need_no_list(experiment, tmp_path):
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        good = file.create_dataset("data", (352, *SHAPE), bool, chunks=(1, *SHAPE), compression=1)
        for cell in CELLS:
            good[cell] = pixels = random_pixels(30 + cell)
            file[f"right/{cell}"] = pixels
        # fill values would be refused
        for cell in np.setdiff1d(np.arange(352), CELLS):
            good.id.write_direct_chunk((cell, 0, 0, 0), zlib.compress(bytes(1 << 20), 1))
    masks = load(experiment, cell_mask=path)
    with h5py.File(path) as file:
        for cell in CELLS:
            np.testing.assert_array_equal(good_of(masks, cell), file[f"right/{cell}"][()])


LAYOUTS = [None, (1, 1, 512, 128), (1, 16, 512, 128), (3, 2, 64, 16), (5, 16, 512, 128)]
LAYOUTS += [(2, 3, 100, 128), (4, 1, 7, 50), (1, 1, 1, 128), (3, 16, 512, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("chunks", LAYOUTS)
@pytest.mark.parametrize("ranks", [1, 3])
def test_chunks_of_any_shape(tmp_path, chunks, ranks):
    """Ranks share the work, whatever cells are wanted in whatever order."""
    good, numbers = random_pixels(21, 5), (9, 0, 351, 2, 4)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("mask", data=good, chunks=chunks, dtype="i4")
    about = MaskFile(tmp_path / "m.h5", "mask", numbers)
    wanted = np.array([0, 1, 2, 9])
    bits = np.full((16, 4, 8192), 0xFF, np.uint8)
    bits[0, 1] = 0
    for rank in range(ranks):
        join_mask(about, bits, wanted, rank, ranks)
    found = unpack(bits).reshape(16, 4, 512, 128).swapaxes(0, 1)
    for row, number in ((0, 1), (2, 3), (3, 0)):
        np.testing.assert_array_equal(found[row], good[number])
    # the file has nothing of cell 1
    assert not found[1, 0].any()
    assert found[1, 1:].all()


SHAPES = [(1, 1, 512, 128), (1, 16, 512, 128), (44, 2, 64, 16), (352, 16, 64, 128)]
SHAPES += [(100, 3, 100, 50), (352, 16, 512, 128), (1, 1, 1, 1)]


@pytest.mark.parametrize("chunks", SHAPES)
@pytest.mark.parametrize("wanted", [range(352), range(0, 352, 4), (5,), (0, 43, 44, 351)])
def test_no_chunk_is_inflated_twice(chunks, wanted):
    """Every wanted pixel is in one block; blocks have no chunk in common, and are small."""
    about = SimpleNamespace(
        shape=(352, *SHAPE), ndim=4, chunks=chunks, dtype=np.dtype("u1"), fs=SHAPE[-1]
    )
    blocks = mask_blocks(about, np.array(wanted))
    n, seen = np.zeros((352, 16, 512), int), set()
    for block in blocks:
        n[block.masks, block.modules, block.ss] += 1
        ends = (block.masks[0], block.masks[-1] + 1), block.modules, block.ss
        ends = [(e.start, e.stop) if isinstance(e, slice) else e for e in ends]
        of = [range(a // c, -(-b // c)) for (a, b), c in zip(ends, chunks, strict=False)]
        corner = [r[0] for r in of]
        own = {(block.masks[0] // chunks[0], *corner[1:])}
        assert not own & seen
        seen |= own
        size = np.prod([b - a for a, b in ends]) * 128
        assert size <= max(BLOCK_BYTES, np.prod(chunks[:3]) * 128)
    assert (n[list(wanted)] == 1).all()
    assert n.sum() == len(wanted) * 16 * 512


def test_large_chunks_are_kept_inflated(tmp_path):
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.create_dataset("mask", (80, *SHAPE), "u1", chunks=(40, *SHAPE), compression=1)
        file.create_dataset("small", (80, *SHAPE), "u1", chunks=(1, *SHAPE))
    with h5py.File(tmp_path / "m.h5") as file:
        for name, at_least in (("mask", 40 << 20), ("small", 1)):
            pixels = with_chunk_cache(file, name)
            assert pixels.id.get_access_plist().get_chunk_cache()[1] >= at_least


def test_any_number_but_0_is_good(experiment, tmp_path):
    good = np.zeros(SHAPE, np.int16)
    good[3, 4, 5], good[3, 4, 6], good[3, 4, 7] = 256, -1, 7
    masks = load(experiment, global_mask=write(tmp_path / "m.h5", good))
    np.testing.assert_array_equal(good_of(masks, 0), good != 0)


ODD = [("u4", 0x80, 128), ("i4", -2, 2), ("u1", 2, 2), ("u8", 2**63, 2**63 - 1)]


@pytest.mark.parametrize(("dtype", "value", "said"), ODD)
@pytest.mark.parametrize("option", ["global_mask", "cell_mask", "hit_mask"])
def test_numbers_that_hardly_mean_good(experiment, tmp_path, option, dtype, value, said):
    """Bits of bad pixels, of which a third are bad: too few to look inverted."""
    bits = np.where(random_pixels(7), 0, np.array(value, dtype)).astype(dtype)
    path = tmp_path / "m.h5"
    if option == "cell_mask":
        write(path, np.stack([bits] * 3), CELLS)
    else:
        write(path, bits)
    masks = load(experiment, **{option: path})
    (told,) = [text for text in (*masks.warnings, *masks.notes) if "any number but 0" in text]
    assert f"m.h5: entry_1/good_pixels has numbers up to {said}, expected 0 for bad" in told
    assert (told in masks.warnings) == (option != "hit_mask")


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_mask_per_cell_in_any_order(experiment, tmp_path, dtype):
    cells, good = np.array([5, 0, 351, 2]), random_pixels(3, 4)
    path = write(tmp_path / "m.h5", good.astype(dtype), cells)
    masks = load(experiment, np.sort(cells), cell_mask=path)
    for cell, pixels in zip(cells, good, strict=True):
        np.testing.assert_array_equal(good_of(masks, cell), pixels)
    assert masks.problems == ()


@pytest.mark.parametrize("dtype", ["u2", "u8", "i4"])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_types_of_cell_numbers(experiment, tmp_path, dtype, shape):
    good = random_pixels(4, 3)
    cells = CELLS.astype(dtype).reshape(shape)
    masks = load(experiment, cell_mask=write(tmp_path / "m.h5", good, cells))
    for i, cell in enumerate(CELLS):
        np.testing.assert_array_equal(good_of(masks, cell), good[i])


def test_cells_that_the_run_does_not_use(experiment, tmp_path):
    good = random_pixels(15, 5)
    path = write(tmp_path / "m.h5", good, np.array([7, 5, 0, 351, 2]))
    masks = load(experiment, cell_mask=path)
    for cell, i in ((0, 2), (2, 4), (5, 1)):
        np.testing.assert_array_equal(good_of(masks, cell), good[i])
    assert masks.problems == ()


def test_pixel_is_good_if_every_mask_says_so(experiment, tmp_path):
    overall, good = random_pixels(5), random_pixels(6, 2)
    masks = load(
        experiment,
        cells=[2, 5],
        global_mask=write(tmp_path / "all.h5", overall),
        cell_mask=write(tmp_path / "cells.h5", good, np.array([2, 5])),
    )
    np.testing.assert_array_equal(good_of(masks, 2), overall & good[0])
    np.testing.assert_array_equal(good_of(masks, 5), overall & good[1])
    assert masks.problems == ()


def test_cells_without_a_mask_of_their_own(experiment, tmp_path):
    overall, good = random_pixels(7), random_pixels(8, 1)
    masks = load(
        experiment,
        global_mask=write(tmp_path / "all.h5", overall),
        cell_mask=write(tmp_path / "cells.h5", good, np.array([2])),
    )
    np.testing.assert_array_equal(good_of(masks, 2), overall & good[0])
    for cell in (0, 5):
        np.testing.assert_array_equal(good_of(masks, cell), overall)
    (problem,) = masks.problems
    assert problem.file == "cells.h5"
    assert "lacks 2 of the run's cells, e.g. cell 0" in problem.what


def test_mask_of_no_cell(experiment, tmp_path):
    empty = write(tmp_path / "m.h5", np.zeros((0, *SHAPE), bool), np.zeros(0, "u2"))
    masks = load(experiment, cell_mask=empty)
    assert good_of(masks, 0).all()
    assert "lacks 3 of the run's cells" in masks.problems[0].what


def test_usual_places(experiment):
    per_cell, overall, region = random_pixels(9, 3), random_pixels(10), random_pixels(11)
    write(experiment.det / "r0050_mask.h5", per_cell, CELLS)
    write(experiment.det / "mask.h5", overall)
    write(experiment.det / "hit_finding_mask.h5", region)
    write(experiment.det / "r0051_mask.h5", np.zeros((3, *SHAPE), bool), CELLS)
    masks = load(experiment)
    np.testing.assert_array_equal(good_of(masks, 5), overall & per_cell[2])
    np.testing.assert_array_equal(region_of(masks), region)
    for note, name in zip(
        masks.notes, ("r0050_mask.h5", "/mask.h5", "hit_finding_mask.h5"), strict=True
    ):
        assert name in note
        assert "(found)" in note


def test_a_named_mask_replaces_the_one_at_the_usual_place(experiment, tmp_path):
    write(experiment.global_mask, np.zeros(SHAPE, bool))
    write(experiment.hit_mask, np.zeros(SHAPE, bool))
    overall, region = random_pixels(12), random_pixels(13)
    masks = load(
        experiment,
        global_mask=write(tmp_path / "all.h5", overall),
        hit_mask=write(tmp_path / "region.h5", region),
    )
    np.testing.assert_array_equal(good_of(masks, 0), overall)
    np.testing.assert_array_equal(region_of(masks), region)


def test_hit_modules(experiment):
    masks = load(experiment, hit_modules=(3, 15))
    right = np.zeros(SHAPE, bool)
    right[[3, 15]] = True
    np.testing.assert_array_equal(region_of(masks), right)
    assert (masks.good == 0xFF).all()


def test_named_hit_mask_before_hit_modules(experiment, tmp_path):
    region = random_pixels(14)
    masks = load(experiment, hit_mask=write(tmp_path / "m.h5", region), hit_modules=(3,))
    np.testing.assert_array_equal(region_of(masks), region)


def test_usual_region_before_hit_modules(experiment):
    """The file at the usual place comes first, and the log says so."""
    experiment.hit_mask.parent.mkdir(parents=True, exist_ok=True)
    region = random_pixels(15)
    write(experiment.hit_mask, region)
    masks = load(experiment, hit_modules=(3,))
    np.testing.assert_array_equal(region_of(masks), region)
    assert "--hit-modules is ignored" in " ".join(masks.notes)


@pytest.mark.parametrize("option", ["cell_mask", "global_mask"])
def test_either_kind_of_mask_by_either_option(experiment, tmp_path, option):
    """A mask may be per cell or for all cells, whatever the option that names it."""
    everywhere, in_cell_2 = random_pixels(16), random_pixels(17)
    for_all = load(experiment, **{option: write(tmp_path / "all.h5", everywhere)})
    np.testing.assert_array_equal(good_of(for_all, 2), everywhere)
    per_cell = load(experiment, **{option: write(tmp_path / "cell.h5", in_cell_2[None], [2])})
    np.testing.assert_array_equal(good_of(per_cell, 2), in_cell_2)


def test_region_does_not_change_good_pixels(experiment, tmp_path):
    masks = load(experiment, hit_mask=write(tmp_path / "m.h5", np.zeros(SHAPE, bool)))
    assert (masks.good == 0xFF).all()
    assert not masks.region.any()


def group_instead(path):
    with h5py.File(path, "w") as file:
        file.create_group("entry_1/good_pixels")


def other_name(path):
    with h5py.File(path, "w") as file:
        file["pixels"] = np.ones(SHAPE, bool)


# option, how to write the file, words of the message
def link_to_nowhere(name):
    def make(path):
        write(path, np.ones((1, *SHAPE), bool))
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            file[name] = h5py.ExternalLink("gone.h5", "x")

    return make


REFUSED = {
    "link": ("global_mask", link_to_nowhere("entry_1/good_pixels"), "pixels: .*external file"),
    "cells": ("cell_mask", link_to_nowhere("entry_1/cellIds"), "cellIds: .*external file"),
    "not there": ("global_mask", lambda p: None, "no such file"),
    "no HDF5": ("cell_mask", lambda p: p.write_text("mask"), "expected a mask file"),
    "a folder": ("hit_mask", lambda p: p.mkdir(), "expected a mask file"),
    "other name": ("global_mask", other_name, "no entry_1/good_pixels, good_pixels, mask or data"),
    "group": ("global_mask", group_instead, "good_pixels"),
    "half": ("global_mask", lambda p: write(p, np.full(SHAPE, 0.5, "f4")), "value 0.5"),
    "NaN": ("global_mask", lambda p: write(p, np.full(SHAPE, np.nan)), "value nan"),
    "complex": ("global_mask", lambda p: write(p, np.ones(SHAPE, "c8")), "complex64"),
    "text": ("hit_mask", lambda p: write(p, np.full(SHAPE, b"1")), r"\|S1"),
    "turned": ("global_mask", lambda p: write(p, np.ones((16, 128, 512), "u1")), "128, 512"),
    "flat": ("hit_mask", lambda p: write(p, np.ones((8192, 128), "u1")), "8192, 128"),
    "scalar": ("global_mask", lambda p: write(p, True), r"\(\)"),
    "scalar per cell": ("cell_mask", lambda p: write(p, True), r"\(\)"),
    "per cell as region": (
        "hit_mask",
        lambda p: write(p, np.ones((1, *SHAPE), "u1"), [0]),
        "per cell",
    ),
    "no cells": ("cell_mask", lambda p: write(p, np.ones((1, *SHAPE), "u1")), "cellIds"),
    "fewer cells": ("cell_mask", lambda p: write(p, np.ones((2, *SHAPE), "u1"), [0]), "cellIds"),
    "cell twice": ("cell_mask", lambda p: write(p, np.ones((2, *SHAPE), "u1"), [3, 3]), "cellIds"),
    "cell 352": ("cell_mask", lambda p: write(p, np.ones((1, *SHAPE), "u1"), [352]), "cellIds"),
    "cell -1": ("cell_mask", lambda p: write(p, np.ones((1, *SHAPE), "u1"), [-1]), "cellIds"),
    "cell by name": ("cell_mask", lambda p: write(p, np.ones((1, *SHAPE), "u1"), b"0"), "cellIds"),
    "half a cell": ("cell_mask", lambda p: write(p, np.ones((1, *SHAPE), "u1"), [0.5]), "cellIds"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(experiment, tmp_path, name):
    option, make, words = REFUSED[name]
    path = tmp_path / "the_mask.h5"
    make(path)
    with pytest.raises(InputError, match=rf"the_mask\.h5.*{words}"):
        load(experiment, **{option: path})


@pytest.mark.parametrize("usual", ["cell_mask", "global_mask", "hit_mask"])
def test_broken_mask_at_a_usual_place_is_refused_too(experiment, usual):
    getattr(experiment, usual).write_bytes(b"")
    with pytest.raises(InputError, match="expected a mask file"):
        load(experiment)


@pytest.mark.parametrize("usual", ["cell_mask", "global_mask", "hit_mask"])
def test_link_to_nowhere_at_a_usual_place_is_no_missing_mask(experiment, usual):
    """The job would end well, without the mask that somebody has put there."""
    getattr(experiment, usual).symlink_to("gone.h5")
    with pytest.raises(InputError, match="No such file"):
        load(experiment)


def test_outputs_elsewhere_still_find_the_masks(tmp_path):
    """Without a det folder beside the outputs, that of the experiment is the usual place."""
    here = Experiment(tmp_path / "p007927", tmp_path / "out", 50)
    good = random_pixels(18)
    usual = tmp_path / "p007927" / "scratch" / "det"
    usual.mkdir(parents=True)
    write(usual / "mask.h5", good)
    np.testing.assert_array_equal(good_of(load(here), 0), good)
    own = random_pixels(19)
    (tmp_path / "out" / "det").mkdir(parents=True)
    write(tmp_path / "out" / "det" / "mask.h5", own)
    np.testing.assert_array_equal(good_of(load(here), 0), own)


def test_chunks_that_ask_for_memory(tmp_path):
    """Few bytes of a file may say that a chunk has 4 GB."""
    path, shape = tmp_path / "mask.h5", AGIPD_1M.frame_shape
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "mask", shape, bool, maxshape=(None, *shape[1:]), chunks=(60000, *shape[1:])
        )
    with pytest.raises(InputError, match="is in chunks of"):
        check_mask(path, AGIPD_1M)
