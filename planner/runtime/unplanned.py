"""Says once when a training step runs without the plan.

Until the planned module is first called to train, a gradient that arrives at a parameter belongs to such a step: one in
evaluation mode, through another method, through a submodule, or with the model itself. Hooks on the parameters see that; the
first planned call removes them. Later, only the steps in evaluation mode are seen.
"""

from __future__ import annotations

import logging
import sys
import weakref
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from remat_planner.planner.torch_private import forget_removed_hooks
from remat_planner.tracer.record import user_line

_log = logging.getLogger("remat_planner")
_watches: weakref.WeakSet[UnplannedTraining] = weakref.WeakSet()


@contextmanager
def unplanned_on_purpose(model: nn.Module) -> Iterator[None]:
    """Steps of ``model`` inside may run without a plan: they are measured or compared."""
    parameters = {id(p) for p in model.parameters()}
    paused = [watch for watch in _watches if watch.watches(parameters)]
    for watch in paused:
        watch.planned()
    try:
        yield
    finally:
        for watch in paused:
            watch.watch_parameters()


class UnplannedTraining:
    """Watches for training steps of ``model`` without its plan.

    Args:
        model: the model itself.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = weakref.ref(model)  # the hooks refer to this object, and a cycle would keep the model allocated
        self._kind = type(model).__name__
        self._told = False
        self._returned: weakref.ref[nn.Module] | None = None
        self._applied_at = ""
        self._hooks: list[tuple[str, RemovableHandle]] = []
        self.watch_parameters()
        _watches.add(self)

    def watch_parameters(self) -> None:
        """See the gradients that arrive at the parameters, until a planned step begins."""
        model = self._model()
        for name, parameter in () if model is None else model.named_parameters():
            if parameter.requires_grad and parameter.is_leaf:
                handle = parameter.register_hook(self._hook(name))  # type: ignore[no-untyped-call]
                self._hooks.append((name, handle))

    def returned(self, planned: nn.Module) -> None:
        """``apply_schedule``, called in the user's line that runs now, returns ``planned``."""
        self._returned, self._applied_at = weakref.ref(planned), user_line(sys._getframe(1))

    def watches(self, parameters: Collection[int]) -> bool:
        """Whether there are hooks on one of ``parameters``, which are given by their ids."""
        model = self._model()
        return bool(self._hooks) and model is not None and any(id(p) in parameters for p in model.parameters())

    def planned(self) -> None:
        """A planned step begins."""
        if self._hooks:
            self._remove_hooks()

    def evaluated(self, output: Any) -> None:
        """A forward with gradients enabled has run in a mode that is not planned."""
        if self._told:
            return
        leaves: Iterable[Any] = pytree.tree_leaves(output)
        nodes = {leaf.grad_fn for leaf in leaves if type(leaf) is torch.Tensor and leaf.grad_fn is not None}
        for node in nodes:
            node.register_prehook(self._tell_of_evaluation)

    def _tell_of_evaluation(self, _gradients: Any) -> None:
        self._tell(
            "a training step of %s ran without its plan, because the model is in evaluation mode and the plan is for training "
            "mode: the step takes the memory of an unplanned one. To train in this mode, call plan after model.eval(); else "
            "call train()"
        )

    def _hook(self, name: str) -> Any:
        def arrived(_gradient: torch.Tensor) -> None:
            if self._returned is not None and self._returned() is None:
                self._tell(
                    "a training step of %s ran without its plan: apply_schedule left the model as it is, and nothing refers to "
                    "the planned module that it returned (%s). The step takes the memory of an unplanned one. Train with what "
                    "apply_schedule returns: model = remat_planner.apply_schedule(model, schedule)",
                    self._applied_at,
                )
                return
            self._tell(
                "a training step of %s ran without its plan: a gradient arrived at a parameter, and the module that "
                "apply_schedule returned has not been called to train. The step takes the memory of an unplanned one. Train "
                "with that module, and call it itself: its other methods, its submodules and the original model have no plan. "
                "To plan another method, plan a module whose forward calls it. (The parameter is %s)",
                name,
            )

        return arrived

    def _tell(self, message: str, *names: str) -> None:
        self._remove_hooks()
        if not self._told:
            self._told = True
            _log.warning(message, self._kind, *names)

    def _remove_hooks(self) -> None:
        hooks, self._hooks = self._hooks, []
        model = self._model()
        # A weak reference to a parameter would keep ``torch.utils.swap_tensors`` from exchanging it.
        parameters = {} if model is None else dict(model.named_parameters())
        for name, hook in hooks:
            hook.remove()
            if name in parameters:
                forget_removed_hooks(parameters[name])
