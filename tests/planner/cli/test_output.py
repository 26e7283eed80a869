"""What the command prints is text on any terminal, whoever chose the names in it, and whoever stops reading it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.output import SafeConsole, print_document, printable
from tests.planner.command_line import Call, written
from tests.planner.layered_step import layered_schedule

_NAMES = ("a\x1b]0;owned\x07\x1b[2Jb", "a[/]b", "a[cls]b", "a:cat:b", "a\x9b2Jb", "a\u202eb", "[bold]a")


def _saved(folder: Path, name: str) -> str:
    """A schedule file with ``name`` wherever a model or a person chose it."""
    schedule = layered_schedule(2, recomputed=1)
    graph = replace(
        schedule.graph,
        ops=tuple(
            replace(op, module=name, source=f"{name}.py:1", pinned=name if op.pinned else None, kind=name)
            for op in schedule.graph.ops
        ),
        constants={name: 4000},
    )
    origin = replace(schedule.origin, model=name, device=name, costs=name, inputs={name: name})
    replace(schedule, graph=graph, origin=origin, solver=name, assumption=name).save(folder / "s.json")
    return "s.json"


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("command", ["show", "explain"])
def test_a_name_is_printed_as_text(call: Call, folder: Path, command: str, name: str) -> None:
    file = _saved(folder, name)
    run = call(command, file, *(["mlp"] if command == "explain" else []))
    assert run.code == ExitCode.OK, run.err
    assert all(character.isprintable() or character == "\n" for character in run.out)
    visible = printable(name.replace("\x07", ""))  # rich drops the bell
    assert visible in run.out.replace("\n", "") or command == "explain"
    document = json.loads(call("show", file, "--json").out)
    assert document["model"] == name


def test_a_document_has_no_control_characters() -> None:
    file = io.StringIO()
    print_document(SafeConsole(file), {"name": "\x1b[2J \x9b2J \x7f \u202e \ud800 ä"})
    assert all(character.isprintable() or character == "\n" for character in file.getvalue())
    assert json.loads(file.getvalue()) == {"name": "\x1b[2J \x9b2J \x7f \u202e \ud800 ä"}
    assert "ä" in file.getvalue()


def test_colors_still_come_from_the_console() -> None:
    file = io.StringIO()
    SafeConsole(file, force_terminal=True, color_system="standard").print("a\x1b[2Jb", style="red")
    assert file.getvalue() == "\x1b[31ma\\x1b[2Jb\x1b[0m\n"


def _plan(*arguments: str, **options: object) -> subprocess.Popen[bytes]:
    root = str(Path(remat_planner.__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen([sys.executable, "-m", "remat_planner", *arguments], env=environment, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.slow(on_request=True)
@pytest.mark.parametrize("arguments", [("show", "s.json"), ("show", "s.json", "--json"), ("explain", "s.json", "mlp")])
def test_a_terminal_that_knows_only_ascii(folder: Path, arguments: tuple[str, ...]) -> None:
    process = _plan(*arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _saved(folder, "ärger")
    out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.OK, err
    text = out.decode("ascii")
    if "--json" in arguments:
        assert json.loads(text)["model"] == "ärger"
    else:
        assert "\\xe4rger" in text
        assert " ms" in text


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("show", "s.json"), ("show", "s.json", "--json")])
def test_a_reader_that_leaves(folder: Path, arguments: tuple[str, ...]) -> None:
    _saved(folder, "net")
    process = _plan(*arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert (process.wait(timeout=120), err) == (ExitCode.OUTPUT_CLOSED, b"")


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_leaves_the_report(
    call: Call,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_json: bool,
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(remat_planner.Schedule, "save", full)
    run = call("--budget", "100%", "--solver", "none", "net.py", *(["--json"] if as_json else []))
    assert run.code == ExitCode.USAGE
    assert "net.schedule.json cannot be written (No space left on device)" in run.err
    assert "Traceback" not in run.err
    if as_json:
        assert json.loads(run.out)["schedule"] is None
    else:
        assert "Memory at the peak" in run.out
        assert "Schedule written" not in run.out
    assert written(folder) == set()


@pytest.mark.slow
def test_what_the_model_prints_is_not_in_the_document(folder: Path) -> None:
    """Neither what Python prints, nor what compiled code and child processes write to the file descriptor."""
    (folder / "loud.py").write_text(
        "import os\nfrom net import build as quiet\ndef build():\n"
        "    print('a'); os.system('echo b'); os.write(1, b'c'); os.chdir('/')\n    return quiet()\n"
    )
    process = _plan(
        *("loud.py", "-b", "100%", "--solver", "none", "--no-verify", "--json"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.OK, err
    assert json.loads(out)["schedule"] == "loud.schedule.json"
    assert (folder / "loud.schedule.json").exists()  # where the command began, not where build() went


@pytest.mark.slow(on_request=True)
def test_a_full_stdout(folder: Path) -> None:
    with open("/dev/full", "w") as full:
        process = _plan("solvers", cwd=folder, stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.USAGE
    assert b"stdout cannot be written (No space left on device)" in err
    assert b"Traceback" not in err
