"""What the options that `plan`, `plan curve` and `plan fit` share mean together."""

from __future__ import annotations

from typing import Any

from remat_planner.planner.cli.arguments import CopiesArguments, CurveArguments, FitArguments, PlanArguments
from remat_planner.planner.cli.checks import check_solver, costs_for
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.planning import Offload
from remat_planner.schedules import TrainingState


def plan_options(asked: PlanArguments | CurveArguments | FitArguments) -> dict[str, Any]:
    """The arguments of ``remat_planner.plan`` that these options stand for, but model, budget and loss.

    Raises:
        UsageError: options contradict each other.
        UnknownSolverError, SolverMissingError, UnknownDeviceError: a name is not known.
        OrderError: first executions cannot move as asked.
        TrainingStateError: options of the training state contradict each other.
    """
    check_solver(asked.solver, asked.time_limit)
    return {
        "solver": asked.solver,
        "time_limit": asked.time_limit,
        "costs": costs_for(asked.device, asked.costs),
        "optimizer": asked.optimizer,
        "training": TrainingState(**asked.training_options()),
        "budget_on": asked.budget_on,
        "variants": asked.variants,
        "order": asked.order,
        "offload": _offload(asked),
    }


def _offload(asked: CopiesArguments) -> Offload | None:
    """What these options mean together; None where they ask for no copies.

    Raises:
        UsageError: a pool is unknown, named twice or without a budget, or a budget or rate is for a pool that is not named.
    """
    named: dict[str, str] = {}
    for text in asked.offload or ():
        pool, _, folder = text.partition(":")
        if pool not in ("host", "disk") or (pool == "host" and folder) or (pool == "disk" and not folder):
            raise UsageError(f"--offload {text} names no pool: give host, or disk:FOLDER")
        if pool in named:
            raise UsageError(f"--offload names the {pool} twice: give it once")
        named[pool] = folder
    for option, value, pool in (
        ("--host-budget", asked.host_budget, "host"),
        ("--disk-budget", asked.disk_budget, "disk"),
        ("--link", asked.link, "host"),
        ("--disk-link", asked.disk_link, "disk"),
    ):
        if value is not None and pool not in named:
            raise UsageError(f"{option} is for copies to the {pool}: add --offload {'disk:FOLDER' if pool == 'disk' else pool}")
        if value is None and option.endswith("-budget") and pool in named:
            raise UsageError(f"--offload {pool} needs {option}: say how many bytes copies may take there")
    if not named:
        return None
    return Offload(
        host=asked.host_budget or 0,
        disk=asked.disk_budget or 0,
        folder=named.get("disk"),
        link=asked.link,
        disk_link=asked.disk_link,
    )
