"""Small files that are replaced as a whole."""

import pytest

from xfelmpi.core.errors import OutputError
from xfelmpi.io.replace_file import replace_file


@pytest.mark.parametrize(
    ("name", "why"),
    [("a file/page.html", "is not a folder"), ("n" * 300, "File name too long")],
    ids=["file for folder", "long name"],
)
def test_names_that_cannot_be(tmp_path, name, why):
    """The message is that of the writing, not that of tidying up after it."""
    (tmp_path / "a file").write_text("kept")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        replace_file(tmp_path / name, b"data")
    assert str(tmp_path / name) in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "page.html"
    for data in (b"first", b"second"):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]
