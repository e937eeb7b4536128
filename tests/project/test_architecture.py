"""The page on the architecture, and what other pages say about files of the sources, is true."""

import re

import package_table
import pytest
from docpages import PAGES, ROOT, name

SOURCES = ROOT / "src" / "xfelmpi"
PACKAGES = {path.name for path in SOURCES.iterdir() if (path / "__init__.py").exists()}


def test_table_of_packages_is_that_of_the_sources():
    page = package_table.PAGE.read_text()
    assert package_table.filled(page) == page, "run: python docs/package_table.py"
    assert {name for layer in package_table.layers() for name in layer} == PACKAGES


def test_root_has_few_entries():
    """At most 16 packages, and what Python wants in the root (docs/decisions/packages.md)."""
    assert len(PACKAGES) <= 16
    files = {path.name for path in SOURCES.iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "py.typed"}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=name)
def test_modules_that_are_named_exist(page):
    for path in re.findall(r"`([a-z_]+(?:/\w+)+/?(?:\.(?:py|pyx|h))?)", page.read_text()):
        if path.partition("/")[0] in PACKAGES and path.endswith((".py", "/")):
            assert (SOURCES / path).exists(), path
    for path in re.findall(r"`(\w+\.(?:pyx|pxd|h))`", page.read_text()):
        assert (ROOT / "cython" / path).exists(), path


def test_things_are_added_in_three_files_at_most():
    table = package_table.PAGE.read_text().partition("## Where to add things")[2]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| ")][1:]
    assert {"a score", "a detector"} < {what.strip() for what, _ in rows}
    assert {what: files for what, files in rows if len(files.split(";")) > 3} == {}


def test_page_is_read_in_five_minutes():
    assert len(package_table.PAGE.read_text().split()) < 1300
