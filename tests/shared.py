"""Where the independent truth lives: vectors and recordings kept beside the project, not in it.

The folder is `../shared` beside the checkout, or whatever the environment variable VITALS_SHARED names. Where it is
absent the tests that need it are reported as not run, with the reason; they never pass in silence.

Usage: `pytestmark = [pytest.mark.shared, needs_shared]`, or `@needs_shared` on one test.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(os.environ.get("VITALS_SHARED", "") or Path(__file__).resolve().parents[1].parent / "shared")
"""The folder with `vectors/`, `ekg/`, `protocols/`. May not exist: see `needs_shared`."""

REASON = f"NOT RUN: the shared vectors and recordings are not at {SHARED} (set VITALS_SHARED to their folder)"

needs_shared = pytest.mark.skipif(not (SHARED / "vectors").is_dir(), reason=REASON)
"""Skips with a loud reason where the folder is absent."""


def shared_vectors(name: str) -> list[Any]:
    """The vectors of `vectors/<name>.json` as pytest parameters; one skipped parameter where the file is absent."""
    path = SHARED / "vectors" / f"{name}.json"
    if not path.is_file():
        return [pytest.param(None, id=f"{name}-absent", marks=pytest.mark.skip(reason=REASON))]
    return [pytest.param(vector, id=vector["name"]) for vector in json.loads(path.read_text(encoding="utf-8"))]
