"""The page, in one piece that needs nothing from elsewhere, and the policy that holds a browser to it."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

_PARTS = files("shunter.serve.http.views") / "page"


def _part(name: str) -> str:
    return (_PARTS / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


_STYLE = _part("page.css")
_SCRIPT = _part("page.js")

PAGE = _part("page.html").replace("/*STYLE*/", _STYLE).replace("/*SCRIPT*/", _SCRIPT)
"""The page: style and script are in it."""

POLICY = (
    f"default-src 'none'; style-src {_source(_STYLE)}; script-src {_source(_SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser may run and load for it: these two by their digests, and data from where it came."""
