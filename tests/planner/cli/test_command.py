"""Which command a call means: words, help, versions, mistyped words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

import remat_planner
from remat_planner.planner.cli.arguments import (
    CurveArguments,
    ExportArguments,
    PlanArguments,
    ReportArguments,
    TrainingArguments,
)
from remat_planner.planner.cli.command import WORDS
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.exports import FormName
from remat_planner.planner.reports import ENDINGS
from remat_planner.schedules import BudgetOn, TrainingState, Variants
from remat_planner.tracer.costs import MEASURE
from tests.planner.command_line import Call, written


def test_help_tells_of_the_words(call: Call) -> None:
    run = call("--help")
    assert run.code == ExitCode.OK
    text = " ".join(run.out.replace("│", " ").split())
    for needed in ("--budget", "--verify", "3 infeasible", *(f"{word} {command.help}" for word, command in WORDS.items())):
        assert needed in text
    assert "Usage: plan verify [OPTIONS] {SCHEDULE} {MODEL}" in call("verify", "--help").out


def test_help_is_readable_in_forty_columns(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = call("--help").out.splitlines()
    assert max(map(len, lines)) <= 40
    assert "  -b, --budget BYTES" in lines
    assert "  verify" in lines


@pytest.mark.parametrize("arguments", [("--help",), ("verify", "--help"), ("--version",)])
def test_help_and_version_import_no_torch(arguments: tuple[str, ...]) -> None:
    code = f"import sys; sys.argv[1:] = {list(arguments)!r}\n" + textwrap.dedent("""
        from remat_planner.planner.cli import main
        try:
            main()
        except SystemExit as ended:
            assert not ended.code
        print("heavy", {"torch", "numpy", "pydantic", "networkx"} & set(sys.modules))
    """)
    root = str(Path(remat_planner.__file__).resolve().parent.parent)
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert run.stdout.endswith("heavy set()\n")


def test_the_choices_of_options_are_those_of_the_rooms() -> None:
    """The command writes them down itself, because the rooms import torch."""
    report, exported = (get_type_hints(kind)["to"] for kind in (ReportArguments, ExportArguments))
    assert set(get_args(report)) == set(ENDINGS)
    assert get_args(exported) == get_args(FormName)
    assert get_args(get_type_hints(PlanArguments)["budget_on"]) == get_args(BudgetOn)
    assert get_args(get_type_hints(PlanArguments)["variants"]) == get_args(Variants)
    assert TrainingArguments().training_options() == vars(TrainingState())
    assert (PlanArguments.costs, CurveArguments.costs) == (MEASURE, MEASURE)


def test_completion(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_PLAN_COMPLETE", "complete_bash")
    for typed, expected in (("plan ver", "verify"), ("plan ", "net.py"), ("plan verify --disk", "--disk-folder")):
        monkeypatch.setenv("COMP_WORDS", typed)
        monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" ")) - 1))
        assert expected in call().out.split()


def test_the_version(call: Call) -> None:
    run = call("--version")
    assert run.code == ExitCode.OK
    assert run.out == f"remat_planner {remat_planner.__version__} (torch {torch.__version__})\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vrify", "a.json", "m.py"), "no such command or file: 'vrify'; did you mean `plan verify`?"),
        (("verfy", "-b", "1GB"), "no such command or file: 'verfy'; did you mean `plan verify`?"),
        (("solver",), "no such command or file: 'solver'; did you mean `plan solvers`?"),
        (("frobnicate", "a.json"), "no such command or file: 'frobnicate'; `plan --help` lists the commands"),
    ],
)
def test_a_mistyped_command(call: Call, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    run = call(*arguments)
    assert run.code == ExitCode.USAGE
    assert run.err == f"error: {message}\n"
    document = json.loads(call(*arguments, "--json").out)
    assert document["error"]["message"] == message


@pytest.mark.slow
def test_a_model_that_is_named_like_a_command(call: Call, folder: Path) -> None:
    (folder / "verif.py").write_text("from net import *\n")
    run = call("verif", "-b", "100%", "--solver", "none", "-q")
    assert run.code == ExitCode.OK, run.err
    assert written(folder) == {"verif.schedule.json"}
    absent = call("nowhere_to_be_found", "-b", "100%")
    assert absent.code == ExitCode.MODEL
    assert "no module named" in absent.err


@pytest.mark.slow
def test_defaults_out_of_pyproject(call: Call, folder: Path) -> None:
    (folder / "pyproject.toml").write_text(
        '[tool.remat-planner]\nbudget = "100%"\nsolver = "none"\nno-verify = true\n[tool.remat-planner.fit]\nsolver = "chen"\n'
    )
    run = call("net.py")
    assert run.code == ExitCode.OK, run.err
    assert "Defaults out of pyproject.toml: --budget, --solver, --verify" in run.err
    assert "as asked" in run.out
    assert "this plan (none)" in run.out
    assert call("net.py", "--solver", "nothing").code == ExitCode.USAGE  # what is typed comes first


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[tool.remat-planner]\nbugdet = "1GB"', "has 'bugdet', which is no option: did you mean 'budget'?"),
        ("[tool.remat-planner.curve]\nwhole = true", "[tool.remat-planner.curve] has 'whole', which is no option"),
        ("[tool.remat-planner\n", "cannot be read for the defaults of plan"),
    ],
)
def test_wrong_defaults(call: Call, folder: Path, table: str, message: str) -> None:
    (folder / "pyproject.toml").write_text(table)
    run = call("solvers")
    assert run.code == ExitCode.USAGE
    assert message in run.err


def test_every_command_documents_itself() -> None:
    assert all(command.help for command in WORDS.values())
