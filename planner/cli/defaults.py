"""Defaults of options from the table ``[tool.remat-planner]`` of a project's pyproject.toml.

Keys are options without their dashes (``budget = "60%"``, ``time-limit = 30``, ``no-verify = true``). They hold for every
command that has the option; those of a table of a command (``[tool.remat-planner.curve]``) hold for it alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from rich.text import Text
from typer import Context

from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.output import SafeConsole

FILE = "pyproject.toml"
TABLE = "remat-planner"

Defaults = dict[str, Any]
"""Values by the name of a parameter, and a dictionary of such for each command by its name."""


class Table(NamedTuple):
    """The table and the file that it is in."""

    path: Path
    values: dict[str, Any]


def read_defaults(folder: Path) -> Table | None:
    """The table of the next pyproject.toml at or above ``folder`` that has one.

    Raises:
        UsageError: the file cannot be read, or is no TOML.
    """
    for parent in (folder, *folder.parents):
        path = parent / FILE
        if not path.is_file():
            continue
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read for the defaults of plan: {error}") from error
        tool = document.get("tool")
        if isinstance(tool, dict) and TABLE in tool:
            if not isinstance(tool[TABLE], dict):
                raise UsageError(f"tool.{TABLE} in {path} is not a table: write [tool.{TABLE}] and the options below it")
            return Table(path, tool[TABLE])
    return None


def defaults_for(program: Any, table: Table | None) -> Defaults:
    """The table as the command's own names of its parameters.

    Raises:
        UsageError: a key is no option of any command, or of the command whose table it is in.
    """
    if table is None:
        return {}
    shared = {key: value for key, value in table.values.items() if key not in program.commands}
    own = {key: value for key, value in table.values.items() if key in program.commands}
    options = {"": _options(program)} | {word: _options(command) for word, command in program.commands.items()}
    _refuse_unknown(table.path, f"[tool.{TABLE}]", shared, {name for known in options.values() for name in known})
    defaults: Defaults = _values(shared, options[""])
    for word in program.commands:
        values = own.get(word, {})
        if not isinstance(values, dict):
            raise UsageError(f"{word} in [tool.{TABLE}] of {table.path} is a command: write [tool.{TABLE}.{word}]")
        _refuse_unknown(table.path, f"[tool.{TABLE}.{word}]", values, set(options[word]))
        defaults[word] = _values(shared | values, options[word])
    return defaults


def tell_defaults(context: Context, *, quiet: bool) -> None:
    """Say on stderr which options of the running command came out of the table: a result must not surprise."""
    told = [
        max(parameter.opts, key=len)
        for parameter in context.command.params
        if (source := context.get_parameter_source(parameter.name or "")) is not None and source.name == "DEFAULT_MAP"
    ]
    if told and not quiet:
        SafeConsole(stderr=True).print(Text(f"Defaults out of {FILE}: {', '.join(told)}", style="dim"))


def _options(command: Any) -> dict[str, tuple[str, bool]]:
    """The parameter that each option without its dashes means, and whether the option is the negative of a flag."""
    return dict(_options_of(command))


def _options_of(command: Any) -> Iterator[tuple[str, tuple[str, bool]]]:
    for parameter in command.params:
        if parameter.param_type_name != "option" or parameter.is_eager:
            continue
        for option in parameter.opts:
            if option.startswith("--"):
                yield option.removeprefix("--"), (parameter.name, False)
        for option in parameter.secondary_opts:
            yield option.removeprefix("--"), (parameter.name, True)


def _values(table: dict[str, Any], options: dict[str, tuple[str, bool]]) -> Defaults:
    values: Defaults = {}
    for key, value in table.items():
        if key in options:
            name, negated = options[key]
            values[name] = (not value) if negated else value
    return values


def _refuse_unknown(path: Path, where: str, table: dict[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            near = get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "write an option without its dashes, such as time-limit = 30"
            raise UsageError(f"{path}: {where} has {key!r}, which is no option: {hint}")
