"""What each example of this folder checks about itself: eager's parameters bit for bit, and the peak within the budget."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from remat_planner import Schedule
from remat_planner.planner.measurement import measure_peak


@dataclass(frozen=True)
class Checked:
    """Names of what differs from the eager run after training; bytes of a step, its budget, recomputations, bytes of copies."""

    different: tuple[str, ...]
    measured: int
    budget: int
    ran_again: int
    copied: int


def check(eager: nn.Module, planned: nn.Module, schedule: Schedule, step: Callable[[], object]) -> Checked:
    """Compare two models trained alike, measure ``step`` (a forward and its backward, from no gradients), print both.

    Raises:
        SystemExit: the planned run did not keep a promise.
    """
    theirs, ours = eager.state_dict(), planned.state_dict()
    different = tuple(name for name in theirs if not torch.equal(theirs[name], ours[name]))
    planned.zero_grad(set_to_none=True)
    measured = schedule.graph.constant_bytes + measure_peak(step)
    planned.zero_grad(set_to_none=True)
    again = sum(step < len(schedule.graph.ops) for step in schedule.steps) - len(schedule.graph.ops)
    copied = sum(schedule.simulation.pool_peaks.values())
    equal = f"{len(different)} of {len(theirs)} tensors differ" if different else f"all {len(theirs)} tensors equal eager's"
    print(
        f"{equal}; peak {measured / 1e6:.2f} MB measured, budget {schedule.budget / 1e6:.2f} MB, "
        f"{schedule.baseline_peak_bytes / 1e6:.2f} MB without recomputation; {again} ops run again, "
        f"{copied / 1e6:.2f} MB of copies"
    )
    if different or measured > schedule.budget:
        raise SystemExit("the planned run is not what was promised: this must not happen")
    return Checked(different, measured, schedule.budget, again, copied)
