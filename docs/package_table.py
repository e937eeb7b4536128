"""The table of packages in architecture.md, from the sources and the import contract.

``python docs/package_table.py`` writes it into the page.
"""

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- packages: python docs/package_table.py -->\n", "<!-- end of packages -->\n"


def layers() -> list[list[str]]:
    """Return the packages of every layer of the contract, the lowest layer first."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (
        c["layers"] for c in settings["tool"]["importlinter"]["contracts"] if "layers" in c
    )
    return [layer.split(" | ") for layer in reversed(layers)]


def table() -> str:
    """Return the table, in Markdown."""
    lines = ["| `src/xfelmpi/` | what is there | may import |", "|---|---|---|"]
    below: list[str] = []
    for layer in layers():
        may = ", ".join(below) if len(below) < 4 else "all above"
        for place, name in enumerate(layer):
            text = (ROOT / "src" / "xfelmpi" / name / "__init__.py").read_text()
            what = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
            beside = f" but {', '.join(layer[:place])}" if place else ""
            lines.append(f"| `{name}/` | {what.rstrip('.')} | {may or '–'}{beside} |")
        below += layer
    return "\n".join(lines) + "\n"


def filled(page: str) -> str:
    """Return the page with today's table."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
