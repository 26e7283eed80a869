"""The page as one HTML document that loads nothing: its style, script and drawings are in it.

Names come from models and from files of other people. Jinja escapes every one of them, and matplotlib gets none. The
page's content policy allows no script but its own, by that script's hash, and no address at all.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

import jinja2

from remat_planner.planner.reports.page.content import Page

_FOLDER = Path(__file__).parent


def page_html(page: Page) -> str:
    """The document."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template().render(page=page, style=_file("page.css"), script=script, script_hash=f"sha256-{digest}")


@cache
def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("page.html"))
