"""The documentation: its links lead somewhere, and the tutorial runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = sorted((_ROOT / "docs").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#\s]+\.\w+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_every_page_is_in_the_navigation() -> None:
    navigation = (_ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:")[2]
    assert sorted(re.findall(r"[\w-]+\.md", navigation)) == [page.name for page in _PAGES]


@pytest.mark.slow
def test_the_api_names_what_there_is() -> None:
    from importlib import import_module

    for name in re.findall(r"^::: (\S+)$", (_ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert attribute == "errors" or hasattr(import_module(module), attribute), name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial(tmp_path: Path) -> None:
    """From out of memory to trained, in a shell. It takes longer than other tests: its model is one that does not fit."""
    environment = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    plan = tmp_path / "plan"  # the command, as an installation would put it on the path
    plan.write_text(f'#!/bin/sh\nexec {sys.executable} -m remat_planner "$@"\n')
    plan.chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{Path(sys.executable).parent}:{environment['PATH']}"
    for language, title, text in _BLOCK.findall((_ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if language == "python":
            (tmp_path / title).write_text(text)
        elif language == "bash":
            run = subprocess.run(["bash", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert (run.returncode != 0) == (title == "fails"), run.stdout + run.stderr
            if title == "fails":
                assert "can't allocate memory" in run.stderr
    assert (tmp_path / "net.schedule.json").exists()
