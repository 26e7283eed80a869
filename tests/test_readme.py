"""The README says what there is: its commands, solvers and Python are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import remat_planner
from remat_planner.planner.cli.command import WORDS
from remat_planner.solvers.registry import names

_ROOT = Path(__file__).resolve().parent.parent
_README = (_ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code blocks in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```", _README, re.DOTALL | re.MULTILINE)


def test_the_two_commands() -> None:
    # .ci/run executes them as they stand.
    assert blocks("bash") == [
        "pip install -c constraints.txt . && plan --budget 60% examples/gpt2.py\n",
        "pip install -c constraints.txt -e '.[test]' && pytest\n",
    ]


def test_every_solver_has_a_place_in_the_table() -> None:
    table = (_ROOT / "docs" / "solvers.md").read_text(encoding="utf-8").partition("| name | method |")[2].partition("\n\n")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)}
    assert named == set(names())


def test_every_word_is_told_of() -> None:
    for word in WORDS:
        assert f"plan {word}" in _README


def test_the_python_uses_names_that_exist() -> None:
    tree = ast.parse(blocks("python")[0])
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "remat_planner"
    }
    assert used >= {"budgeted", "plan", "apply_schedule", "verify"}
    assert all(hasattr(remat_planner, name) for name in used)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", _README):
        assert (_ROOT / target).exists(), target


def test_it_is_two_screens() -> None:
    assert len(_README.splitlines()) <= 100
