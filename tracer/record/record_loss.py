"""Recording the caller's loss beside the model: its operators, its storages, and the gradients that it sends to the outputs.

Gradients of parameters that the loss has itself come after these.

The loss runs twice on fakes: under a trace, for the graph, and without one, for the lifetimes of its storages, since a trace
frees nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, cast

import torch
from torch import nn

from remat_planner.tracer.errors import DataDependentError, InputsDoNotFitError
from remat_planner.tracer.functions import use_functions
from remat_planner.tracer.graph_trace import trace
from remat_planner.tracer.joint import CapturedLoss
from remat_planner.tracer.record.autocast import without_autocast
from remat_planner.tracer.record.gradient_arrivals import nodes_behind
from remat_planner.tracer.record.loss_lifetimes import LossLifetimes
from remat_planner.tracer.record.loss_state import loss_state_kept
from remat_planner.tracer.record.provenance import Provenance
from remat_planner.tracer.record.recorder import Recorder
from remat_planner.tracer.record.recording import Tangent
from remat_planner.tracer.record.user_code import run_user_code
from remat_planner.tracer.record.value_guards import KnownValues
from remat_planner.tracer.record.values_in_c import values_readable
from remat_planner.tracer.refusals import loss_of_no_output_error, loss_raised_error, loss_reads_value_error, refuse_loss
from remat_planner.tracer.torch_private import FakeTensorMode, single_threaded_backward
from remat_planner.tracer.torch_tracing import tracing_interrupted


def record_loss(
    loss: Callable[[Any], torch.Tensor], mode: FakeTensorMode, leaves: list[Any], spec: Unflattens
) -> tuple[CapturedLoss, list[Tangent]]:
    """Record ``loss`` and its backward on a model's output (fakes, flattened to ``leaves``).

    Raises:
        LossError: the loss is not a differentiable scalar, or depends on no output.
        DataDependentError: the loss reads a value.
        LossRaisedError: the loss's own code raised.
    """
    run = _LossRun(loss, mode, leaves, spec)
    with tracing_interrupted():
        stand_ins = run.stand_ins()
        known = KnownValues()
        recorder = Recorder(mode, Provenance(nn.Module()), known)
        module = trace(lambda tensors: run(tensors, recorder), stand_ins)
        use_functions(module.graph)
        lifetimes = LossLifetimes(mode, known.answers)
        value, gradients = run(stand_ins, lifetimes)
    if not run.strides:
        raise loss_of_no_output_error()
    ops = [node for node in module.graph.nodes if node.op in ("call_function", "get_attr")]
    captured = CapturedLoss(
        graph=module,
        forward=tuple(node for node in ops if not node.meta.get("in_backward", False)),
        backward=tuple(node for node in ops if node.meta.get("in_backward", False)),
        outputs=tuple(node for node in module.graph.nodes if node.op == "placeholder"),
        lifetimes=lifetimes.of_storages([value, *gradients]),
    )
    return captured, [Tangent(output, stride) for output, stride in run.strides.items()]


class Unflattens(Protocol):
    """Puts an output together from its leaves."""

    @property
    def returned(self) -> int:
        """Number of leaves of the output itself; those after them are left behind in Python state."""

    @property
    def in_arguments(self) -> Collection[int]:
        """The leaves that are left behind in an argument of the call, where the caller finds them."""

    def unflatten(self, leaves: Sequence[Any], /) -> Any:
        """The output with ``leaves`` in it."""


def may_join_loss(leaves: list[Any], returned: int) -> list[int]:
    """Leaves after the output's that a training loop may add to its loss: numbers with a gradient, as auxiliary losses are.

    For larger tensors that the forward stores, a gradient would take their bytes in every plan, though it hardly ever arrives.
    """
    stored = range(returned, len(leaves))
    return [i for i in stored if isinstance(leaves[i], torch.Tensor) and leaves[i].requires_grad and leaves[i].numel() == 1]


class _LossRun:
    """Forward and backward of the loss on stand-ins for the output's tensors.

    Attributes:
        strides: of the gradient that each output leaf gets, by the leaf's index; filled by a run.
    """

    def __init__(self, loss: Callable[[Any], torch.Tensor], mode: FakeTensorMode, leaves: list[Any], spec: Unflattens) -> None:
        self.strides: dict[int, tuple[int, ...]] = {}
        self._loss = loss
        self._mode = mode
        self._leaves = leaves
        self._spec = spec
        self._tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]

    def stand_ins(self) -> list[torch.Tensor]:
        """New fakes that are laid out like the output's tensors."""
        outputs = [self._leaves[i] for i in self._tensors]
        with self._mode, torch.no_grad():
            return [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in outputs]

    def __call__(
        self, stand_ins: list[torch.Tensor], watch: Recorder | LossLifetimes
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The loss and the gradients that it sends, computed under ``watch``."""
        leaves = list(self._leaves)
        for i, tensor in zip(self._tensors, stand_ins, strict=True):
            leaves[i] = tensor.detach().requires_grad_(self._leaves[i].requires_grad)
        differentiable = [i for i in self._tensors if leaves[i].requires_grad]
        output = self._spec.unflatten(leaves)
        with loss_state_kept(self._loss) as kept:
            with self._mode, kept, watch, values_readable(watch.values_of):
                value = self._value(output)
            refuse_loss(value, "the loss")
            watch.in_backward = True
            with self._mode, kept, watch, single_threaded_backward(), without_autocast():
                inputs = [*(leaves[i] for i in differentiable), *_own_parameters(value, leaves)]
                gradients = list(torch.autograd.grad(value, inputs, allow_unused=True))
                for k, i in enumerate(differentiable):
                    if gradients[k] is None and i in may_join_loss(leaves, self._spec.returned):
                        gradients[k] = torch.ones_like(leaves[i])
        arriving = {i: g for i, g in zip(differentiable, gradients, strict=False) if g is not None}
        self.strides.update({i: tuple(g.stride()) for i, g in arriving.items()})
        own = [gradient for gradient in gradients[len(differentiable) :] if gradient is not None]
        return value, [*arriving.values(), *own]

    def _value(self, output: Any) -> torch.Tensor:
        try:
            return cast(torch.Tensor, run_user_code(self._loss, (output,), {}))
        except DataDependentError as error:
            raise loss_reads_value_error(error) from error
        except InputsDoNotFitError as error:
            cause = error.__cause__
            assert isinstance(cause, Exception)
            raise loss_raised_error(cause, error.source) from cause


def _own_parameters(value: torch.Tensor, leaves: list[Any]) -> list[torch.Tensor]:
    """What the backward of the loss ``value`` accumulates gradients in, besides the ``leaves`` of the output."""
    outputs = {id(leaf) for leaf in leaves}
    reached = [getattr(node, "variable", None) for node in nodes_behind([value])]
    return [tensor for tensor in reached if isinstance(tensor, torch.Tensor) and id(tensor) not in outputs]
