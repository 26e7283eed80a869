"""Each private name around PyTorch's symbolic sizes by itself: a release that changes one fails here by name."""

from __future__ import annotations

import copy
import math

import torch

from remat_planner.tracer import torch_private as private
from remat_planner.tracer import torch_sizes as sizes
from remat_planner.tracer.graph_trace import trace


def symbolic(*shape: int) -> tuple[sizes.SymbolicSizes, torch.Tensor]:
    """Sizes of a tensor that are all symbols, and its fake."""
    tensor = torch.zeros(shape)
    symbols = sizes.SymbolicSizes([(tensor, range(len(shape)))])
    return symbols, private.to_fake(symbols.mode, tensor)


def holds(symbols: sizes.SymbolicSizes, *numbers: int) -> bool:
    """Whether all answers are the same for these sizes."""
    questions = symbols.conditions()
    return symbols.function(questions)(*numbers) == tuple(map(symbols.answer, questions))


def test_a_tensor_has_one_fake_whose_sizes_are_symbols():
    symbols, fake = symbolic(5, 7)
    assert all(map(private.is_symbolic, fake.shape))
    assert [private.number_of(size) for size in fake.shape] == [5, 7]
    assert private.number_of(fake.untyped_storage().nbytes()) == 140
    assert not private.is_symbolic(3)
    assert private.hashable(3) == 3
    assert symbols.function([private.hashable(fake.shape[0] * fake.shape[1])])(3, 4) == (12,)


def test_comparisons_are_conditions_and_sizes_are_two_or_more():
    symbols, fake = symbolic(5, 7)
    assert symbols.are_in_bounds((9, 9))
    assert not symbols.are_in_bounds((1, 7))
    assert fake.shape[0] < fake.shape[1]
    assert holds(symbols, 5, 6)
    assert not holds(symbols, 6, 5)
    assert fake.shape[1] != 64
    assert not holds(symbols, 5, 64)
    assert list(map(symbols.is_about_single_sizes, symbols.conditions())) == [False, True]


def test_what_is_the_same_for_all_sizes_is_no_condition():
    symbols, fake = symbolic(5, 7)
    batch, length = fake.shape
    assert fake.is_contiguous()
    assert (batch * 8 * length // (4 * length), length - length) == (batch * 2, 0)
    assert length * 3 != 1
    assert length < 1 << 62
    assert [q for q in symbols.conditions() if not symbols.is_about_single_sizes(q)] == []
    assert all(holds(symbols, *numbers) for numbers in ((2, 2), (5, 5), (90, 3)))


def test_sizes_that_are_one_symbol_are_equal():
    tensors = torch.zeros(5, 7), torch.zeros(7)
    symbols = sizes.SymbolicSizes([(tensors[0], (1,)), (tensors[1], (0,))], [0, 0])
    one, other = (private.to_fake(symbols.mode, tensor).shape[-1] for tensor in tensors)
    assert symbols.same == [(1, 0)]
    assert private.hashable(one) is private.hashable(other)
    assert symbols.function([private.hashable(one + 1)])(9, 9) == (10,)


def test_sizes_are_compared_with_one_condition_at_most():
    symbols, fake = symbolic(5, 7)
    batch, length = fake.shape
    assert private.same_sizes((batch, length * 2), (batch, 2 * length))
    assert not private.same_sizes((batch, 5, 3), (batch, length, 4))
    assert holds(symbols, 9, 5)
    assert not private.same_sizes((5, length), (batch, 8))
    assert holds(symbols, 9, 5)
    assert not holds(symbols, 9, 8)


def test_fakes_are_remembered_with_their_sizes():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_numbers(), symbols.mode:
        first, second = (torch.cat([fake, fake], 1) for _ in range(2))
    assert private.hashable(first.shape[1]) is private.hashable(second.shape[1])
    assert type(second.shape[1].node) is type(fake.shape[1].node)


def test_kernels_that_ask_for_numbers_fix_no_size():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_numbers(), symbols.mode:
        padded = torch.nn.functional.pad(fake, (0, 1), value=2.0)
    assert symbols.function([private.hashable(size) for size in padded.shape])(3, 4) == (3, 5)
    assert holds(symbols, 3, 4)


def test_numbers_are_computed_with_pythons_bits():
    symbols, fake = symbolic(5, 7)

    def numbers(batch, length):
        return (
            (length * 0.1) * 3 + batch / length,
            length**-0.5,
            1.0 / length + length % 3,
            (length + 1) // 2 * batch**2,
            math.sqrt(length) - math.log(batch),
            round(length * 0.3, 1),
            math.floor(length * 0.3),
            max(length, 3) + min(batch, 100),
        )

    with sizes.sizes_as_numbers():
        computed = [private.hashable(number) for number in numbers(*fake.shape)]
    before = copy.copy(symbols.conditions())
    for batch, length in ((5, 7), (6, 93), (31, 8)):
        expected = numbers(batch, length)
        assert symbols.function(computed)(batch, length) == expected
        assert list(map(type, symbols.function(computed)(batch, length))) == list(map(type, expected))
    assert symbols.conditions() == before


def test_a_trace_has_sizes_as_numbers():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_numbers():
        graph = trace(lambda x: x.view(x.shape[0] * x.shape[1]).tanh().view(x.shape[1], x.shape[0]), fake).graph
    views = [node for node in graph.nodes if node.op == "call_function"]
    assert [str(node.target) for node in views] == ["aten.view.default", "aten.tanh.default", "aten.view.default"]
    written = symbols.function([private.hashable(size) for node in (views[0], views[2]) for size in node.args[1]])
    assert written(3, 4) == (12, 4, 3)


def test_a_size_as_text_is_its_number_and_a_condition():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_numbers():
        assert (f"{fake.shape[0]}", str(fake.shape[0]), f"{fake.shape[0]:3d}") == ("5", "5", "  5")
    assert holds(symbols, 5, 9)
    assert not holds(symbols, 6, 9)


def test_what_is_replaced_is_put_back():
    size, cache = vars(torch.SymInt), sizes._fake_tensor_utils

    def names() -> list[object]:
        return [size.get("__str__"), size["__repr__"], cache.SymNode, math.sqrt]

    before = names()
    with sizes.sizes_as_numbers():
        assert not any(now is then for now, then in zip(names(), before, strict=True))
    assert names() == before
