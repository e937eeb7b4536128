"""What both pages share: style, script, and a policy that lets them load nothing from elsewhere."""

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template


def fill_page(title: str, body: str, script_name: str) -> str:
    """Return a whole page.

    Parameters
    ----------
    title : str
    body : str
        HTML.
    script_name : str
        File in this folder.
    """
    here = files("xfelmpi.report")
    script = (here / script_name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        policy="default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        title=escape(title),
        style=(here / "page.css").read_text(encoding="utf-8"),
        body=body,
        script=script,
    )
