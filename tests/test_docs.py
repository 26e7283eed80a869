"""The documentation: its links lead somewhere, and the tutorial runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.session import RECORDING, commands, headings

_ROOT = Path(__file__).resolve().parent.parent
_PAGES = sorted((_ROOT / "docs").glob("*.md"))


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


def test_the_session_has_the_commands_of_the_tutorial() -> None:
    tutorial = (_ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    typed = [text.strip() for text in re.findall(r"^```bash(?: title=\"\w+\")?\n(.*?)^```", tutorial, re.DOTALL | re.MULTILINE)]
    assert re.findall(r"^\$ (.*)$", RECORDING.read_text(encoding="utf-8"), re.MULTILINE) == typed


@pytest.mark.slow(on_request=True)
@pytest.mark.timeout(900)
def test_the_tutorial(tmp_path: Path) -> None:
    """From out of memory to trained, in a shell. It takes longer than other tests: its model is one that does not fit."""
    session = list(commands(tmp_path))
    for command in session:
        assert (command.code != 0) == command.fails, command.printed
        if command.fails:
            assert "can't allocate memory" in command.printed
    assert (tmp_path / "net.schedule.json").exists()
    assert headings("\n".join(command.printed for command in session)) == headings(RECORDING.read_text(encoding="utf-8"))
