"""How Sphinx builds the documentation: ``bash jobs/docs.sh``."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import options_tables  # noqa: E402

from xfelmpi import __version__  # noqa: E402

project = "xfelmpi"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "none"
autodoc_member_order = "bysource"
# types in docstrings are words for people, not names of objects
nitpick_ignore_regex = [("py:.*", ".*")]
myst_heading_anchors = 4
nitpicky = True
# drawings and output in a page have no language
highlight_language = "none"

html_theme = "furo"
html_title = f"xfelmpi {__version__}"
html_show_copyright = html_show_sphinx = html_copy_source = False
html_static_path = html_css_files = ["style.css"]
html_theme_options = {"top_of_page_buttons": []}


def setup(app):
    """Fill the page of options when Sphinx reads it."""

    def fill(_app, name, source):
        if name == "options":
            source[0] = options_tables.fill(source[0])

    app.connect("source-read", fill)
