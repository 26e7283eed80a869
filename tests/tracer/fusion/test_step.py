"""Seconds and bytes of partitions, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from remat_planner.tracer.fusion import AtPeak, FusedStep, Values
from tests.tracer.fusion.steps import RATES, chain, value


def named(step, *names: str) -> list[int]:
    return [step.values.index_of[name] for name in names]


def test_what_is_chosen_from():
    step = chain(3)
    names = [step.values.values[v].name for v in step.choice]
    # The loop that sums tanh2 computes it on the way, so it is in no memory; the loss is the forward's result.
    assert names == ["mm0", "tanh0", "mm1", "tanh1", "mm2"]


def test_saving_the_products_recomputes_the_nonlinearities_in_their_readers():
    step = chain(3)
    judged = step.evaluate(named(step, "mm0", "mm1", "mm2"))
    assert {step.values.values[v].name for v in judged.recomputed} == {"tanh0", "tanh1"}
    assert judged.saved_bytes == 301  # three products and the loss
    saved_all = step.evaluate(step.choice)
    assert not saved_all.recomputed
    assert saved_all.saved_bytes == 501
    assert judged.peak < saved_all.peak


def test_recomputing_a_product_takes_its_seconds():
    step = chain(3)
    everything = step.evaluate(step.choice)
    without = step.evaluate(named(step, "tanh0", "tanh1", "mm2", "mm0"))  # mm1 is computed again, from tanh0
    assert {step.values.values[v].name for v in without.recomputed} == {"mm1"}
    assert without.seconds == pytest.approx(everything.seconds + 1.0, abs=1e-5)
    assert without.saved_bytes == everything.saved_bytes - 100


def test_the_bytes_of_each_moment():
    step = chain(1)
    judged = step.evaluate(named(step, "mm0"))
    # Forward: nothing, the product, then its loop sums tanh without memory for it. Between: product and loss. Backward: with
    # the incoming gradient; then tanh's gradient takes the product's place; last the weight's gradient beside it.
    assert judged.bytes == (0, 100, 101, 101, 102, 102, 201)


def test_other_graphs_between_forward_and_backward_count():
    step = chain(2)
    between = step.__class__(step.values, step.rates, cpu=False, between=10_000)
    assert between.evaluate(step.choice).peak == step.evaluate(step.choice).saved_bytes + 10_000


def test_what_cannot_be_repeated_is_saved_always():
    step = chain(2)
    values = list(step.values.values)
    drawn = step.values.index_of["mm0"]
    values[drawn] = value("mm0", "kernel", values[drawn].reads, repeatable=False)
    step = step.__class__(
        step.values.__class__(
            tuple(values), *(getattr(step.values, f) for f in ("index_of", "forward", "forward_results", "backward_results"))
        ),
        step.rates,
        cpu=False,
    )
    assert drawn not in step.choice
    assert drawn in step.evaluate([]).saved


def with_changed(step, name: str, **facts: int):
    """``step`` with other facts of the value ``name``."""
    k = step.values.index_of[name]
    values = list(step.values.values)
    values[k] = replace(values[k], **facts)
    return replace(step, values=replace(step.values, values=tuple(values)))


def test_a_workspace_is_there_while_its_kernel_runs():
    step = with_changed(chain(1), "weight_gradient0", workspace=1000)
    assert step.evaluate(named(step, "mm0")).bytes == (0, 100, 101, 101, 102, 102, 1201)


def test_elements_of_one_byte_cost_where_a_loop_reads_or_writes_them():
    slow = replace(RATES, narrow_read=1.0, narrow_written=100.0)
    step = with_changed(replace(chain(1), rates=slow), "mm0", narrow=100)
    fast = replace(step, rates=RATES)
    saved = named(step, "mm0")
    # The product is a kernel's own. Two loops read it: that of the sum, which has one iteration here, and that of the backward.
    assert step.evaluate(saved).seconds - fast.evaluate(saved).seconds == pytest.approx(101.0)
    step = with_changed(replace(chain(1), rates=slow), "tanh_backward0", narrow=100)
    # One loop writes the gradient, and a kernel reads it, which costs what the kernel was measured at.
    assert step.evaluate(saved).seconds - fast.evaluate(saved).seconds == pytest.approx(10_000.0)


def test_no_result_takes_the_place_of_an_incoming_gradient():
    step = with_changed(chain(1), "tangents", bytes=100)
    # Before the backward: product, loss and the gradient of the caller. Then tanh's gradient takes the product's place.
    assert step.evaluate(named(step, "mm0")).bytes[4:6] == (201, 201)
    step = with_changed(step, "mm0", bytes=99)
    assert step.evaluate(named(step, "mm0")).bytes[4:6] == (200, 300)


def test_on_a_cpu_loops_between_two_products_are_one_function_that_frees_nothing_before_its_end():
    """``x`` through three loops of other sizes, none of which can take the place of what it reads, to a product."""
    loops = [
        value("x", "given", (), 10),
        *(value(f"a{k}", "reduction", (k,), 10 * (k + 2), rows=k + 1) for k in range(3)),
        value("mm", "kernel", (3,), 5),
        value("tangents", "given", (), 1),
        value("gradient", "kernel", (4, 5), 5),
    ]
    forward = tuple(k < 5 for k in range(7))
    names = {v.name: k for k, v in enumerate(loops)}
    values = Values(tuple(loops), names, forward, frozenset({4}), frozenset({6}))
    apart = FusedStep(values, RATES, cpu=False).evaluate(()).bytes
    together = FusedStep(values, RATES, cpu=True).evaluate(()).bytes
    assert apart[:5] == (0, 20, 50, 70, 45)
    assert together[:5] == (0, 20, 50, 90, 45)


def test_a_constant_is_never_saved():
    step = chain(2)
    values = list(step.values.values)
    mm = step.values.index_of["mm0"]
    for reads in ((), (0,)):
        values[mm] = value("full", "pointwise", reads)
        changed = step.__class__(replace(step.values, values=tuple(values)), RATES, cpu=False)
        assert (mm in changed.candidates) == bool(reads)


def test_what_the_peak_consists_of():
    step = chain(1)
    # The weight's gradient, beside the loss and tanh's gradient in the place of the product; one byte came in.
    assert step.at_peak(step.evaluate(named(step, "mm0"))) == AtPeak("weight_gradient0", gradients=100, saved=1, others=100)
    between = step.__class__(step.values, step.rates, cpu=False, between=1000)
    assert between.at_peak(between.evaluate(())) == AtPeak("", gradients=0, saved=1, others=1000)
    values = list(step.values.values)
    values[1] = replace(values[1], workspace=1000)
    forward = step.__class__(replace(step.values, values=tuple(values)), RATES, cpu=False)
    assert forward.at_peak(forward.evaluate(named(step, "mm0"))) == AtPeak("mm0", gradients=0, saved=100, others=1000)
