"""Which command a call means: a first word out of ``WORDS`` is that word, everything else is the main job."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from remat_planner.planner.cli.catalogue import devices_command, solvers_command
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.cli.export import export_command
from remat_planner.planner.cli.fit import fit_command
from remat_planner.planner.cli.interruptible import leave
from remat_planner.planner.cli.memory import memory_command
from remat_planner.planner.cli.plan import plan_command
from remat_planner.planner.cli.profile import profile_command
from remat_planner.planner.cli.show import explain_command, show_command
from remat_planner.planner.cli.verify import verify_command

WORDS: dict[str, Callable[..., None]] = {
    "verify": verify_command,
    "show": show_command,
    "explain": explain_command,
    "export": export_command,
    "fit": fit_command,
    "memory": memory_command,
    "profile": profile_command,
    "solvers": solvers_command,
    "devices": devices_command,
}

_EPILOG = (
    "Words beside it, each with its own --help: plan verify SCHEDULE MODEL, plan show SCHEDULE, plan explain SCHEDULE WHAT, "
    "plan export SCHEDULE MODEL --to FORM, plan fit --budget B MODEL, plan memory MODEL, plan profile MODEL, plan solvers, "
    "plan devices. Exit codes: 0 the plan meets the budget, 1 unexpected, 2 usage, 3 infeasible, 4 the model or schedule "
    "cannot be loaded or traced, 5 not proven under --require-optimal, 6 verification failed."
)


def main(arguments: list[str] | None = None) -> None:
    """The entry point of ``plan``; ``arguments`` are those of the process unless given.

    Raises:
        SystemExit: always, with one of ``ExitCode``.
    """
    given = sys.argv[1:] if arguments is None else arguments
    word = given[0] if given and given[0] in WORDS else None
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
    )
    if word is None:
        app.command(epilog=_EPILOG)(plan_command)
    else:
        app.command()(WORDS[word])
    try:
        app(given if word is None else given[1:], prog_name="plan" if word is None else f"plan {word}")
    except SystemExit as ended:
        if ended.code == ExitCode.INTERRUPTED:
            leave(ExitCode.INTERRUPTED)
        raise
    except KeyboardInterrupt:
        leave(ExitCode.INTERRUPTED)
