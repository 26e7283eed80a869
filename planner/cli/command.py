"""Which command a call means: a first word out of ``WORDS`` is that command, everything else is the main job.

What does the work, and torch with it, is imported when a command runs, not for its help or for completion.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

import remat_planner
from remat_planner.planner.cli import arguments
from remat_planner.planner.cli.defaults import Defaults, defaults_for, read_defaults, tell_defaults
from remat_planner.planner.cli.exit_codes import MEANINGS, ExitCode, UsageError
from remat_planner.planner.cli.help_layout import Word, WordsBesideAJob, has_panels, help_settings
from remat_planner.planner.cli.interruptible import a_second_interrupt_ends_the_process, leave
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.output import replace_what_stdout_cannot_encode
from remat_planner.planner.cli.wording import speak_of_options


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        arguments: the class of what it takes; the first line of its docstring is the command's help.
        work: the module beside this one, and its function that gets the console of the result and the arguments.
    """

    arguments: type
    work: str

    @property
    def help(self) -> str:
        """One line."""
        return (inspect.getdoc(self.arguments) or "").partition("\n")[0]

    def run(self, context: typer.Context, values: dict[str, Any]) -> None:
        """Do it.

        Raises:
            typer.Exit: with an ``ExitCode`` other than that of success.
        """
        asked = self.arguments(**values)
        with outcome(as_json=values.get("as_json", False)) as result:
            tell_defaults(context, quiet=values.get("quiet", False))
            module, function = self.work.split(":")
            getattr(import_module(f"remat_planner.planner.cli.{module}"), function)(result, asked)


MAIN = Command(arguments.PlanArguments, "plan:plan_command")
WORDS = {
    "verify": Command(arguments.VerifyArguments, "verify:verify_command"),
    "show": Command(arguments.ShowArguments, "show:show_command"),
    "explain": Command(arguments.ExplainArguments, "show:explain_command"),
    "report": Command(arguments.ReportArguments, "report:report_command"),
    "export": Command(arguments.ExportArguments, "export:export_command"),
    "curve": Command(arguments.CurveArguments, "curve:curve_command"),
    "fit": Command(arguments.FitArguments, "fit:fit_command"),
    "memory": Command(arguments.MemoryArguments, "memory:memory_command"),
    "profile": Command(arguments.ProfileArguments, "profile:profile_command"),
    "solvers": Command(arguments.SolversArguments, "catalogue:solvers_command"),
    "devices": Command(arguments.DevicesArguments, "catalogue:devices_command"),
}


def main(arguments: list[str] | None = None) -> None:
    """The entry point of ``plan``; ``arguments`` are by default those of the process.

    Raises:
        SystemExit: always, with an ``ExitCode``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    replace_what_stdout_cannot_encode()
    speak_of_options()
    try:
        _refuse_mistyped_word(arguments)
        program = build()
        defaults = _defaults(program, as_json="--json" in arguments)
        with a_second_interrupt_ends_the_process():
            program.main(arguments, prog_name="plan", default_map=defaults)
    except typer.Exit as ended:  # raised before typer runs
        sys.exit(ended.exit_code)
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            leave(ExitCode.INTERRUPTED)
        raise
    except KeyboardInterrupt:
        leave(ExitCode.INTERRUPTED)


def build() -> Any:
    """The command with all its words, as typer's object."""
    app = typer.Typer(
        cls=WordsBesideAJob,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        subcommand_metavar="| plan COMMAND ...",
        rich_markup_mode="rich" if has_panels() else None,
        context_settings=help_settings(),
        epilog=f"Exit codes: {', '.join(f'{int(code)} {meaning}' for code, meaning in MEANINGS.items())}.",
    )
    app.callback()(_function(MAIN, version=True))
    for word, command in WORDS.items():
        app.command(word, cls=Word, context_settings=help_settings())(_function(command))
    return typer.main.get_command(app)


def _function(command: Command, *, version: bool = False) -> Callable[..., None]:
    """What typer reads the options from: a function with a parameter for each field of the command's arguments."""
    own = vars(command.arguments)["__annotations__"]  # before those that several commands share
    hints = get_type_hints(command.arguments, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in sorted(fields(command.arguments), key=lambda field: field.name not in own)
    ]
    if version:
        parameters.append(inspect.Parameter("version", inspect.Parameter.KEYWORD_ONLY, annotation=_Version, default=False))

    def function(context: typer.Context, **values: Any) -> None:
        values.pop("version", None)
        command.run(context, values)

    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__doc__ = command.help
    return function


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            torch = version("torch")
        except PackageNotFoundError:
            torch = "not installed"
        typer.echo(f"remat_planner {remat_planner.__version__} (torch {torch})")
        raise typer.Exit


_Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="print the versions and exit")]


def _defaults(program: Any, *, as_json: bool) -> Defaults:
    with outcome(as_json=as_json):
        return defaults_for(program, read_defaults(Path.cwd()))


def _refuse_mistyped_word(arguments: list[str]) -> None:
    """Tell a mistyped command from a model before typer misses the options of the main job.

    Raises:
        typer.Exit: the first argument is neither a command nor a file or module, and is like a command or has no budget.
    """
    word = arguments[0] if arguments else ""
    if word in WORDS or word.startswith("-") or not word.replace("-", "_").isidentifier() or _is_model(word):
        return
    near = get_close_matches(word, WORDS, n=1)
    has_budget = any(argument.startswith(("-b", "--budget")) for argument in arguments)
    if near or not has_budget:
        hint = f"did you mean `plan {near[0]}`?" if near else "`plan --help` lists the commands"
        with outcome(as_json="--json" in arguments):
            raise UsageError(f"no such command or file: {word!r}; {hint}")


def _is_model(word: str) -> bool:
    """Whether a word without dots names a file, a folder or a module."""
    return Path(word).exists() or Path(f"{word}.py").exists() or word in sys.modules or find_spec(word) is not None
