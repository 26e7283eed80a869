"""Fakes lie in memory as the real results do, for every operator that PyTorch's own fakes get wrong."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

import remat_planner
from remat_planner.tracer import torch_private as private
from remat_planner.tracer.torch_private_layouts import ON_A_CPU, ON_EVERY_DEVICE, laid_out_as_real

aten = torch.ops.aten
Calls = Iterator[tuple[Any, ...]]


def _laid_out(*shape: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Tensors of one shape: dimensions in several orders, with gaps, expanded, channels last."""
    base = (torch.rand(shape) * 0.5 + 0.25).to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)
    orders = list(itertools.permutations(range(len(shape))))
    tensors = [base.permute(order).contiguous().permute([order.index(k) for k in range(len(shape))]) for order in orders[::3]]
    tensors += [base.repeat_interleave(2, -1)[..., ::2], base[:1].expand(shape)]
    return [*tensors, base.to(memory_format=torch.channels_last)] if len(shape) == 4 else tensors


def _pairs() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield from itertools.product(_laid_out(2, 3, 4), repeat=2)
    yield from itertools.product(_laid_out(2, 3, 1, 1)[::3], repeat=2)
    yield from ((tensor, torch.tensor(0.5)) for tensor in _laid_out(2, 3, 4))


def _broadcast() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors of different shapes, one without elements among them."""
    yield from _pairs()
    for shapes in (((2, 1, 4), (2, 3, 1)), ((2, 3, 4), (3, 1)), ((1, 4), (2, 3, 4)), ((0, 1, 4), (3, 4)), ((3, 4), (0, 1, 4))):
        yield from itertools.product(*(_laid_out(*shape) for shape in shapes))


def _two(*rest: Any, kwargs: dict[str, Any] | None = None) -> Calls:
    return ((one, other, *rest) for one, other in _pairs() if other.dim())


def _three(*rest: Any) -> Calls:
    return ((one, other, third, *rest) for (one, other) in _pairs() for third in (one, other) if other.dim())


def _maps(call: Callable[[torch.Tensor, Sequence[torch.Tensor]], tuple[Any, ...]]) -> Calls:
    for shape in ((2, 3, 1, 1), (2, 3, 4, 4), (1, 3, 4, 4), (2, 3, 1, 4), (2, 1, 4, 4)):
        channels = [torch.ones(shape[1]) for _ in range(4)]
        yield from (call(tensor, channels) for tensor in _laid_out(*shape))


def _normalized_backward() -> Calls:
    for shape in ((2, 3, 1, 1), (2, 3, 4, 4), (2, 1, 4, 4)):
        ones = torch.ones(shape[1])
        for gradient, source in itertools.product(_laid_out(*shape)[::2], repeat=2):
            yield gradient, source, ones, ones, ones, ones, ones, True, 1e-5, [True] * 3


def _grouped(tensors: Sequence[torch.Tensor]) -> tuple[Any, ...]:
    source, ones = tensors[-1], torch.ones(3)
    return (*tensors, ones, ones, *source.shape[:2], source.shape[2:].numel(), 1, 1e-5)


def _grouped_backward(gradient: torch.Tensor, source: torch.Tensor) -> tuple[Any, ...]:
    statistics = torch.ones(source.shape[0], 1)
    sizes = (*source.shape[:2], source.shape[2:].numel(), 1)
    return gradient, source, statistics, statistics, torch.ones(3), *sizes, [True] * 3


_OF_GROUPS = [tensor for shape in ((2, 3, 4, 5), (2, 3, 1, 1)) for tensor in (_laid_out(*shape)[0], _laid_out(*shape)[-1])]


def _indexed() -> Calls:
    for source in (*_laid_out(5, 6, 7)[:3], *_laid_out(5, 1, 7)[:2]):
        for one, other in itertools.product(_laid_out(2, 3, dtype=torch.int64)[::2], repeat=2):
            yield from (
                (source, indices) for indices in ([one, other], [None, one], [one, None, other], [None, None, one], [one])
            )
        yield source, [torch.zeros(5, 1, 1, dtype=torch.int64), *_laid_out(1, 2, 3, dtype=torch.int64)[:2]]


def _log_softmax_backward() -> Calls:
    return ((one, other, 1, torch.float32) for one, other in _pairs() if other.dim())


_CALLS: dict[torch._ops.OpOverload, Callable[[], Calls]] = {
    aten.index.Tensor: _indexed,
    aten.elu_backward.default: lambda: ((a, 1.0, 1.0, 1.0, False, b) for a, b in _pairs()),
    aten.hardtanh_backward.default: lambda: _two(0.0, 6.0),
    aten.leaky_relu_backward.default: lambda: _two(0.1, False),
    aten.logit_backward.default: lambda: _two(0.1),
    aten.native_dropout_backward.default: lambda: ((a, b > 0.5, 2.0) for a, b in _pairs()),
    aten.softplus_backward.default: lambda: _two(1.0, 20.0),
    aten.threshold_backward.default: lambda: _two(0.5),
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.binary_cross_entropy_backward.default: _three,
    aten.channel_shuffle.default: lambda: _maps(lambda x, _: (x, 1)),
    aten.huber_loss_backward.default: lambda: _three(1, 1.0),
    aten.log_sigmoid_forward.default: lambda: ((a,) for a, _ in _pairs()),
    aten.max_unpool2d.default: lambda: _maps(lambda x, _: (x, torch.zeros_like(x, dtype=torch.int64), [8, 8])),
    aten.mse_loss_backward.default: lambda: _three(1),
    aten._batch_norm_with_update.default: lambda: _maps(lambda x, ones: (x, *ones, 0.1, 1e-5)),
    aten._native_batch_norm_legit.default: lambda: _maps(lambda x, ones: (x, *ones, True, 0.1, 1e-5)),
    aten._native_batch_norm_legit.no_stats: lambda: _maps(lambda x, ones: (x, *ones[:2], True, 0.1, 1e-5)),
    aten.native_batch_norm.default: lambda: _maps(lambda x, ones: (x, *ones, x.shape[0] > 1, 0.1, 1e-5)),
    aten.native_batch_norm_backward.default: _normalized_backward,
    aten.native_group_norm.default: lambda: (_grouped([x]) for x in _OF_GROUPS),
    aten.native_group_norm_backward.default: lambda: (_grouped_backward(x, x) for x in _OF_GROUPS),
    aten.normal.Tensor_float: lambda: ((a, 1.0) for a, _ in _pairs()),
    aten.normal.float_Tensor: lambda: ((1.0, a) for a, _ in _pairs()),
    aten.pow.Scalar: lambda: ((2.0, a) for a, _ in _pairs()),
    aten.replication_pad2d_backward.default: lambda: _maps(
        lambda x, _: (torch.rand(*x.shape[:2], x.shape[2] + 2, x.shape[3] + 2), x, [1, 1, 1, 1])
    ),
    aten.rrelu_with_noise_backward.default: lambda: (
        (*call, 0.1, 0.3, training, False) for call in _three() for training in (True, False)
    ),
    aten.smooth_l1_loss_backward.default: lambda: _three(1, 1.0),
}
"""Arguments for those that take more than two tensors of any layout."""
_KWARGS = {aten.div.Tensor_mode: {"rounding_mode": "floor"}}


@pytest.mark.slow
@pytest.mark.parametrize("operator", [*ON_EVERY_DEVICE, *ON_A_CPU], ids=str)
def test_fakes_lie_in_memory_as_the_results_of_kernels(operator: torch._ops.OpOverload):
    mode = private.new_fake_mode()
    kwargs = _KWARGS.get(operator, {})
    compared = 0
    with laid_out_as_real(mode):
        for args in _CALLS.get(operator, _broadcast)():
            real = operator(*args, **kwargs)
            on_fakes = pytree.tree_map_only(torch.Tensor, lambda tensor: private.to_fake(mode, tensor), args)
            with mode:
                fake = operator(*on_fakes, **kwargs)
            for one, other in zip(pytree.tree_leaves(fake), pytree.tree_leaves(real), strict=True):
                assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype), [
                    (leaf.shape, leaf.stride()) for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)
                ]
                compared += 1
    assert compared


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t // 2,
        lambda t: 0.5 // t,
        lambda t: torch.div(t, 0.3, rounding_mode="floor"),
        lambda t: torch.copysign(t, -1.0),
        lambda t: torch.xlogy(t, 2.0),
        lambda t: torch.xlogy(2.0, t),
        lambda t: torch.special.xlog1py(t, 2.0),
        lambda t: torch.special.xlog1py(2.0, t),
    ],
)
def test_a_number_among_the_operands_does_not_count(call: Callable[[torch.Tensor], torch.Tensor]):
    mode = private.new_fake_mode()
    with laid_out_as_real(mode):
        for tensor in (*_laid_out(2, 3, 4), *_laid_out(2, 3, 4, 5), torch.tensor(0.5)):
            real, on_fake = call(tensor), private.to_fake(mode, tensor)
            with mode:
                fake = call(on_fake)
            assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


class _ByIndexAndRelu6(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.branch = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Hardswish())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x)
        x = nn.functional.hardtanh(x.transpose(2, 3)).contiguous() * nn.functional.interpolate(self.branch(x), size=x.shape[2:])
        rows = torch.tensor([[0, 1], [2, 3]]).t()
        return x[:, :, rows].reshape(-1, 8).softmax(-1).square().mean()


@pytest.mark.slow
def test_a_step_through_such_operators_has_eagers_bits_and_the_predicted_peak():
    torch.manual_seed(0)
    model, x = _ByIndexAndRelu6(), torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)
    schedule = remat_planner.plan(model, (x,), budget="100%", solver="greedy", verify=False)
    result = remat_planner.verify(model, schedule, (x,))
    assert result.identical
    assert result.measured_peak_bytes == result.predicted_peak_bytes


def test_a_recurrent_layer_is_captured_alike_whether_its_fakes_are_remembered_or_not() -> None:
    model, x = nn.LSTM(4, 8), torch.randn(3, 2, 4)
    private.FakeTensorMode.cache_clear()
    steps = [remat_planner.trace(model, (x,), loss=lambda output: output[0].sum(), costs="h100") for _ in range(2)]
    assert [op.name for op in steps[0].ops] == [op.name for op in steps[1].ops]
    assert not any(op.kind == "copied_with_strides" for op in steps[0].ops), "the kernel makes two gradients of the biases"
