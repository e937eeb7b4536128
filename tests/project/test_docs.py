"""The documentation: builds without a warning, needs no network, and names only what exists.

Its commands are run in tests/cluster/test_pages.py.
"""

import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from docpages import COMMANDS, PAGES, ROOT, blocks, name
from launch import call_xfelmpi

from xfelmpi.__main__ import COMMANDS as PROGRAM_COMMANDS
from xfelmpi.cli.parser import options, read_toml

pytestmark = pytest.mark.slow

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The documentation as web pages."""
    folder = tmp_path_factory.mktemp("site")
    command = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "-d", folder / "doctrees"]
    done = subprocess.run(
        [sys.executable, *command, DOCS, folder / "html"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return folder / "html"


class Links(HTMLParser):
    """What a page refers to, and what can be referred to in it."""

    def __init__(self, text: str):
        super().__init__()
        self.followed, self.loaded, self.anchors = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors.add(values.get("id"))
        if tag == "a" and values.get("href"):
            self.followed.append(values["href"])
        self.loaded += [values.get("src"), values.get("href") if tag == "link" else None]


def test_every_page_is_in_the_menu(site):
    menu = Links((site / "index.html").read_text()).followed
    pages = {str(p.relative_to(DOCS).with_suffix(".html")) for p in PAGES if p.parent != ROOT}
    assert pages - {"index.html"} <= set(menu)


def test_links_lead_somewhere(site):
    """Files and anchors of the built pages, as a browser would look for them."""
    pages = {path.resolve(): Links(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 15
    for path, links in pages.items():
        for link in links.followed:
            target, _, anchor = link.partition("#")
            if re.match(r"\w+:", target):
                continue
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), f"{path.name}: {link}"
            if anchor and file in pages:
                assert anchor in pages[file].anchors, f"{path.name}: {link}"


def test_pages_load_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        for address in Links(path.read_text()).loaded:
            assert not re.match(r"(\w+:)?//", address or ""), f"{path.name}: {address}"
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(https?:)?//|@import", path.read_text()), path


def test_picture_of_the_report_is_there(site):
    assert "_images/report.png" in (site / "index.html").read_text()
    assert (site / "_images" / "report.png").stat().st_size > 50_000


def test_options_are_those_of_the_program(site):
    text = (site / "options.html").read_text()
    for command in PROGRAM_COMMANDS:
        helped = call_xfelmpi([command, "--help"]).stdout
        flags = set(re.findall(r"--[a-z][a-z-]*", helped)) - {"--help"}
        assert len(flags) > 1
        for flag in flags:
            assert f">{flag}" in text.replace('<span class="pre">', ">"), f"{command} {flag}"
    for option in options():
        assert f">{option.name}<" in text, option.name


def test_text_for_a_command_is_not_left_out_of_the_blocks():
    """Indented blocks, and those of other languages, have output and drawings only."""
    command = re.compile(
        r"(\$ |xfelmpi |mpirun |srun |sbatch |salloc |bash |python |module |export |git |firefox "
        r"|silx |cd |source |dragonfly\.emc )"
    )
    for page in PAGES:
        for block in blocks(page):
            if block.language not in COMMANDS:
                assert not any(command.match(line) for line in block.text.splitlines()), block
        for line in re.findall(r"^ {4}(?! )(.*)$", without_blocks(page), re.MULTILINE):
            assert not command.match(line), f"{name(page)}: {line}"


def without_blocks(page) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def test_skipped_commands_have_a_reason_and_are_few():
    skipped = [b for page in PAGES for b in blocks(page) if b.skip]
    ran = [b for page in PAGES for b in blocks(page) if b.language == "bash" and not b.skip]
    assert len(skipped) < len(ran) / 5, list(map(str, skipped))


def test_toml_in_the_pages_is_understood(tmp_path):
    found = [b for page in PAGES for b in blocks(page) if b.language == "toml"]
    assert found
    for block in found:
        path = tmp_path / "shown.toml"
        path.write_text(block.text)
        assert read_toml(path)


def test_what_is_named_exists():
    """Options and files of the project in the text of all pages."""
    helps = [call_xfelmpi([command, "--help"]).stdout for command in PROGRAM_COMMANDS]
    known = set(re.findall(r"--[a-z][a-z-]*", "".join(helps))) | FOREIGN
    for page in PAGES:
        text = page.read_text()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert flag in known, f"{name(page)}: {flag}"
        for path in re.findall(r"(?<![\w/])(?:jobs(?!/test_)|tests|docs|cython)/[\w/]+\.\w+", text):
            assert (ROOT / path).exists() or (DOCS / path).exists(), f"{name(page)}: {path}"


FOREIGN = {
    "--array", "--mpi", "--nodes", "--time", "--ntasks", "--me",  # Slurm
    "--lqr",  # EXtra-redu
    "--tests", "--docs", "--help", "--picture", "--check", "--renew",  # scripts of the project
    "--version", "--quick", "--long", "--peers",
    "--bounds", "--sanitize", "--runs", "--only", "--first", "--seed",  # and its tests
    "--with-mpi", "--no-build-isolation", "--no-deps", "--target",  # pytest and pip
}  # fmt: skip
"""Options of other programs in the pages."""
