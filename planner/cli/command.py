"""Which command a call means: a first word out of ``WORDS`` is that command, everything else is the main job."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

import typer

from remat_planner.planner.cli.catalogue import devices_command, solvers_command
from remat_planner.planner.cli.curve import curve_command
from remat_planner.planner.cli.exit_codes import MEANINGS, ExitCode, UsageError
from remat_planner.planner.cli.export import export_command
from remat_planner.planner.cli.fit import fit_command
from remat_planner.planner.cli.interruptible import leave
from remat_planner.planner.cli.memory import memory_command
from remat_planner.planner.cli.outcome import outcome
from remat_planner.planner.cli.output import replace_what_stdout_cannot_encode
from remat_planner.planner.cli.plan import plan_command
from remat_planner.planner.cli.profile import profile_command
from remat_planner.planner.cli.report import report_command
from remat_planner.planner.cli.show import explain_command, show_command
from remat_planner.planner.cli.verify import verify_command


@dataclass(frozen=True)
class Command:
    """A command beside the main job.

    Attributes:
        run: the function that typer calls; the first line of its docstring is its help.
        arguments: what it needs, as in a usage line.
    """

    run: Callable[..., None]
    arguments: str = ""

    @property
    def help(self) -> str:
        """One line."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]


WORDS = {
    "verify": Command(verify_command, "SCHEDULE MODEL"),
    "show": Command(show_command, "SCHEDULE"),
    "explain": Command(explain_command, "SCHEDULE WHAT"),
    "report": Command(report_command, "SCHEDULE"),
    "export": Command(export_command, "SCHEDULE MODEL --to FORM"),
    "curve": Command(curve_command, "MODEL"),
    "fit": Command(fit_command, "--budget B MODEL"),
    "memory": Command(memory_command, "MODEL"),
    "profile": Command(profile_command, "MODEL"),
    "solvers": Command(solvers_command),
    "devices": Command(devices_command),
}


def main(arguments: list[str] | None = None) -> None:
    """The entry point of ``plan``; ``arguments`` are by default those of the process.

    Raises:
        SystemExit: always, with an ``ExitCode``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    word = arguments[0] if arguments and arguments[0] in WORDS else None
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    replace_what_stdout_cannot_encode()
    try:
        if word is None:
            _refuse_mistyped_word(arguments)
            app.command(epilog=_epilog())(plan_command)
            app(arguments, prog_name="plan")
        else:
            app.command()(WORDS[word].run)
            app(arguments[1:], prog_name=f"plan {word}")
    except typer.Exit as ended:  # raised before typer runs
        sys.exit(ended.exit_code)
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            leave(ExitCode.INTERRUPTED)
        raise
    except KeyboardInterrupt:
        leave(ExitCode.INTERRUPTED)


def _epilog() -> str:
    """The commands and exit codes, for the end of ``plan --help``; typer starts a line at each empty one."""
    usages = [f"plan {word} {command.arguments}".rstrip() + f": {command.help}" for word, command in WORDS.items()]
    codes = ", ".join(f"{int(code)} {meaning}" for code, meaning in MEANINGS.items())
    return "\n\n".join(["Commands beside it, each with its own --help:", *usages, f"Exit codes: {codes}."])


def _refuse_mistyped_word(arguments: list[str]) -> None:
    """Tell a mistyped command from a model before typer misses the options of the main job.

    Raises:
        typer.Exit: the first argument is neither a command nor a file or module, and is like a command or has no budget.
    """
    word = arguments[0] if arguments else ""
    if word.startswith("-") or not word.replace("-", "_").isidentifier() or _is_model(word):
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
