"""Outputs that lie in one storage. Eager follows a change in place from one of them to the others; a planned module does not.

In eager one is a view of the other, so a change of either gives both a new history. Outputs of a planned module have the memory
in common and not the history. So a gradient that arrives after such a change is refused, unless it comes from the changed
output and the others are as they were.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Sequence

import torch

from remat_planner.planner.codegen import Sharing
from remat_planner.planner.errors import ChangedInBetweenError


class SharedMemory:
    """Outputs in one storage, as they are after the forward; ``outputs`` are all that it returned.

    A schedule that computes one of them again may leave them in several storages. Then too each change is refused.
    """

    def __init__(self, outputs: Sequence[torch.Tensor], sharing: Sharing) -> None:
        self._sharing = sharing
        self._outputs = {position: weakref.ref(outputs[position]) for position in sharing.positions}
        self._counters = [_counter_of(outputs[position]) for position in sharing.positions]
        self._versions = [counter._version for counter in self._counters]

    def refuse_changes(self, arrived: Collection[int], names: Sequence[str], step: object) -> None:
        """Refuse a backward of ``step`` with gradients at the outputs ``arrived`` where a change would have changed them.

        Raises:
            ChangedInBetweenError: one of the outputs was changed in place.
        """
        concerned = [position for position in self._outputs if position in arrived]
        if not concerned or [counter._version for counter in self._counters] == self._versions:
            return
        others = [position for position in self._outputs if position != concerned[0]]
        if not self._sharing.with_callers and len(concerned) == 1 and all(self._has_its_history(k, step) for k in others):
            return
        changed = tuple(f"output {names[position]}" for position in self._outputs)
        raise ChangedInBetweenError(
            f"changed in place between the forward and the backward: the memory of {', '.join(changed)}"
            f"{', which is that of an input or parameter' if self._sharing.with_callers else ''}. A planned module does not "
            "follow such a change from one tensor to the others in that memory. Change a clone",
            names=changed,
        )

    def _has_its_history(self, position: int, step: object) -> bool:
        """Whether an output is there and has the history that it got from ``step``, if it got one."""
        output = self._outputs[position]()
        return output is not None and (output.grad_fn is None or getattr(output.grad_fn, "state", None) is step)


def _counter_of(output: torch.Tensor) -> torch.Tensor:
    """A tensor with the version counter of ``output`` and without its memory."""
    counter = output.detach()
    counter.data = torch.empty(0, dtype=output.dtype, device=output.device)
    return counter
