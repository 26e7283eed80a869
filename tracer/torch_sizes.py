"""PyTorch's symbolic sizes, with the private names that they take.

A size of an input is a symbol. Operators on fakes compute with it, and each comparison becomes a condition, under which the
recorded operators are those of eager for other sizes too.

``tests/tracer/test_torch_sizes.py`` tries each private name by itself.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.utils._sympy import functions

from remat_planner.tracer.torch_private import hashable, is_symbolic

__all__ = ["InexactSizeError", "SymbolicSizes", "function_of_sizes", "sizes_as_arguments"]

Expression = Any
"""Of sympy: what a size is computed by; equal where the computations are."""


_LARGEST = 1 << 40


class InexactSizeError(Exception):
    """Python computes something of a size that cannot be computed again with the same bits; the text says what."""


class SymbolicSizes:
    """Some sizes of some input tensors as symbols; those that are equal are one symbol.

    Args:
        dims: each tensor with those of its dimensions that are symbols; they are 2 or longer.

    Attributes:
        mode: the mode of the fakes that have these sizes.
    """

    def __init__(self, dims: Sequence[tuple[torch.Tensor, Sequence[int]]]) -> None:
        self._environment = ShapeEnv(duck_shape=True)
        self.mode = FakeTensorMode(shape_env=self._environment, allow_non_fake_inputs=True)
        # The mode gives the same fake for the same tensor as long as the fake is alive.
        self._fakes = [self._fake(tensor, symbolic, f"tensor_{k}") for k, (tensor, symbolic) in enumerate(dims)]
        sizes = [fake.shape[dim] for fake, (_, symbolic) in zip(self._fakes, dims, strict=True) for dim in symbolic]
        self._symbols = list(map(hashable, sizes))
        for symbol in dict.fromkeys(self._symbols):  # a slice without an end is then known to reach the end
            self._environment.constrain_symbol_range(symbol, 2, _LARGEST)

    def _fake(self, tensor: torch.Tensor, symbolic: Sequence[int], name: str) -> torch.Tensor:
        from torch._dynamo.source import ConstantSource  # dynamo takes seconds to load

        dynamic = [DimDynamic.DUCK if dim in symbolic else DimDynamic.STATIC for dim in range(tensor.dim())]
        context: Any = StatelessSymbolicContext(dynamic_sizes=dynamic)
        return self.mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(name))

    @property
    def same(self) -> list[tuple[int, int]]:
        """The sizes that are the same symbol as an earlier one, with that one, by their places."""
        first = {symbol: k for k, symbol in reversed(list(enumerate(self._symbols)))}
        return [(k, first[symbol]) for k, symbol in enumerate(self._symbols) if first[symbol] != k]

    def conditions(self) -> list[Expression]:
        """What has to hold of the symbols, for everything computed so far to be right."""
        symbols = dict.fromkeys(symbol for symbol in self._symbols if symbol.is_Symbol)
        ranges = [(symbol, self._environment.var_to_range[symbol]) for symbol in symbols]
        bounds = [sympy.Ge(symbol, of_symbol.lower, evaluate=False) for symbol, of_symbol in ranges]
        bounds += [
            sympy.Le(symbol, of_symbol.upper, evaluate=False) for symbol, of_symbol in ranges if of_symbol.upper.is_Integer
        ]
        return [*bounds, *(guard.expr for guard in self._environment.guards)]

    @staticmethod
    def is_inequality(condition: Expression) -> bool:
        """Whether a condition rules out single sizes alone."""
        return isinstance(condition, sympy.Ne)

    def function(self, expressions: Sequence[Expression]) -> Callable[..., tuple[Any, ...]]:
        """``function_of_sizes`` of these symbols."""
        return function_of_sizes(self._symbols, expressions)


def function_of_sizes(symbols: Sequence[Expression], expressions: Sequence[Expression]) -> Callable[..., tuple[Any, ...]]:
    """A function that computes ``expressions`` from integers for ``symbols``, exactly as Python does.

    Raises:
        InexactSizeError: one cannot be computed so.
    """
    names = {symbol: f"s{k}" for k, symbol in reversed(list(enumerate(symbols)))}
    results = "".join(f"{_python(expression, names)}, " for expression in expressions)
    code = f"lambda {', '.join(f's{k}' for k in range(len(symbols)))}: ({results})"
    return eval(code, {"__builtins__": {"max": max, "min": min, "float": float}})


_INFIX: dict[Any, str] = {
    sympy.Add: " + ",
    sympy.Mul: " * ",
    sympy.And: " and ",
    sympy.Or: " or ",
    sympy.Eq: " == ",
    sympy.Ne: " != ",
    sympy.Lt: " < ",
    sympy.Le: " <= ",
    sympy.Gt: " > ",
    sympy.Ge: " >= ",
    functions.FloorDiv: " // ",
    functions.CleanDiv: " // ",
    functions.PythonMod: " % ",
    functions.Mod: " % ",
    functions.IntTrueDiv: " / ",
}
_CALLED: dict[Any, str] = {functions.Max: "max", functions.Min: "min", sympy.Max: "max", sympy.Min: "min"}
_COMPARES = (sympy.Eq, sympy.Ne, sympy.Lt, sympy.Le, sympy.Gt, sympy.Ge, sympy.And, sympy.Or, sympy.Not)


_ROUNDED_ONCE: dict[Any, str] = {functions.FloatTrueDiv: " / ", functions.FloatPow: " ** "}


def _python(expression: Any, names: dict[Any, str]) -> str:
    """The Python code of an expression. Floating point is rounded once at most: sympy reorders what comes after."""
    if expression in (sympy.true, sympy.false):
        return str(expression)
    if expression in names:
        return names[expression]
    if isinstance(expression, (int, sympy.Integer)):
        return f"({int(expression)})"
    kind = type(expression)
    arguments = expression.args
    if kind is sympy.Pow and arguments[1].is_Integer and arguments[1] > 0:
        return f"({_python(arguments[0], names)} ** {int(arguments[1])})"
    if kind in _ROUNDED_ONCE and all(isinstance(argument, (functions.ToFloat, sympy.Float)) for argument in arguments):
        return f"({_ROUNDED_ONCE[kind].join(_python(argument, names) for argument in arguments)})"
    if isinstance(expression, sympy.Float):
        return repr(float(expression))
    if any(_is_float(argument) for argument in arguments) and kind not in _COMPARES:
        raise InexactSizeError(f"{expression}, which is rounded more than once")
    if kind is sympy.Not:
        return f"(not {_python(arguments[0], names)})"
    if kind is functions.ToFloat:
        return f"float({_python(arguments[0], names)})"
    if kind in _INFIX:
        return f"({_INFIX[kind].join(_python(argument, names) for argument in arguments)})"
    if kind in _CALLED:
        return f"{_CALLED[kind]}({', '.join(_python(argument, names) for argument in arguments)})"
    raise InexactSizeError(f"{expression}, a {kind.__name__}")


def _is_float(expression: Any) -> bool:
    return isinstance(expression, (functions.ToFloat, functions.IntTrueDiv, sympy.Float)) or (
        getattr(expression, "is_integer", None) is False and not isinstance(expression, _COMPARES)
    )


@contextmanager
def sizes_as_arguments() -> Iterator[None]:
    """Let traces write symbolic sizes among the arguments of a node as they are, not as nodes that compute them.

    What asks for one as text gets the number, which is a condition that it is this one; the text could be a key.
    """
    tracer: Any = proxy_tensor.PythonKeyTracer
    private: Any = proxy_tensor
    size: Any = torch.SymInt
    before = private.fetch_sym_proxy, private._sym_register, tracer.create_arg
    texts = {name: size.__dict__.get(name) for name in ("__repr__", "__str__", "__format__")}
    create_arg = before[2]

    def as_text(symbolic: Any) -> str:
        asked_by = sys._getframe(1)
        while asked_by.f_code.co_filename == __file__ and asked_by.f_back is not None:
            asked_by = asked_by.f_back
        of_torch = asked_by.f_globals.get("__name__", "").partition(".")[0] in ("torch", "warnings", "remat_planner")
        return str(symbolic.node) if of_torch else str(int(symbolic))

    def format_text(symbolic: Any, form: str) -> str:
        return format(int(symbolic), form) if form else as_text(symbolic)

    private.fetch_sym_proxy = lambda _tracer: lambda symbolic: symbolic
    private._sym_register = lambda *_: None
    tracer.create_arg = lambda own, value: value if is_symbolic(value) else create_arg(own, value)
    size.__repr__ = size.__str__ = as_text
    size.__format__ = format_text
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Raw Sym")
            yield
    finally:
        private.fetch_sym_proxy, private._sym_register, tracer.create_arg = before
        for name, method in texts.items():
            if method is None:
                delattr(size, name)
            else:
                setattr(size, name, method)
