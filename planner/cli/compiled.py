"""``plan --compiler inductor``: the model compiled within a budget, measured here."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

from remat_planner.planner.cli.arguments import PlanArguments
from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.cli.output import SafeConsole, print_document
from remat_planner.planner.cli.progress import Stages
from remat_planner.planner.formatting import format_bytes_both, format_percent
from remat_planner.planner.model_loading import load_model
from remat_planner.planner.partition import CompiledStep, compile, compiled_step  # noqa: A004
from remat_planner.planner.planning import AUTO, budget_on_device
from remat_planner.planner.reports import fact_table

_MEANS_SOMETHING = ("model", "budget", "compiler", "shapes", "as_json", "quiet")


def compiled_command(result: SafeConsole, asked: PlanArguments) -> None:
    """Compile the model within the budget, run a step, and tell its predicted and measured peak.

    Raises:
        UsageError: an option means nothing for a compiled model.
    """
    _refuse_other_options(asked)
    with Stages(quiet=asked.quiet) as stages:
        stages.stage(f"Loading {asked.model}")
        loaded = load_model(asked.model)
        limit = budget_on_device(asked.budget, loaded.model, "measure")
        stages.stage("Compiling and measuring")
        budget = limit.resolve(0) if asked.budget == AUTO else asked.budget
        step = compiled_step(
            compile(loaded.model, loaded.args, loaded.kwargs, budget=budget, loss=loaded.loss, shapes=asked.shapes)
        )
    if asked.as_json:
        print_document(result, _document(step))
    elif asked.quiet:
        result.print(_one_line(step), soft_wrap=True)
    else:
        loss = "" if loaded.loss is None else ", loss=loss"
        shapes = "" if asked.shapes is None else f', shapes="{asked.shapes}"'
        result.print(fact_table(_facts(step, limit.describe(step.budget_bytes), f'budget="{asked.budget}"{loss}{shapes}')))


def _refuse_other_options(asked: PlanArguments) -> None:
    hints = get_type_hints(PlanArguments, include_extras=True)
    for field in fields(asked):
        if field.name in _MEANS_SOMETHING or getattr(asked, field.name) == field.default:
            continue
        (option,) = hints[field.name].__metadata__
        named = (decl for decl in (option.default, *(option.param_decls or ())) if str(decl).startswith("--"))
        name = next(named, f"--{field.name.replace('_', '-')}").partition("/")[0]
        raise UsageError(
            f"{name} means nothing with --compiler: torch.compile runs the step, and no schedule is made. Leave {name} out, or "
            "leave --compiler out and plan a schedule"
        )


def _facts(step: CompiledStep, budget: str, settings: str) -> dict[str, str]:
    recomputed = sum(len(part.recomputed) for part in step.parts)
    graphs = f" of {len(step.parts)} graphs" if len(step.parts) > 1 else ""
    return {
        "Budget": budget,
        "Peak": f"{format_bytes_both(step.measured_peak_bytes)} measured",
        "": f"{format_bytes_both(step.predicted_peak_bytes)} predicted; compiled {step.attempts} times",
        "Extra time": f"{format_percent(step.overhead)} predicted, above the fastest partition{graphs}",
        " ": f"at most {format_percent(1.0 / step.bound - 1.0)} above the bound of all partitions within the budget",
        "Gradients": _gradients(step),
        "Recomputed": f"{recomputed:,} operators, most of them within the kernels of others",
        "To train": f"model = remat_planner.compile(model, args, kwargs, {settings})",
    }


def _gradients(step: CompiledStep) -> str:
    if step.largest_difference is None:
        return "not compared with eager's: the step draws random numbers, or eager's does not fit the device"
    return f"eager's within {step.largest_difference:.1e} of the largest element"


def _one_line(step: CompiledStep) -> str:
    return (
        f"compiled: {format_bytes_both(step.measured_peak_bytes)} measured within {format_bytes_both(step.budget_bytes)}, "
        f"{format_percent(step.overhead)} more time predicted"
    )


def _document(step: CompiledStep) -> dict[str, Any]:
    return {
        "compiler": "inductor",
        "budget_bytes": step.budget_bytes,
        "peak_bytes": step.predicted_peak_bytes,
        "measured_peak_bytes": step.measured_peak_bytes,
        "seconds": sum(part.seconds for part in step.parts),
        "fastest_seconds": sum(part.fastest_seconds for part in step.parts),
        "overhead": step.overhead,
        "bound": step.bound,
        "attempts": step.attempts,
        "largest_difference": step.largest_difference,
        "graphs": [
            {
                "peak_bytes": part.peak_bytes,
                "saved_bytes": part.saved_bytes,
                "seconds": part.seconds,
                "recomputed": list(part.recomputed),
            }
            for part in step.parts
        ],
    }
