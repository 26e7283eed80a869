"""Sample calls of operators whose results are as large as values say have results of the size that they have in the step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils import _pytree as pytree

from remat_planner.tracer import capture
from remat_planner.tracer.costs import record_memory
from remat_planner.tracer.costs.measure import undisturbed
from remat_planner.tracer.operators import op_call
from tests.tracer.cases import Written, linear, mean_square
from tests.tracer.fake_calls import call_of

MASK = torch.tensor([True, False, True, True, False, True])
RUNS = torch.tensor([0, 0, 3, 3, 3, 7])
LENGTHS = torch.tensor([3, 2, 1])


def _put(h: torch.Tensor, value: Any) -> torch.Tensor:
    h = h.clone()
    h[MASK] = value
    return h


def _put_columns(h: torch.Tensor) -> torch.Tensor:
    h = h.clone()
    h.view(6, 2, 8)[:, 0][:, torch.arange(8) % 3 == 0] = h[:, :3] * 2
    return h


def _sequences(h: torch.Tensor) -> torch.Tensor:
    return h.view(3, 2, 16).transpose(0, 1).repeat(2, 2, 1)[:3, :3]


CALLS = {
    "rows": lambda h: h[MASK],
    "elements": lambda h: h[MASK[:, None] & (torch.arange(16) % 3 == 0)],
    "rows and columns": lambda h: h[MASK, torch.tensor([1, 2, 3, 4])],
    "columns": lambda h: h[:, torch.arange(16) % 3 == 0],
    "rows put": lambda h: _put(h, h[MASK] * 2),
    "one row put": lambda h: _put(h, h[0]),
    "a number put": lambda h: _put(h, 0.5),
    "columns put in place": lambda h: _put_columns(h),
    "selected": lambda h: h.masked_select(MASK[:, None]),
    "selected by an expanded mask": lambda h: h.masked_select(MASK[:, None].expand(6, 16)),
    "scattered": lambda h: h.masked_scatter(MASK[:, None].expand(6, 16), h[MASK] * 2),
    "nonzero": lambda h: h[MASK.nonzero()[:, 0]],
    "repeated": lambda h: h.repeat_interleave(RUNS, 0),
    "unique": lambda h: h[: torch.unique(RUNS).shape[0]] + torch.unique(RUNS, return_counts=True)[1][:, None],
    "unique rows": lambda h: h[: torch.unique(RUNS[:, None].expand(6, 2), dim=0).shape[0]],
    "runs": lambda h: h[torch.unique_consecutive(RUNS)[:2]],
    "counted": lambda h: h.sum() * torch.bincount(RUNS),
    "segments": lambda h: torch.segment_reduce(h, "mean", lengths=LENGTHS),
    "packed": lambda h: pack_padded_sequence(_sequences(h), LENGTHS).data,
    "alignments": lambda h: F.ctc_loss(
        _sequences(h).log_softmax(-1), torch.ones(3, 4, dtype=torch.long), torch.tensor([3, 3, 3]), torch.tensor([1, 0, 2])
    ),
    "alignments of packed targets": lambda h: F.ctc_loss(
        _sequences(h).log_softmax(-1), torch.tensor([1, 2, 3]), torch.tensor([3, 3, 3]), torch.tensor([1, 0, 2])
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_results_are_as_large_as_in_the_step(name: str):
    joint = capture(Written(lambda m, x: mean_square(CALLS[name](m.a(x))), a=linear()), (torch.randn(6, 16),))
    calls = [call for node in joint.ops if not (call := op_call(node)).is_view]
    with undisturbed([]) as samples:
        for call in calls:
            args, kwargs = samples.make(call)
            results = [leaf for leaf in pytree.tree_leaves(call.target(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            expected = [output for output in call.outputs if output is not None]
            assert [result.shape for result in results] == [output.shape for output in expected], call.key


def test_calls_that_differ_in_the_size_of_the_result_alone_are_told_apart():
    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)[mask]) + mean_square(m.a(x)[~mask])

    joint = capture(Written(forward, a=linear()), (torch.randn(6, 16), MASK))
    keys = [op_call(node).key for node in joint.ops if node.target is torch.ops.aten.index.Tensor]
    assert len(set(keys)) == 2
    assert keys[0].endswith("->[[4,16]]")


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
@pytest.mark.parametrize("shape", [(6, 16), (6, 1), (16,), ()], ids=str)
def test_no_mask_takes_more_memory_than_the_sample(shape: tuple[int, ...], dtype: torch.dtype):
    backward, gradient = torch.ops.aten.masked_scatter_backward.default, torch.randn(6, 16, dtype=dtype)

    def bytes_with(mask: torch.Tensor) -> int:
        return record_memory(lambda: backward(gradient, mask, [6, 16]))[1].peak

    with undisturbed([]) as samples:
        call = call_of(lambda g, m: backward(g, m, [6, 16]), gradient, torch.zeros(shape, dtype=torch.bool))
        args, _ = samples.make(call)
    tried = [torch.rand(shape) < share for share in (-1, 0.2, 0.8, 2)]
    assert max(map(bytes_with, tried)) <= bytes_with(args[1])
