"""Links in HDF5 files that lead to a pipe, on which HDF5 would wait for ever."""

import os

import h5py
import numpy as np
import pytest

from xfelmpi.core.errors import InputError
from xfelmpi.io.input_file import input_file, open_hdf5
from xfelmpi.io.links import require_files

NAME = "INSTRUMENT/a/image/data"


@pytest.fixture
def pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def leaf(file, _folder):
    file[NAME] = h5py.ExternalLink("pipe", "/x")


def absolute_name_that_is_gone(file, folder):
    """HDF5 looks for its last part beside the file."""
    file[NAME] = h5py.ExternalLink(str(folder / "gone" / "pipe"), "/x")


def group(file, _folder):
    file["INSTRUMENT/a"] = h5py.ExternalLink("pipe", "/x")


def soft_link_to_it(file, _folder):
    file["elsewhere"] = h5py.ExternalLink("pipe", "/x")
    file["INSTRUMENT/a/image"] = h5py.SoftLink("/elsewhere")


def link_in_another_file(file, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        other["b/image"] = h5py.ExternalLink("pipe", "/x")
    file["INSTRUMENT/a"] = h5py.ExternalLink("other.h5", "/b")


@pytest.mark.parametrize(
    "make", [leaf, absolute_name_that_is_gone, group, soft_link_to_it, link_in_another_file]
)
def test_pipe_behind_links(pipe, make):
    path = pipe.with_name("a.h5")
    with h5py.File(path, "w") as file:
        make(file, path.parent)
    with h5py.File(path) as file, pytest.raises(OSError, match="not a regular file"):
        require_files(file, NAME)


def link_in_a_chain_of_files(file, folder):
    """The second file links back to the first, too."""
    with h5py.File(folder / "third.h5", "w") as third:
        third["c/d"] = h5py.ExternalLink("pipe", "/x")
    with h5py.File(folder / "other.h5", "w") as other:
        other["back"] = h5py.ExternalLink("a.h5", "/")
        other["b/image"] = h5py.ExternalLink("third.h5", "/c")
    file["anything"] = h5py.ExternalLink("other.h5", "/b")


@pytest.mark.parametrize(
    "make",
    [
        leaf,
        absolute_name_that_is_gone,
        group,
        soft_link_to_it,
        link_in_another_file,
        link_in_a_chain_of_files,
    ],
)
def test_pipe_behind_a_link_of_any_name(pipe, make):
    path = pipe.with_name("a.h5")
    with h5py.File(path, "w") as file:
        make(file, path.parent)
    with pytest.raises(InputError, match="not a regular file"), input_file(path, "a mask"):
        pass


@pytest.mark.parametrize("name", ["INDEX/trainId", "METADATA/dataSources/root", "INDEX"])
def test_ids_and_sources_behind_a_link(pipe, name):
    path = pipe.with_name("a.h5")
    with h5py.File(path, "w") as file:
        file[name] = h5py.ExternalLink("pipe", "/x")
    with pytest.raises(OSError, match="not a regular file"):
        open_hdf5(path)


def test_other_links_are_followed(tmp_path):
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["data"] = np.arange(3)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["INSTRUMENT/a/image/data"] = h5py.ExternalLink("b.h5", "/data")
        file["loop"] = h5py.SoftLink("/loop")
        file["own"] = h5py.ExternalLink("a.h5", "/own")
        file["gone"] = h5py.ExternalLink("gone.h5", "/x")
    with input_file(path, "a mask") as file:
        require_files(file, NAME, "loop", "own", "gone", "not/there")
        assert file[NAME][()].tolist() == [0, 1, 2]
