"""What single calls do, by tags, schemas and records."""

import pytest
import torch

from remat_planner.tracer.operators.behaviour import (
    batch_norm_statistics,
    communicates_in_place,
    hidden_updates,
    is_collective,
    is_pure,
    is_random,
    pin_reason,
)
from remat_planner.tracer.operators.declared import reads_a_number, sized_by_values, written_arguments
from remat_planner.tracer.passes.random_draws import bernoulli_fill

aten = torch.ops.aten
X = torch.randn(2, 3)
Q = torch.randn(1, 2, 4, 8)


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "draws"),
    [
        (aten.bernoulli.p, (X, 0.5), {}, True),
        (aten.sin.default, (X,), {}, False),
        (bernoulli_fill, (X, 0.5), {}, True),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q), {}, False),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q, 0.1), {}, True),
        (aten._scaled_dot_product_flash_attention_for_cpu.default, (Q, Q, Q), {"dropout_p": 0.1}, True),
        (aten._scaled_dot_product_efficient_attention.default, (Q, Q, Q, None, True, 0.0), {}, False),
        (aten._scaled_dot_product_efficient_attention.default, (Q, Q, Q, None, True, 0.2), {}, True),
        (aten.native_dropout.default, (X, 0.5, True), {}, True),
        (aten.native_dropout.default, (X, 0.5, None), {}, True),
        (aten.native_dropout.default, (X, 0.5, False), {}, False),
        (aten.rrelu_with_noise.default, (X, X, 0.1, 0.3, True), {}, True),
        (aten.rrelu_with_noise.default, (X, X, 0.1, 0.3, False), {}, False),
        (aten.rrelu_with_noise.default, (X, X, 0.1, 0.3), {}, False),
        (aten.rrelu_with_noise.default, (X, X, 0.1, 0.3), {"training": True}, True),
    ],
)
def test_which_calls_draw(func, args, kwargs, draws):
    assert is_random(func, args, kwargs) is draws


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_rrelu_leaves_the_generator_alone(training):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    args = (-X.abs(), torch.empty_like(X), 0.1, 0.3, training)  # it draws for negative numbers alone
    aten.rrelu_with_noise.default(*args)
    assert torch.equal(torch.get_rng_state(), before) is not is_random(aten.rrelu_with_noise.default, args, {})


def test_batch_normalization_updates_its_statistics_in_training_only():
    mean, variance = torch.zeros(3), torch.ones(3)
    norm = aten.native_batch_norm.default
    assert hidden_updates(norm, (X, None, None, mean, variance, True, 0.1, 1e-5), {}) == (3, 4)
    assert hidden_updates(norm, (X, None, None, mean, variance, False, 0.1, 1e-5), {}) == ()
    assert hidden_updates(norm, (X, None, None, None, None, True, 0.1, 1e-5), {}) == ()
    statistics = batch_norm_statistics(norm, (X, None, None, mean, variance, True, 0.1, 1e-5), {})
    assert statistics[0] is mean
    assert statistics[1] is variance
    assert hidden_updates(len, (), {}) == ()


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (aten.topk.default, "routing: a recomputed choice of indices may differ"),
        (aten.max.dim, "routing: a recomputed choice of indices may differ"),
        (aten.max.default, None),
        (aten.copy_.default, "updates a tensor that outlives the step"),
        (aten.mm.default, None),
        (torch.ops._c10d_functional.all_reduce.default, "a collective: other ranks take part in it"),
        (len, None),
    ],
)
def test_which_operators_must_run_once(func, reason):
    # The words are in the fingerprint of every saved schedule: others would make them stale.
    assert pin_reason(func) == reason


def test_a_choice_of_indices_is_pure_and_a_collective_is_not():
    assert is_pure(aten.topk.default)
    assert not is_pure(aten.copy_.default)
    assert not is_pure(torch.ops._c10d_functional.all_reduce.default)
    assert is_pure(len)


def test_collectives():
    assert is_collective(torch.ops.c10d.allreduce_.default)
    assert communicates_in_place(torch.ops.c10d.allreduce_.default)
    assert is_collective(torch.ops._c10d_functional.all_reduce.default)
    assert not communicates_in_place(torch.ops._c10d_functional.all_reduce.default)
    assert not is_collective(aten.mm.default)


def test_what_schemas_and_tags_declare():
    y = torch.randn(2, 3)
    assert written_arguments(aten.add_.Tensor, (X, y), {})[0] is X
    assert written_arguments(aten.add.Tensor, (X, y), {}) == []
    assert written_arguments(aten.add.out, (X, X), {"out": y})[0] is y
    assert reads_a_number(aten._local_scalar_dense.default)
    assert not reads_a_number(aten.sum.default)
    assert sized_by_values(aten.nonzero.default)
    assert not sized_by_values(aten.sum.default)
