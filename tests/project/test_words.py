"""Plain English: words of the project's own language that readers must not meet (CONTRIBUTING)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

AVOIDED = {
    r"\bstands? in\b": "is in",
    r"\blies? in\b": "is in",
    r"\bworked off\b": "processed",
    r"\bdealt out\b": "distributed",
    r"\btak(es?|en|ing) up\b": "continue",
    r"\btak(es?|en|ing) over\b": "replace a stale lock",
    r"\bspoilt\b": "bad in this frame",
    r"\bblanks\b": "non-hits, or spaces",
    r"\bmachine data\b": "beamline data",
    r"\bphotons a frame\b": "photons per frame",
    r"\bdecid(es?|ing) again\b": "re-threshold",
    r"\bwrites? down the rest\b": "saves a checkpoint",
    r"\bevery so often\b": "every few minutes",
    r"\bat most per rank\b": "peak memory per rank",
    r"\blook at it:": "report:",
    r"\bis no slice\b": "is not a train range",
    r"\bknows? no MPI\b": "are built without your MPI",
    r"\bunder their names\b": "renamed into place, final names",
    r"\b(that|which) lack\b": "without",
    r"\bwill do\b": "is enough",
    r"\b(can|cannot) be told from\b": "can be distinguished from",
    r"\bthe main ones\b": "name them",
    r"\bnor are\b": "say both",
    r"\bknown answer\b": "known ground truth",
    r"\bare no numbers of\b": "are not valid counts",
    r"\bbe it\b": "whether",
}
"""What is not said, as a regular expression, and what to say."""

_TEXT = {".py", ".pyi", ".pyx", ".pxi", ".h", ".html", ".js", ".txt"}

READ = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").rglob("*.md"),
    *(ROOT / "docs").rglob("*.ipynb"),
    *(ROOT / "packaging").rglob("*.md"),
    *(p for p in (ROOT / "src").rglob("*") if p.suffix in _TEXT),
    *(p for p in (ROOT / "cython").rglob("*") if p.suffix in _TEXT),
    *(ROOT / "jobs").glob("*.sh"),
]


def avoided(text: str) -> list[str]:
    """Return what a text says that it should not, with what to say."""
    found = []
    for words, better in AVOIDED.items():
        for match in re.finditer(words, text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {match[0]!r}; say: {better}")
    return found


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_words_to_avoid(path):
    assert avoided(path.read_text()) == []


def test_that_they_are_found():
    assert avoided("A mask.\nIts bytes lie in the file; Frames that lack it.") == [
        "line 2: 'lie in'; say: is in",
        "line 2: 'that lack'; say: without",
    ]


FOR_WHOM = re.compile(
    r"\b(for (anyone|anybody|everybody|developers|maintainers|groups|new users|those who|whoever"
    r"|single-particle)|you need this page if)",
    re.IGNORECASE,
)


@pytest.mark.parametrize(
    "path",
    [p for p in READ if p.suffix == ".md" and p.name != "changes.md"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_first_sentence_says_for_whom(path):
    text = (
        line
        for line in path.read_text().splitlines()
        if line and not line.startswith(("#", "[", "<!--"))
    )
    assert FOR_WHOM.search(next(text)), path
