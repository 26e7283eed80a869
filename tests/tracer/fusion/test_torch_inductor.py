"""The private names behind ``tracer.torch_inductor`` do what it says."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer.torch_inductor import kind_of, storage_key, weighs

aten = torch.ops.aten


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (aten.add.Tensor, "pointwise"),
        (aten.embedding.default, "pointwise"),
        (aten.sum.dim_IntList, "reduction"),
        (aten.var_mean.correction, "reduction"),
        (aten.view.default, "view"),
        (aten._unsafe_view.default, "view"),
        (aten.index_put.default, "loop"),
        (aten.mm.default, "kernel"),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, "kernel"),  # for which inductor has no code
        (len, "kernel"),
    ],
)
def test_kinds(target: object, kind: str):
    assert kind_of(target) == kind


def test_a_transcendental_weighs_more_than_an_addition():
    assert weighs(aten.tanh.default) > weighs(aten.div.Tensor) > weighs(aten.add.Tensor)


def test_views_share_a_storage():
    x = torch.ones(4)
    assert storage_key(x) == storage_key(x[1:]) != storage_key(x.clone())
