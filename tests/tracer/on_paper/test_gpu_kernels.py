"""Attention and dropout on paper become a GPU's kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

import remat_planner
from remat_planner.planner.model_loading.fake_build import built_without_memory
from remat_planner.schedules import Graph
from tests.tracer.cases import Written, mean_square

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")

FLASH, EFFICIENT = "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"
LENGTH = 256
Forward = Callable[[Written, torch.Tensor], torch.Tensor]


def attention(width: int = 64, keys: int = 2, values: int = 64, mask: str = "", **options: float | bool) -> Forward:
    """A forward that reads queries, keys and values, of 4 heads or ``keys`` shared ones, from one tensor."""

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        q = m.a(x)[..., : 4 * width].unflatten(-1, (4, width)).transpose(1, 2)
        k = m.a(x)[..., : keys * width].unflatten(-1, (keys, width)).transpose(1, 2)
        v = m.a(x)[..., : keys * values].unflatten(-1, (keys, values)).transpose(1, 2)
        given = {"": None, "learned": m.mask, "allowed": torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()}[mask]
        return mean_square(F.scaled_dot_product_attention(q, k, v, given, **options))  # type: ignore[arg-type]

    return forward


def traced(forward: Forward, dtype: torch.dtype, **modules: nn.Module) -> Graph:
    with built_without_memory():
        model = Written(forward, a=nn.Linear(256, 256), **modules)
        model.register_parameter("mask", nn.Parameter(torch.zeros(LENGTH, LENGTH)))
        model, x = model.to(dtype), torch.randn(2, LENGTH, 256, dtype=dtype)
    return remat_planner.trace(model, (x,), costs="h100")


def kinds(graph: Graph) -> list[str]:
    return [op.kind for op in graph.ops if "attention" in op.kind or "softmax" in op.kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "forward", "kernel"),
    [
        (torch.bfloat16, attention(keys=4, dropout_p=0.1), FLASH),
        (torch.float16, attention(keys=4, dropout_p=0.1, is_causal=True), FLASH),
        (torch.bfloat16, attention(keys=4, width=36, values=36, dropout_p=0.1), FLASH),
        (torch.bfloat16, attention(enable_gqa=True, dropout_p=0.1), FLASH),
        (torch.bfloat16, attention(keys=4, mask="allowed", dropout_p=0.1), EFFICIENT),
        (torch.bfloat16, attention(keys=4, mask="learned"), EFFICIENT),
        (torch.bfloat16, attention(keys=4, values=32), EFFICIENT),
        (torch.float32, attention(keys=4, dropout_p=0.1), EFFICIENT),
        (torch.float32, attention(enable_gqa=True, mask="allowed", dropout_p=0.1), EFFICIENT),
        (torch.bfloat16, attention(keys=4), "_scaled_dot_product_flash_attention_for_cpu"),  # keeps the same
    ],
)
def test_attention_is_one_kernel(dtype: torch.dtype, forward: Forward, kernel: str) -> None:
    graph = traced(forward, dtype)
    assert kinds(graph) == [kernel, f"{kernel}_backward"]
    assert all(op.flops > 0 for op in graph.ops if "attention" in op.kind)
    scores = 2 * 4 * LENGTH * LENGTH * dtype.itemsize
    written = [graph.values[value].storage for op in graph.ops if op.phase == "forward" for value in op.writes]
    assert all(graph.storages[storage].bytes < scores for storage in written)


@pytest.mark.slow
def test_attention_that_no_gpu_fuses_stays_unfused() -> None:
    assert FLASH not in kinds(traced(attention(keys=4, dropout_p=0.1), torch.float64))
    with sdpa_kernel(SDPBackend.MATH):
        assert "_softmax" in "".join(kinds(traced(attention(keys=4, dropout_p=0.1), torch.bfloat16)))


@pytest.mark.slow
def test_dropout_retains_one_byte_per_element_wherever_it_is_called() -> None:
    layer = nn.TransformerEncoderLayer(256, 4, 512, dropout=0.1, batch_first=True)
    graph = traced(lambda m, x: mean_square(m.layer(m.a(x))), torch.bfloat16, layer=layer)
    drawn = [op for op in graph.ops if op.kind == "native_dropout"]
    assert len(drawn) == 3
    assert kinds(graph)[0] == FLASH
    masks = [value for op in drawn for v in op.writes if (value := graph.values[v]).dtype == "bool"]
    assert len(masks) == 3


@pytest.mark.slow
def test_real_tensors_and_later_calls_are_untouched() -> None:
    kept: list[torch.Tensor] = []

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        kept.append(F.dropout(torch.ones(8), 0.5))
        return mean_square(F.dropout(m.a(x), 0.5))

    assert any(op.kind == "native_dropout" for op in traced(forward, torch.float32).ops)
    x = torch.ones(1000, requires_grad=True)
    F.dropout(x, 0.5).sum().backward()
    assert x.grad is not None
    assert set(x.grad.tolist()) == {0.0, 2.0}
    here = remat_planner.trace(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)), (torch.ones(2, 8),), costs="h100")
    assert not any(op.kind == "native_dropout" for op in here.ops)  # this model can run here, as the CPU does


@pytest.mark.slow
def test_flex_attention_is_one_operator_forward_and_one_backward():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.a(x)[..., :192].unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        mask = create_block_mask(lambda _b, _h, i, j: i >= j, None, None, LENGTH, LENGTH, device=x.device)
        return mean_square(flex_attention(q, k, v, lambda score, _b, h, i, j: score + m.slope[h] * (i - j), mask))

    graph = traced(forward, torch.float32, slope=nn.Parameter(torch.zeros(4)))
    of_attention = {op.kind: op for op in graph.ops if op.kind.startswith("flex_attention")}
    assert set(of_attention) == {"flex_attention", "flex_attention_backward"}
    assert all(op.pinned is None for op in of_attention.values())
    bytes_of = [graph.storages[graph.values[v].storage].bytes for v in of_attention["flex_attention"].writes]
    assert sorted(bytes_of) == sorted([2 * 4 * LENGTH * 16 * 4, 2 * 4 * LENGTH * 4, 2 * 4 * LENGTH * 4])
    flops = 2 * 2 * 4 * LENGTH * LENGTH * (16 + 16)
    assert of_attention["flex_attention"].flops == flops
    assert of_attention["flex_attention_backward"].flops == 2.5 * flops
