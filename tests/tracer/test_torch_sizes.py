"""Each private name around PyTorch's symbolic sizes by itself: a release that changes one fails here by name."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch.utils._sympy import functions

from remat_planner.tracer import torch_private as private
from remat_planner.tracer import torch_sizes as sizes


def symbolic(*shape: int) -> tuple[sizes.SymbolicSizes, torch.Tensor]:
    """Sizes of a tensor that are all symbols, and its fake."""
    tensor = torch.zeros(shape)
    symbols = sizes.SymbolicSizes([(tensor, range(len(shape)))])
    return symbols, private.to_fake(symbols.mode, tensor)


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
    holds = lambda *numbers: all(symbols.function(symbols.conditions())(*numbers))  # noqa: E731
    assert holds(9, 9)
    assert not holds(1, 7)
    assert fake.shape[0] < fake.shape[1]
    assert holds(5, 6)
    assert not holds(6, 5)
    assert fake.shape[1] != 64
    assert not holds(5, 64)
    assert [symbols.is_inequality(condition) for condition in symbols.conditions()[-1:]] == [True]


def test_sizes_are_compared_with_one_condition_at_most():
    symbols, fake = symbolic(5, 7)
    batch, length = fake.shape
    assert private.same_sizes((batch, length * 2), (batch, 2 * length))
    assert not private.same_sizes((batch, 5, 3), (batch, length, 4))
    assert all(symbols.function(symbols.conditions())(9, 5))
    assert not private.same_sizes((5, length), (batch, 8))
    assert all(symbols.function(symbols.conditions())(9, 5))
    assert not all(symbols.function(symbols.conditions())(9, 8))


def test_a_trace_has_sizes_as_arguments():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_arguments():
        graph = private.trace(lambda x: x.view(x.shape[0] * x.shape[1]).tanh().view(x.shape[1], x.shape[0]), fake).graph
    views = [node for node in graph.nodes if node.op == "call_function"]
    assert [str(node.target) for node in views] == ["aten.view.default", "aten.tanh.default", "aten.view.default"]
    written = symbols.function([private.hashable(size) for node in (views[0], views[2]) for size in node.args[1]])
    assert written(3, 4) == (12, 4, 3)


def test_a_size_as_text_is_its_number_and_a_condition():
    symbols, fake = symbolic(5, 7)
    with sizes.sizes_as_arguments():
        assert (f"{fake.shape[0]}", str(fake.shape[0]), f"{fake.shape[0]:3d}") == ("5", "5", "  5")
    assert all(symbols.function(symbols.conditions())(5, 9))
    assert not all(symbols.function(symbols.conditions())(6, 9))


def test_the_names_of_traces_are_put_back():
    proxies, size = private.make_fx.__globals__, vars(torch.SymInt)
    names = ("fetch_sym_proxy", "_sym_register")
    before = [*(proxies[name] for name in names), size.get("__str__"), size["__repr__"]]
    with sizes.sizes_as_arguments():
        assert proxies["fetch_sym_proxy"] is not before[0]
    assert [*(proxies[name] for name in names), size.get("__str__"), size["__repr__"]] == before


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        (lambda s, t: s * t * 3 - t**2, 4 * 9 * 3 - 81),
        (lambda s, t: functions.FloorDiv(t, s), 2),
        (lambda s, t: functions.Mod(t, s) + functions.PythonMod(t, s), 2),
        (lambda s, t: functions.Max(s, t) - functions.Min(s, t), 5),
        (lambda s, t: functions.IntTrueDiv(s, t), 4 / 9),
        (lambda s, t: functions.FloatTrueDiv(sympy.Float(0.1), functions.ToFloat(t)), 0.1 / 9),
        (lambda s, t: functions.FloatPow(functions.ToFloat(t), sympy.Float(-0.5)), 9.0**-0.5),
        (lambda s, t: sympy.Or(sympy.Gt(s, t), sympy.Not(sympy.Eq(s, 4))), False),
    ],
)
def test_numbers_are_computed_as_python_does(expression, value):
    s, t = sympy.symbols("s t", integer=True, positive=True)
    (computed,) = sizes.function_of_sizes([s, t], [expression(s, t)])(4, 9)
    assert (type(computed), computed) == (type(value), value)


@pytest.mark.parametrize("text", ["0.3 * f", "f + g", "FloatTrueDiv(FloatTrueDiv(f, g), g)", "sqrt(s)"])
def test_what_may_be_rounded_otherwise_is_refused(text):
    s, t = sympy.symbols("s t", integer=True, positive=True)
    names = {"f": functions.ToFloat(s), "g": functions.ToFloat(t), "s": s, "sqrt": sympy.sqrt}
    expression = eval(text, {**names, "FloatTrueDiv": functions.FloatTrueDiv})
    with pytest.raises(sizes.InexactSizeError):
        sizes.function_of_sizes([s, t], [expression])
