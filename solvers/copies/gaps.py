"""The gaps in which items may leave the device, and what is decided about each.

An item is used by the node that writes it and by its readers. A gap lies between two uses that follow each other in execution
order, and one lies after the last use, where only recomputation reads the item. In each the item stays (``KEEP``), leaves and
is recomputed when it is needed (``LEAVE``), or leaves for pool p of the graph (``COPY + p``) and is loaded when it is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remat_planner.solvers.chain import fixed_items
from remat_planner.solvers.problem import Problem

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

KEEP, LEAVE, COPY = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gaps of all items, ordered by the use before them.

    Attributes:
        item: int64[gaps], the item of each.
        before: int64[gaps], the node that uses the item last before the gap.
        after: int64[gaps], the node that uses it next; n (one past the last node) for the gap after the last use.
        may_leave: bool[gaps], the item can be recomputed.
        may_be_copied: bool[gaps], the item can be copied to the graph's pools, and the gap is long enough.
        begin: int64[n + 1], the gaps after node i are those from ``begin[i]`` to ``begin[i + 1]``.
    """

    item: Ints
    before: Ints
    after: Ints
    may_leave: Bools
    may_be_copied: Bools
    begin: Ints

    @classmethod
    def of(cls, problem: Problem) -> Gaps:
        """The gaps of ``problem``, whose graph has pools."""
        fixed = fixed_items(problem)
        copied = set(problem.graph.copied)
        copyable = [bool(storages) and copied.issuperset(storages) for storages in problem.storages]
        rows: list[tuple[int, int, int]] = []
        for item in np.flatnonzero(problem.bytes).tolist():
            uses = [int(problem.producer[item]), *problem.readers[item]]
            pairs = zip(uses, [*uses[1:], problem.n], strict=True)
            rows += [(use, item, next_use) for use, next_use in pairs if next_use > use + 1 or next_use == problem.n]
        rows.sort()
        before, items, after = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        may_leave = ~fixed[items]
        may_be_copied = np.array(copyable, dtype=np.bool_)[items]
        in_loss = np.append(problem.outside, False)  # nothing is loaded or recomputed between two ops of the loss
        late = in_loss[after] & np.append(False, in_loss)[after]
        return cls(
            item=items,
            before=before,
            after=after,
            may_leave=may_leave & ~late,
            may_be_copied=may_be_copied & ~late,
            begin=np.searchsorted(before, np.arange(problem.n + 1)).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.item)

    def keep_all(self, n: int) -> Ints:
        """Decisions in which every item stays until its last use, in a step of ``n`` nodes."""
        return np.where((self.after == n) & self.may_leave, LEAVE, KEEP)
