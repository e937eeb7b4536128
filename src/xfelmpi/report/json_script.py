"""Data for the scripts of pages."""

import json


def json_script(name: str, content) -> str:
    """Return data for a page's script as an element that no text in them can leave."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    text = text.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'
