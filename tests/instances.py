"""The field's own graphs, read where they lie beside the checkout; they are not ours to commit."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "instances"


def instance_path(name: str) -> Path:
    """The file of an instance; skips the test where the folder is not there."""
    path = _FOLDER / f"{name}.json"
    if not path.exists():
        pytest.skip(f"the instance {name} is not beside this checkout ({_FOLDER})")
    return path
