"""Help that is readable at any width: in panels from 70 columns on, below that one option after the other.

In a narrow terminal typer's panels cut options ("--bu…") and its plain help squeezes the explanations into a few columns.
"""

from __future__ import annotations

import shutil
from typing import Any

from typer.core import TyperCommand, TyperGroup

_PANELS_FROM = 70
_NARROWEST = 24


def has_panels() -> bool:
    """Whether the terminal is wide enough for typer's panels."""
    return shutil.get_terminal_size().columns >= _PANELS_FROM


def help_settings() -> dict[str, Any]:
    """The context settings of a command, for its help."""
    columns = shutil.get_terminal_size().columns
    names = {"help_option_names": ["-h", "--help"]}
    return names if has_panels() else names | {"terminal_width": max(columns, _NARROWEST)}


class Word(TyperCommand):
    """A command beside the main job."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _one_after_the_other(self, ctx, formatter)


class WordsBesideAJob(TyperGroup):
    """A group that is a command itself unless the first argument is the name of one of its commands."""

    allow_extra_args = False
    allow_interspersed_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] in self.commands:
            ctx.args = list(args)
            return ctx.args
        return TyperCommand.parse_args(self, ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if not ctx.args:
            return TyperCommand.invoke(self, ctx)
        name, command, rest = self.resolve_command(ctx, ctx.args)
        # No parent: its argument, the model, would stand in the usage line of the word.
        default_map = (ctx.default_map or {}).get(name)
        with command.make_context(f"{ctx.info_name} {name}", rest, default_map=default_map) as inner:  # type: ignore[union-attr]
            return command.invoke(inner)  # type: ignore[union-attr]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _one_after_the_other(self, ctx, formatter)
        with formatter.section("Commands"):
            for name in self.list_commands(ctx):
                command = self.get_command(ctx, name)
                _entry(formatter, name, command.help if command is not None else None)


def _one_after_the_other(command: Any, ctx: Any, formatter: Any) -> None:
    for title, kind in (("Arguments", "argument"), ("Options", "option")):
        records = [p.get_help_record(ctx) for p in command.get_params(ctx) if p.param_type_name == kind]
        if any(records):
            with formatter.section(title):
                for record in filter(None, records):
                    _entry(formatter, *record)


def _entry(formatter: Any, name: str, text: str | None) -> None:
    formatter.write_text(name)
    with formatter.indentation():
        formatter.write_text(text or "")
