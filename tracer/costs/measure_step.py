"""Measures every operator of a step on arguments of the forms that really reach it.

Fake tensors get some results wrong. The statistics of a bfloat16 layer norm with float32 weights are bfloat16 as fakes, but
float32 on a CPU, and the backward insists on that. The seed of memory-efficient attention is on the GPU as a fake, but on the
host in truth. Where a measured result differs from its fake in dtype, device or strides, its readers are measured on the form
of the real result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs.errors import CostError, MeasurementError, MeasurementWarning
from remat_planner.tracer.costs.measure import Measured, TensorForm, forms_of, run_once, undisturbed, with_seconds
from remat_planner.tracer.costs.roofline import bytes_moved
from remat_planner.tracer.costs.rounds import ROUNDS
from remat_planner.tracer.errors import UnsupportedOperatorError
from remat_planner.tracer.operators import OpCall, op_call
from remat_planner.tracer.torch_private import fake_mode_of


def measured_calls(
    nodes: Sequence[fx.Node], progress: Callable[[int, int], None] | None = None
) -> dict[fx.Node, tuple[OpCall, Measured | None]]:
    """Measure each node, producers before their readers; None for views. ``progress`` is called with (done, total).

    Raises:
        DeviceNotAtHandError: nothing can be measured on the tensors' device.
        UnsupportedOperatorError: the strides of a real result do not allow a view that the capture takes of its fake.
        MeasurementError: all calls fail when they run alone. Where some do, a warning names them: their costs are estimates.
    """
    corrected: dict[fx.Node, Any] = {}
    done: dict[fx.Node, tuple[OpCall, Measured | None]] = {}
    failed: dict[str, str] = {}
    unmeasured: dict[fx.Node, OpCall] = {}

    def report(nodes_done: int) -> None:
        if progress is not None:
            progress(nodes_done, (1 + ROUNDS) * len(nodes))

    with undisturbed({op_call(node).device for node in nodes}) as samples:
        for i, node in enumerate(nodes):
            call = op_call(node, corrected)
            if call.is_view:
                done[node] = (call, None)
                if any(argument in corrected for argument in node.all_input_nodes):
                    corrected[node] = _viewed_again(node, corrected)
            elif call.key in failed:
                unmeasured[node] = call
            else:
                try:
                    measured = run_once(call, samples)
                except CostError:
                    raise
                except Exception as error:  # whatever an operator raises on arguments that it does not accept
                    failed[call.key] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
                    unmeasured[node] = call
                else:
                    done[node] = (call, measured)
                    if _differs(call, measured):
                        corrected[node] = _as_measured(node.meta["val"], measured.results)
            report(i + 1)
        measured_nodes = [(node, (call, once)) for node, (call, once) in done.items() if once is not None]
        seconds = with_seconds(
            [run for _, run in measured_nodes],
            samples,
            lambda rounds: report((1 + rounds) * len(nodes)),
        )
        for (node, (call, _)), measured in zip(measured_nodes, seconds, strict=True):
            done[node] = (call, measured)
    if not failed:
        return done
    rate = _bytes_per_second([(call, measured) for call, measured in done.values() if measured is not None])
    if rate is None:
        raise MeasurementError(failed)
    _warn_of_estimates(failed)
    estimates = {node: (call, _estimated(call, rate)) for node, call in unmeasured.items()}
    return {node: estimates.get(node) or done[node] for node in nodes}


def _bytes_per_second(measured: Sequence[tuple[OpCall, Measured]]) -> float | None:
    """At what rate the measured calls read and write; None where there are none."""
    seconds = sum(cost.seconds for _, cost in measured)
    return sum(map(bytes_moved, (call for call, _ in measured))) / seconds if seconds else None


def _estimated(call: OpCall, rate: float) -> Measured:
    """The cost of a call that fails alone: time by the bytes that it moves, and room for a copy of all of them."""
    moved = bytes_moved(call)
    return Measured(seconds=moved / rate, workspace=moved, allocates=call.allocates, results=forms_of(call.outputs))


def _warn_of_estimates(failed: Mapping[str, str]) -> None:
    calls = "\n".join(f"  {call}: {reason}" for call, reason in failed.items())
    warnings.warn(
        f"{len(failed)} operator call(s) could not be measured alone, on sample arguments of the right shapes, so their time "
        f"and workspace are estimates:\n{calls}\nWhere an operator needs particular values, give them with "
        "remat_planner.register_operator(..., sample_inputs=...)",
        MeasurementWarning,
        stacklevel=2,
    )


def _differs(call: OpCall, measured: Measured) -> bool:
    """Whether a result differs from its fake in dtype, kind of device, or strides of dimensions longer than 1."""
    if len(call.outputs) != len(measured.results):
        return False
    return any(
        fake is not None
        and form is not None
        and (
            fake.dtype != form.dtype
            or fake.device.type != form.device.type
            or _significant(tuple(fake.shape), fake.stride()) != _significant(form.shape, form.stride)
        )
        for fake, form in zip(call.outputs, measured.results, strict=True)
    )


def _significant(shape: tuple[int, ...], stride: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(step for size, step in zip(shape, stride, strict=True) if size > 1)


def _as_measured(value: Any, forms: Sequence[TensorForm | None]) -> Any:
    """``value`` with each fake tensor replaced by one of the measured form."""
    leaves, spec = pytree.tree_flatten(value)
    mode = fake_mode_of([leaf for leaf in leaves if isinstance(leaf, torch.Tensor)])
    if mode is None:
        return value
    with mode:
        real = [
            torch.empty_strided(form.shape, form.stride, dtype=form.dtype, device=form.device)
            if isinstance(leaf, torch.Tensor) and form is not None
            else leaf
            for leaf, form in zip(leaves, forms, strict=True)
        ]
    return pytree.tree_unflatten(real, spec)


def _viewed_again(node: fx.Node, corrected: dict[fx.Node, Any]) -> Any:
    """The fake result of a view, taken of the corrected value."""

    def value(argument: fx.Node) -> Any:
        return corrected.get(argument, argument.meta.get("val"))

    args = fx.node.map_arg(node.args, value)
    kwargs = fx.node.map_arg(node.kwargs, value)
    assert callable(node.target)
    try:
        return node.target(*args, **kwargs)
    except (RuntimeError, ValueError) as error:
        viewed = node
        while op_call(viewed).is_view:
            viewed = next(argument for argument in viewed.all_input_nodes if argument in corrected)
        source = node.meta.get("source", "")
        raise UnsupportedOperatorError(
            f"{source or 'the model'}: {node.target} was captured as a view of what {viewed.target} returns (at "
            f"{viewed.meta.get('source', '') or 'the model'}). The kernel returns strides {_strides(corrected[viewed])}, the "
            f"capture expected {_strides(viewed.meta['val'])}, so the view is impossible. Make its "
            "arguments contiguous",
            operator=str(viewed.target),
            source=source,
        ) from error


def _strides(value: Any) -> list[tuple[int, ...]]:
    return [leaf.stride() for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
