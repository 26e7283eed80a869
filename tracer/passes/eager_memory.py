"""In whose memory eager computes what it writes in place.

The functional step gives each result of an operator that writes in place memory of its own. Eager keeps the tensor that was
written to, all of it where a slice was, as long as one of these results is retained.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.torch_private import storage_key

aten = torch.ops.aten
_SCATTERS = tuple(getattr(aten, f"{name}_scatter").default for name in ("slice", "select", "diagonal", "as_strided"))


class EagerMemory:
    """Follows the storages of a recorded step while it is replayed; writes ``meta["memory"]`` on nodes of the functional one.

    Nodes with the same number have their results in one storage in eager; the first of them allocates it.
    """

    def __init__(self) -> None:
        self._allocated_by: dict[int, fx.Node] = {}  # key of a recorded storage -> the functional node
        self._numbers = count()

    def label(self, recorded: fx.Node, functional: Sequence[fx.Node]) -> None:
        """Label the ``functional`` nodes of the ``recorded`` one."""
        for node in functional:  # what was written to a slice is put into the whole before that is read
            whole: Any = node.args[0] if node.target in _SCATTERS else None
            if whole is not None and "memory" in whole.meta:
                node.meta["memory"] = whole.meta["memory"]
        if not functional or recorded.op != "call_function":
            return
        target: Any = recorded.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            tensor = recorded.meta.get("val")
            if isinstance(tensor, torch.Tensor):
                self._allocated_by.setdefault(storage_key(tensor), functional[-1])
            return
        written: Any = recorded.args[0] if recorded.args else None
        tensor = written.meta.get("val") if isinstance(written, fx.Node) else None
        allocated_by = self._allocated_by.get(storage_key(tensor)) if isinstance(tensor, torch.Tensor) else None
        if allocated_by is not None:
            functional[-1].meta["memory"] = allocated_by.meta.setdefault("memory", next(self._numbers))
