"""Numbers that a recorded forward reads from tensors and hands on: it returns them, or leaves them in Python state.

Training code logs so (``self.log["loss"] = loss.item()``). Their values are unknown while the step is recorded, and no operator
and no branch may depend on them. Each planned step computes the tensors that hold them, and reads these at its end.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from typing import Any, NoReturn

import torch

from remat_planner.tracer.draw_range import DrawRange
from remat_planner.tracer.errors import DataDependentError
from remat_planner.tracer.graph_trace import newest_node, nodes_after, recorded_graph
from remat_planner.tracer.python_state import ReadNumber, is_read_number


class ReadNumbers:
    """The numbers of one recording.

    Attributes:
        used: why the step is refused, once a number has been used; None before.
    """

    def __init__(self) -> None:
        self.used: DataDependentError | None = None
        self._asked = False
        self._given: ReadNumber | None = None
        self._numbers: list[tuple[weakref.ref[ReadNumber], DataDependentError]] = []

    def item(self, tensor: torch.Tensor) -> Any:
        """``tensor.item()``, where a number that is not known stays unread."""
        self._asked, self._given = True, None
        try:
            value = tensor.item()
        finally:
            self._asked = False
        given, self._given = self._given, None  # which is kept by the code that read it alone
        return value if given is None else given

    def give(
        self, tensor: torch.Tensor, module: str, source: str, error: DataDependentError, drawn: DrawRange | None = None
    ) -> bool:
        """Give the number in ``tensor`` to the ``item`` that reads it. False where something else does.

        Args:
            tensor: of one element.
            module: whose forward reads it.
            source: "file:line" of the read.
            error: why the step is refused if the number is used.
            drawn: where the number lies, if it is a random draw.
        """
        if not self._asked:
            return False
        last_node = newest_node(recorded_graph())
        with torch.no_grad():
            copied = torch.ops.aten.clone.default(tensor)  # the tensor may change after this read, or be part of a large one
        for node in nodes_after(last_node):
            node.meta.update(module=module, source=source, in_backward=False)

        def refuse() -> NoReturn:
            self.used = self.used or error
            raise error

        self._given = ReadNumber(copied, refuse, drawn)
        self._numbers.append((weakref.ref(self._given), error))
        return True

    def explain(self, error: Exception) -> None:
        """Raise why the step is refused where ``error`` of the user's code may come from a number that is not read.

        Raises:
            DataDependentError: the code got such a number.
        """
        if self._numbers:
            raise self.used or self._numbers[-1][1] from error

    def refuse_others(self, handed_on: Iterable[Any]) -> None:
        """Refuse a step that has used a number, or has kept one elsewhere than among the leaves ``handed_on``.

        Raises:
            DataDependentError: it has.
        """
        if self.used is not None:
            raise self.used
        known = {id(leaf) for leaf in handed_on if is_read_number(leaf)}
        own = {id(number) for ref, _ in self._numbers if (number := ref()) is not None}
        for leaf in handed_on:
            if is_read_number(leaf) and id(leaf) not in own:  # an earlier step has left it
                leaf.refuse()
        if not own <= known:
            gc.collect()
        for ref, error in self._numbers:
            if (number := ref()) is not None and id(number) not in known:
                raise error
