"""Which values share a kernel, and which of them take memory."""

from __future__ import annotations

from dataclasses import replace

from remat_planner.tracer.fusion.kernels import bits, kernels_of
from tests.tracer.fusion.steps import value


def mask(*of: int) -> int:
    return sum(1 << v for v in of)


def test_a_chain_of_elementwise_values_is_one_kernel_that_writes_its_last():
    values = [value("x", "given"), value("a", "pointwise", (0,)), value("b", "pointwise", (1,)), value("c", "pointwise", (2,))]
    (kernel,) = kernels_of(values, [1, 2, 3], mask(3), cpu=False)
    assert bits(kernel.reads) == (0,)
    assert bits(kernel.writes) == (3,)
    assert bits(kernel.computes) == (1, 2, 3)


def test_a_product_cuts_a_chain_and_what_it_reads_is_in_memory():
    values = [value("x", "given"), value("a", "pointwise", (0,)), value("mm", "kernel", (1,)), value("b", "pointwise", (2,))]
    kernels = kernels_of(values, [1, 2, 3], mask(3), cpu=False)
    assert [bits(kernel.writes) for kernel in kernels] == [(1,), (2,), (3,)]
    assert [kernel.alone for kernel in kernels] == [False, True, False]


def test_a_cheap_value_is_computed_in_each_of_its_readers():
    values = [
        *(value("x", "given"), value("a", "pointwise", (0,)), value("b", "pointwise", (1,)), value("mm", "kernel", (2,))),
        value("c", "pointwise", (1, 3)),
    ]
    kernels = kernels_of(values, [1, 2, 3, 4], mask(4), cpu=False)
    assert [bits(kernel.writes) for kernel in kernels] == [(2,), (3,), (4,)]
    assert [bits(kernel.computes) for kernel in kernels] == [(1, 2), (3,), (1, 4)]


def test_on_a_cpu_an_exponential_of_several_readers_is_kept():
    exponential = replace(value("a", "pointwise", (0,)), operator="aten.exp.default")
    values = [
        *(value("x", "given"), exponential, value("b", "pointwise", (1,))),
        *(value("mm", "kernel", (2,)), value("c", "pointwise", (1, 3))),
    ]
    assert 1 not in bits(kernels_of(values, [1, 2, 3, 4], mask(4), cpu=False)[0].writes)
    assert 1 in bits(kernels_of(values, [1, 2, 3, 4], mask(4), cpu=True)[0].writes)


def test_a_norm_is_one_kernel_and_its_mean_takes_no_memory():
    mean = replace(value("mean", "reduction", (0,), 10, rows=10), elements=100)
    values = [value("x", "given"), mean, value("sub", "pointwise", (0, 1))]
    (kernel,) = kernels_of(values, [1, 2], mask(2), cpu=False)
    assert bits(kernel.writes) == (2,)
    kernel, *_ = kernels_of(values, [1, 2], mask(1, 2), cpu=False)
    assert bits(kernel.writes) == (1, 2)


def test_reductions_over_other_rows_do_not_share_a_loop():
    values = [
        value("x", "given"),
        *(value(f"sum{rows}", "reduction", (0,), rows, rows=rows) for rows in (10, 20)),
    ]
    assert len(kernels_of(values, [1, 2], mask(1, 2), cpu=False)) == 2


def test_random_numbers_that_two_kernels_read_are_in_memory():
    for operator, first in (("prims.inductor_random.default", (1, 2)), ("aten.neg.default", (2,))):
        values = [
            *(value("seed", "given"), replace(value("random", "pointwise", (0,)), operator=operator)),
            *(value("masked", "pointwise", (1,)), value("mm", "kernel", (2,)), value("again", "pointwise", (1, 3))),
        ]
        kernels = kernels_of(values, [1, 2, 3, 4], mask(4), cpu=True)
        assert [bits(kernel.writes) for kernel in kernels] == [first, (3,), (4,)]
