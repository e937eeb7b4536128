"""What both pages share: style, script, and a policy that lets them load nothing from elsewhere."""

import base64
import hashlib
import re
from html import escape
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template


def fill_page(title: str, body: str, script_name: str, *, with_bokeh: bool = False) -> str:
    """Return a whole page.

    Parameters
    ----------
    title : str
    body : str
        HTML.
    script_name : str
        File in this folder.
    with_bokeh : bool
        The page has BokehJS, before that script.
    """
    here = files("xfelmpi.report")
    scripts = [_bokeh()] if with_bokeh else []
    scripts.append((here / script_name).read_text(encoding="utf-8"))
    allowed = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'",
        title=escape(title),
        style=(here / "page.css").read_text(encoding="utf-8"),
        body=body,
        script="</script>\n<script>".join(scripts),
    )


def _bokeh() -> str:
    """Return BokehJS, as it comes with the Python package."""
    # its Python modules take longer to import than all of this
    package = find_spec("bokeh")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("no module bokeh, whose JavaScript the report needs")
    path = Path(package.origin).parent / "server" / "static" / "js" / "bokeh.min.js"
    text = path.read_text(encoding="utf-8")
    # the browser would look for the file that this line names
    text = re.sub(r"//# sourceMappingURL=.*", "", text)
    if "</script" in text.lower():
        raise ValueError(f"{path}: cannot be part of a page")
    return text


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
