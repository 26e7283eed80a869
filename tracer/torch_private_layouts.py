"""The strides of results that PyTorch's fake tensors get wrong, corrected, with the private names that this takes.

A fake's strides come from a formula in Python; the real ones come from the kernel. Where they differ, a step would be captured
with views, copies and layouts of gradients that eager does not have. The tests compare every operator of the tables with its
kernel, on tensors of many layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch._prims_common import compute_elementwise_output_strides, suggest_memory_format
from torch._subclasses.fake_tensor import FakeTensorMode

aten = torch.ops.aten

Strides = tuple[int, ...]
Rule = Callable[[Sequence[Any], torch.Tensor], Strides]
"""The strides of the first result, and of others of its shape, from the call's positional arguments and the fake result."""


def _as_iterated(*positions: int) -> Rule:
    """PyTorch's loop over elements, which takes the order of dimensions from its operands, the first of them first."""

    def strides(args: Sequence[Any], result: torch.Tensor) -> Strides:
        operands = (args[position] for position in positions)
        return tuple(compute_elementwise_output_strides(*(_form(operand).expand(result.shape) for operand in operands)))

    return strides


def _contiguous(_args: Sequence[Any], result: torch.Tensor) -> Strides:
    return _of_empty(result, torch.contiguous_format)


def _in_format_of(position: int) -> Rule:
    """Channels last where the argument is, else contiguous."""
    return lambda args, result: _of_empty(result, suggest_memory_format(args[position]))


def _normalized(position: int) -> Rule:
    """Channels last where the argument is and is not contiguous too, as maps of one pixel are."""

    def strides(args: Sequence[Any], result: torch.Tensor) -> Strides:
        source = args[position]
        if source.is_contiguous():
            return _of_empty(result, torch.contiguous_format)
        last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(source.dim())
        if last is not None and source.is_contiguous(memory_format=last):
            return _of_empty(result, last)
        return _of_empty(result, suggest_memory_format(source))

    return strides


def _normalized_backward(args: Sequence[Any], result: torch.Tensor) -> Strides:
    gradient, source = args[:2]
    one_format = suggest_memory_format(gradient) == suggest_memory_format(source)
    return (_normalized(1) if one_format else _in_format_of(1))(args, result)


def _as_argument(position: int) -> Rule:
    """Those of ``torch.empty_like`` of the argument."""
    return lambda args, _result: tuple(torch.empty_like(args[position], device="meta").stride())


def _as_indexed(args: Sequence[Any], _result: torch.Tensor) -> Strides:
    """``x[i, :, j]``: a loop over ``x``, which does not move along the indexed dimensions, and over the index tensors."""
    source, indices = args
    indices = [*indices, *[None] * (source.dim() - len(indices))]
    shape = torch.broadcast_shapes(*(index.shape for index in indices if index is not None))  # type: ignore[no-untyped-call]
    dims = [dim for dim, index in enumerate(indices) if index is not None]
    if dims[-1] - dims[0] + 1 != len(dims):  # indices that are no neighbours go to the front
        dims += [dim for dim, index in enumerate(indices) if index is None]
        source, indices = source.permute(dims), [indices[dim] for dim in dims]
        dims = [dim for dim, index in enumerate(indices) if index is not None]
    before, after = dims[0], source.dim() - dims[-1] - 1
    size = (*source.shape[:before], *shape, *source.shape[dims[-1] + 1 :])
    strides = (*source.stride()[:before], *(0 for _ in shape), *source.stride()[dims[-1] + 1 :])
    operands = [torch.empty_strided(size, strides, device="meta")]
    for index in indices:
        if index is not None:
            operands.append(_form(index).expand(shape).reshape([1] * before + list(shape) + [1] * after).expand(size))
    return tuple(compute_elementwise_output_strides(*operands))


def _of_random_relu(args: Sequence[Any], result: torch.Tensor) -> Strides:
    training = args[5]
    return _as_iterated(2, 0)(args, result) if training else _as_iterated(1, 0)(args, result)


ON_EVERY_DEVICE: Mapping[torch._ops.OpOverload, Rule] = {
    aten.index.Tensor: _as_indexed,
    aten.copysign.Tensor: _as_iterated(0, 1),
    aten.div.Tensor_mode: _as_iterated(0, 1),
    aten.elu_backward.default: _as_iterated(0, 5),
    aten.floor_divide.default: _as_iterated(0, 1),
    aten.hardsigmoid_backward.default: _as_iterated(0, 1),
    aten.hardswish_backward.default: _as_iterated(0, 1),
    aten.hardtanh_backward.default: _as_iterated(0, 1),
    aten.heaviside.default: _as_iterated(0, 1),
    aten.leaky_relu_backward.default: _as_iterated(1, 0),
    aten.logaddexp.default: _as_iterated(0, 1),
    aten.logaddexp2.default: _as_iterated(0, 1),
    aten.logical_and.default: _as_iterated(0, 1),
    aten.logical_or.default: _as_iterated(0, 1),
    aten.logical_xor.default: _as_iterated(0, 1),
    aten.logit_backward.default: _as_iterated(0, 1),
    aten.native_dropout_backward.default: _as_iterated(0, 1),
    aten.softplus_backward.default: _as_iterated(0, 1),
    aten.special_xlog1py.default: _as_iterated(0, 1),
    aten.threshold_backward.default: _as_iterated(1, 0),
    aten.xlogy.Tensor: _as_iterated(0, 1),
}
"""Operators whose kernels loop over elements on every device, and the operands in the kernel's order."""

ON_A_CPU: Mapping[torch._ops.OpOverload, Rule] = {
    aten._log_softmax_backward_data.default: _contiguous,
    aten.binary_cross_entropy_backward.default: _as_argument(1),
    aten.channel_shuffle.default: _in_format_of(0),
    aten.huber_loss_backward.default: _contiguous,
    aten.log_sigmoid_forward.default: _contiguous,
    aten.max_unpool2d.default: _in_format_of(0),
    aten.mse_loss_backward.default: _contiguous,
    aten._batch_norm_with_update.default: _normalized(0),
    aten._native_batch_norm_legit.default: _normalized(0),
    aten._native_batch_norm_legit.no_stats: _normalized(0),
    aten.native_batch_norm.default: _normalized(0),
    aten.native_batch_norm_backward.default: _normalized_backward,
    aten.native_group_norm.default: _in_format_of(0),  # contiguous as a fake from torch 2.14 on
    aten.native_group_norm_backward.default: _in_format_of(1),
    aten.normal.Tensor_Tensor: _contiguous,
    aten.normal.Tensor_float: _contiguous,
    aten.normal.float_Tensor: _contiguous,
    aten.pow.Scalar: _contiguous,
    aten.replication_pad2d_backward.default: _in_format_of(1),
    aten.rrelu_with_noise_backward.default: _of_random_relu,
    aten.smooth_l1_loss_backward.default: _contiguous,
}
"""Operators whose kernels for CPUs allocate their results in one layout, whatever that of their arguments."""


@contextmanager
def laid_out_as_real(mode: FakeTensorMode) -> Iterator[None]:
    """Give fake results the strides of the real ones."""
    dispatch = mode.dispatch

    def corrected(func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results: Any = dispatch(func, types, args, kwargs)
        if func is aten.mkldnn_rnn_layer_backward.default:
            return _without_shared(results, mode)
        rule = ON_EVERY_DEVICE.get(func) or ON_A_CPU.get(func)
        if rule is None:
            return results
        first = results[0] if isinstance(results, (tuple, list)) else results
        if not isinstance(first, torch.Tensor) or (func in ON_A_CPU and first.device.type != "cpu"):
            return results
        with mode if any(isinstance(size, torch.SymInt) for size in first.shape) else nullcontext():
            strides = rule(args, first)

        def laid_out(result: Any) -> Any:
            if not isinstance(result, torch.Tensor) or result.shape != first.shape or result.stride() == strides:
                return result
            with mode:
                return torch.empty_strided(result.shape, strides, dtype=result.dtype, device=result.device)

        return laid_out(results) if first is results else tuple(map(laid_out, results))

    mode.dispatch = corrected  # type: ignore[method-assign]
    try:
        yield
    finally:
        del mode.dispatch  # restores the method of the class


def _without_shared(results: Sequence[Any], mode: FakeTensorMode) -> tuple[Any, ...]:
    """The gradients of both biases apart: its formula makes one fake of them (the cache of fakes does not), the kernel two."""
    with mode:
        return tuple(
            torch.empty_like(result) if any(result is other for other in results[:i]) else result
            for i, result in enumerate(results)
        )


def _of_empty(result: torch.Tensor, memory_format: torch.memory_format) -> Strides:
    return tuple(torch.empty(result.shape, memory_format=memory_format, device="meta").stride())


def _form(operand: torch.Tensor | complex) -> torch.Tensor:
    """A tensor of the form of ``operand``. A Python number (``x // 2``) is a tensor without dimensions to the kernel."""
    if not isinstance(operand, torch.Tensor):
        return torch.empty((), device="meta")
    return torch.empty_strided(operand.shape, operand.stride(), device="meta")
