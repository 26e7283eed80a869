"""Which command a call means: words, help, versions, mistyped words."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
import torch
import typer

import remat_planner
from remat_planner.planner.cli.command import WORDS
from remat_planner.planner.cli.exit_codes import ExitCode
from tests.planner.command_line import Call, written


def test_help_tells_of_the_words(call: Call) -> None:
    run = call("--help")
    assert run.code == ExitCode.OK
    for needed in ("--budget", "--verify", "plan verify SCHEDULE MODEL", "plan solvers", "3 infeasible"):
        assert needed in " ".join(run.out.split())
    assert "SCHEDULE" in call("verify", "--help").out


def test_help_has_a_line_for_every_command(call: Call) -> None:
    text = " ".join(call("--help").out.split())
    for word, command in WORDS.items():
        assert command.help
        assert f"{f'plan {word} {command.arguments}'.rstrip()}: {command.help}" in text


@pytest.mark.parametrize("word", WORDS)
def test_the_arguments_in_the_help_are_those_of_the_command(word: str) -> None:
    app = typer.Typer()
    app.command()(WORDS[word].run)
    needed = []
    for parameter in typer.main.get_command(app).params:
        if parameter.required:
            named = parameter.param_type_name == "argument"
            needed.append(parameter.metavar if named else parameter.opts[0])
    arguments = WORDS[word].arguments.split()
    assert set(needed) <= set(arguments)


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


def test_a_model_that_is_named_like_a_command(call: Call, folder: Path) -> None:
    (folder / "verif.py").write_text("from net import *\n")
    run = call("verif", "-b", "100%", "--solver", "none", "-q")
    assert run.code == ExitCode.OK, run.err
    assert written(folder) == {"verif.schedule.json"}
    absent = call("nowhere_to_be_found", "-b", "100%")
    assert absent.code == ExitCode.MODEL
    assert "no module named" in absent.err


def test_every_command_documents_itself() -> None:
    assert all(inspect.getdoc(command.run) for command in WORDS.values())
