"""The page's files, read once at the start and served under a name that changes with their content.

One digest stands for all files, because the modules import each other by relative names: a page never mixes two
versions, and every file may be cached for ever.
"""

from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Final

import jinja2
import msgspec

MEDIA: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}


class Assets(msgspec.Struct, frozen=True):
    """File contents by name, and the digest over all of them."""

    digest: str
    static: Mapping[str, tuple[str, bytes]]
    page: bytes


def load(*, clinic: str) -> Assets:
    """Read all static files and render the one page."""
    folder = files("dashboards") / "static"
    static: dict[str, tuple[str, bytes]] = {}
    for entry in sorted(folder.iterdir(), key=lambda item: item.name):
        suffix = entry.name[entry.name.rfind(".") :]
        if suffix in MEDIA:
            static[entry.name] = (MEDIA[suffix], entry.read_bytes())
    template = (files("dashboards") / "templates" / "board.html").read_text(encoding="utf-8")
    digest = sha256(template.encode())
    for name, (_, body) in static.items():
        digest.update(name.encode() + b"\0" + body)
    short = digest.hexdigest()[:16]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(template).render(static=f"/static/{short}", digest=short, clinic=clinic)
    return Assets(short, static, page.encode())
