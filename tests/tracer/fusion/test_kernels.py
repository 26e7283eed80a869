"""Which values share a kernel, and which of them take memory."""

from __future__ import annotations

from dataclasses import replace

from remat_planner.tracer.fusion import Value
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


def test_on_a_cpu_the_mean_of_a_norm_takes_memory():
    mean = replace(value("mean", "reduction", (0,), 10, rows=10), elements=100)
    values = [value("x", "given"), mean, value("sub", "pointwise", (0, 1))]
    (kernel,) = kernels_of(values, [1, 2], mask(2), cpu=True)
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


def test_on_a_cpu_a_cat_is_in_memory_and_what_it_alone_reads_is_computed_there():
    cat = replace(value("cat", "pointwise", (1, 0), 200), operator="aten.cat.default")
    values = [value("x", "given"), value("a", "pointwise", (0,)), cat, value("b", "pointwise", (2,), 200)]
    piece, copied, reader = kernels_of(values, [1, 2, 3], mask(3), cpu=True)
    assert (bits(piece.computes), bits(piece.writes), piece.read_by_one(2)) == ((1,), (2,), 0)
    assert (bits(copied.reads), bits(copied.writes), copied.elements, copied.alone) == ((0,), (2,), 100, True)
    assert bits(reader.reads) == (2,)
    (kernel,) = kernels_of(values, [1, 2, 3], mask(3), cpu=False)
    assert bits(kernel.writes) == (3,)


def test_what_something_else_reads_too_is_copied_into_a_cat():
    cat = replace(value("cat", "pointwise", (1, 2), 200), operator="aten.cat.default")
    values = [value("x", "given"), value("a", "pointwise", (0,)), value("b", "pointwise", (1,)), cat]
    first, copied = kernels_of(values, [1, 2, 3], mask(3), cpu=True)
    assert (first.members, bits(first.writes)) == ([2], (3,))
    assert (bits(copied.reads), bits(copied.computes), copied.elements) == ((0,), (1, 3), 100)


def test_what_a_product_that_is_a_loop_reads_is_in_memory_where_others_read_it_too():
    product = replace(value("bmm", "reduction", (2, 0), rows=10), operator="aten.bmm.default")
    values = [value("x", "given"), value("y", "given"), value("a", "pointwise", (0, 1)), product]
    values.append(value("b", "pointwise", (2,)))
    assert 2 in kernels_of(values, [2, 3, 4], mask(3, 4), cpu=True)[0].members
    assert 2 not in kernels_of(values, [2, 3], mask(3), cpu=True)[0].members


def test_an_exponential_that_a_larger_loop_reads_over_and_over_is_in_memory_on_a_cpu():
    exponential = replace(value("a", "pointwise", (0,), 10), operator="aten.exp.default")
    values = [value("x", "given", (), 10), exponential, value("y", "given"), value("b", "pointwise", (1, 2))]
    assert [bits(kernel.writes) for kernel in kernels_of(values, [1, 3], mask(3), cpu=True)] == [(1,), (3,)]
    assert [bits(kernel.writes) for kernel in kernels_of(values, [1, 3], mask(3), cpu=False)] == [(3,)]
    padded = [*values[:3], replace(value("pad", "pointwise", (1,)), operator="aten.constant_pad_nd.default")]
    assert len(kernels_of(padded, [1, 3], mask(3), cpu=True)) == 1


def test_parts_of_one_value_count_as_readings_of_their_own():
    whole = [value("x", "given"), value("a", "pointwise", (0,)), *(value(f"b{k}", "pointwise", (1,)) for k in range(2))]
    assert 1 not in kernels_of(whole, [1, 2, 3], mask(2, 3), cpu=True)[0].members
    parts = [whole[0], replace(whole[1], parts=((1, 2, 3, 4, 5),)), *whole[2:]]
    assert 1 in kernels_of(parts, [1, 2, 3], mask(2, 3), cpu=True)[0].members


def test_what_is_computed_for_each_of_several_parts_is_loaded_for_each():
    values = [value("x", "given"), value("y", "given"), value("a", "pointwise", (0, 1))]
    for k in range(3):  # they load four, eight and sixteen tensors
        values.append(replace(value(f"b{k}", "pointwise", (len(values) - 1,)), parts=((k * 2 + 1, k * 2 + 2),)))
    values.append(value("c", "pointwise", (len(values) - 1,)))
    (kernel,) = kernels_of(values, [2, 3, 4, 5, 6], mask(6), cpu=True)
    assert kernel.members == [4, 6]
    (kernel,) = kernels_of([replace(v, parts=()) for v in values], [2, 3, 4, 5, 6], mask(6), cpu=True)
    assert kernel.members == [6]


def test_a_loop_of_many_operations_is_in_memory_though_only_one_reads_it():
    values = [value("x", "given"), *(replace(value(f"a{k}", "pointwise", (k,)), operations=10) for k in range(6))]
    (kernel,) = kernels_of(values, list(range(1, 7)), mask(6), cpu=True)
    assert kernel.members == [5, 6]  # 51 operations with the load
    (kernel,) = kernels_of(values, list(range(1, 7)), mask(6), cpu=False)
    assert kernel.members == [3, 6]


def test_only_what_is_read_as_a_whole_can_be_written_over():
    values = [value("x", "given"), value("a", "pointwise", (0,)), value("b", "pointwise", (1,))]
    (kernel,) = kernels_of(values, [2], mask(2), cpu=True)
    assert bits(kernel.read_by_one(2)) == (1,)
    (kernel,) = kernels_of([*values[:2], replace(values[2], parts=((1,),))], [2], mask(2), cpu=True)
    assert not kernel.read_by_one(2)
    (kernel,) = kernels_of([*values[:2], replace(values[2], reorders=True)], [1, 2], mask(2), cpu=True)
    assert not kernel.read_by_one(2)


def gated() -> list[Value]:
    """Two gradients of a gate: what each multiplies is read by the other, too, and a product with the first comes between."""
    return [
        *(value(name, "given") for name in ("x", "y")),
        value("mul", "pointwise", (0, 1)),
        value("mm", "kernel", (2,)),
        value("mm_1", "kernel", (0,)),
        value("mul_1", "pointwise", (1, 4)),
    ]


def test_a_loop_waits_for_a_later_one_that_reads_the_same():
    values = gated()
    kernels = kernels_of(values, [2, 3, 4, 5], mask(3, 5), cpu=True)
    assert [kernel.members for kernel in kernels] == [[4], [2, 5], [3]]


def test_it_does_not_where_the_later_one_waits_for_it():
    values = gated()
    values[4] = value("mm_1", "kernel", (3,))
    kernels = kernels_of(values, [2, 3, 4, 5], mask(3, 5), cpu=True)
    assert [kernel.members for kernel in kernels] == [[2], [3], [4], [5]]


def test_a_loop_with_a_reduction_waits_for_none():
    values = gated()
    values[2] = value("sum", "reduction", (0, 1), rows=10)
    kernels = kernels_of(values, [2, 3, 4, 5], mask(3, 5), cpu=True)
    assert [kernel.members for kernel in kernels] == [[2], [3], [4], [5]]


def test_two_loops_become_one_with_a_value_that_reads_what_both_read():
    apart = [*(value(name, "given") for name in ("x", "y")), *(value(f"a{k}", "pointwise", (k,)) for k in range(2))]
    kernels = kernels_of(apart, [2, 3], mask(2, 3), cpu=True)
    assert [kernel.members for kernel in kernels] == [[2], [3]]
    (kernel,) = kernels_of([*apart, value("b", "pointwise", (0, 1))], [2, 3, 4], mask(2, 3, 4), cpu=True)
    assert kernel.members == [2, 3, 4]
    assert (bits(kernel.reads), bits(kernel.computes)) == ((0, 1), (2, 3, 4))
    between = [*apart[:3], value("mm", "kernel", (2,)), value("a1", "pointwise", (1, 3)), value("b", "pointwise", (0, 1))]
    kernels = kernels_of(between, [2, 3, 4, 5], mask(4, 5), cpu=True)
    assert [kernel.members for kernel in kernels] == [[2], [3], [4, 5]]


def test_on_a_cpu_a_reduction_down_has_a_loop_of_its_own():
    """A bias' gradient: the sum of the rows of what a loop writes."""
    down = replace(value("sum", "reduction", (1,), 10, rows=10), elements=100, down=True)
    other = replace(value("sum", "reduction", (3,), 10, rows=10), elements=100, down=True)
    values = [
        *(value("x", "given"), value("a", "pointwise", (0,)), value("mm", "kernel", (1,)), value("b", "pointwise", (1, 2))),
        *(down, other, replace(down, reads=(3,))),
    ]
    sequence, returned = [1, 2, 3, 4, 5, 6], mask(3, 4, 5, 6)
    assert [kernel.members for kernel in kernels_of(values, sequence, returned, cpu=True)] == [[1], [2], [3], [4], [5, 6]]
    assert [kernel.members for kernel in kernels_of(values, sequence, returned, cpu=False)] == [[1], [2], [3, 4, 5, 6]]
