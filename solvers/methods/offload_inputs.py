"""``offload-inputs``: copies the inputs of the layers and recomputes what lies inside them."""

from __future__ import annotations

from remat_planner.solvers.copies import CopyPlanner, inputs_of_layers
from remat_planner.solvers.interface import Answer, Solver, Task


class OffloadInputs(Solver):
    """Copy the inputs of the layers, recompute the rest."""

    name = "offload-inputs"
    description = "copies the inputs of the layers and recomputes what lies inside them"
    source = "axolotl, unsloth, Megatron: checkpointing with offloaded inputs"
    copies = True

    def solve(self, task: Task) -> Answer:
        """The policy, with transfers placed for the budget; on a graph without pools, nothing leaves by a copy."""
        return Answer(CopyPlanner(task.problem, task.budget).unless_all_fits(inputs_of_layers))
