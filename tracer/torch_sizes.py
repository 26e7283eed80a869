"""PyTorch's symbolic sizes, with the private names that they take.

A size of an input is a symbol. Operators on fakes compute with it, and each comparison becomes a condition, under which the
recorded operators are those of eager for other sizes too. PyTorch's own symbols simplify every expression and prove what they
can, which takes most of a capture's time; these answer by the numbers of the call (``tracer.size_expressions``).

``tests/tracer/test_torch_sizes.py`` tries each private name by itself.
"""

from __future__ import annotations

import functools
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy
import torch
from torch._decomp import meta_table
from torch._subclasses import _fake_tensor_utils
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _pytree as pytree

from remat_planner.tracer.size_expressions import (
    BOUNDS,
    MATHEMATICS,
    Box,
    Expression,
    function_of,
    in_words,
    where_not,
)
from remat_planner.tracer.torch_private import is_symbolic
from remat_planner.tracer.torch_size_nodes import CachedNode, SizeEnvironment

__all__ = ["SymbolicSizes", "sizes_as_numbers"]


_symbolic_int: Any = torch.SymInt
_symbolic_float: Any = torch.SymFloat


class _SizedFakeMode(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Computes the forms of results in Python where PyTorch would run a kernel in C++ that asks for sizes as numbers."""

    def _dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in meta_table and _is_composite(func) and any(map(_is_sized, pytree.tree_leaves((args, kwargs)))):
            with self:
                return meta_table[func](*args, **kwargs)
        return super()._dispatch_impl(func, types, args, kwargs)


def _is_composite(func: Any) -> bool:
    """Whether one kernel in C++ serves all devices, fakes too (``constant_pad_nd``)."""
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeExplicitAutograd))


def _is_sized(value: Any) -> bool:
    return is_symbolic(value) or (isinstance(value, FakeTensor) and value._has_symbolic_sizes_strides)


class SymbolicSizes:
    """Some sizes of some input tensors as symbols.

    Args:
        dims: each tensor with those of its dimensions that are symbols; they are 2 or longer.
        symbols: for each of these sizes, one after the other, which symbol it is; by default each is one by itself. Those that
            are one symbol are equal.
        bounds: the least and the largest size of each symbol, in the order of their numbers; by default 2 and any.
        where: says which line of code is running, where a question is asked.
        numbers: numbers besides the sizes that are symbols too.

    Attributes:
        mode: the mode of the fakes that have these sizes.
        bounds: the least and the largest size for each symbol.
        numbers: these symbols.
        same: the sizes that are the same symbol as an earlier one, with that one, by their places.
    """

    def __init__(
        self,
        dims: Sequence[tuple[torch.Tensor, Sequence[int]]],
        symbols: Sequence[int] | None = None,
        bounds: Sequence[tuple[int, int]] | None = None,
        where: Callable[[], str] = lambda: "",
        numbers: Sequence[float] = (),
    ) -> None:
        self._environment = SizeEnvironment(where)
        places = [(tensor, dim) for tensor, symbolic in dims for dim in symbolic]
        of_place = list(range(len(places))) if symbols is None else list(symbols)
        first = {symbol: k for k, symbol in reversed(list(enumerate(of_place)))}
        self.same = [(k, first[symbol]) for k, symbol in enumerate(of_place) if first[symbol] != k]
        self._first, self._places = sorted(first.values()), len(places)
        arithmetic = self._environment.arithmetic
        self.bounds: Box = tuple(BOUNDS if bounds is None else bounds[of_place[k]] for k in self._first)
        made = {
            of_place[k]: arithmetic.symbol(places[k][0].shape[places[k][1]], sympy.Symbol(f"s{k}"), within)
            for k, within in zip(self._first, self.bounds, strict=True)
        }
        given = [arithmetic.number(number, sympy.Symbol(f"n{k}")) for k, number in enumerate(numbers)]
        self.numbers = [_symbolic_float(self._environment.node(number)) for number in given]
        # The mode gives the same fake for the same tensor as long as the fake is alive.
        self.mode = _SizedFakeMode(allow_non_fake_inputs=True)
        sizes = iter([_symbolic_int(self._environment.node(made[symbol])) for symbol in of_place])
        self._fakes = [self._fake(tensor, {dim: next(sizes) for dim in symbolic}) for tensor, symbolic in dims]

    def _fake(self, tensor: torch.Tensor, sizes: Mapping[int, Any]) -> torch.Tensor:
        shape = [sizes.get(dim, size) for dim, size in enumerate(tensor.shape)]
        fake: Any = FakeTensor(self.mode, torch.empty(shape, dtype=tensor.dtype, device="meta"), tensor.device)
        fake.requires_grad_(tensor.requires_grad)
        self.mode.fake_tensor_converter.set_tensor_memo(tensor, fake)
        return fake

    def conditions(self) -> list[Expression]:
        """What has been asked of the sizes so far. For sizes that are ``alike``, the answers are the same."""
        return list(self._environment.arithmetic.conditions)

    @staticmethod
    def answer(question: Expression) -> bool:
        """The answer of a condition."""
        return bool(question.value)

    @staticmethod
    def is_about_single_sizes(question: Expression) -> bool:
        """Whether a condition rules out single sizes alone."""
        return question.operator == "is zero" and not question.value

    def are_in_bounds(self, sizes: Sequence[float]) -> bool:
        """Whether all is answered for these sizes but for the conditions."""
        return all(low <= sizes[k] <= high for k, (low, high) in zip(self._first, self.bounds, strict=True))

    def where_not(self, question: Expression, answer: bool) -> list[Box]:
        """The sizes within the bounds for which a question has another answer.

        Raises:
            UndecidedError: they lie in too many places.
        """
        return where_not(self._environment.arithmetic, question, answer, self.bounds)

    def no_more(self, number: Expression) -> Expression:
        """Whether an integer is no larger for other sizes than for those of the capture."""
        arithmetic = self._environment.arithmetic
        return arithmetic.at_least(arithmetic.constant(number.value), number)

    def in_words(self, question: Expression, names: Sequence[str]) -> str:
        """A question as a line of Python, and the line that asks it; ``names`` are those of the symbols."""
        arithmetic = self._environment.arithmetic
        text, source = in_words(arithmetic, question, names), arithmetic.sources.get(question)
        return f"{text} ({source})" if source else text

    def function(self, expressions: Sequence[Any]) -> Callable[..., tuple[Any, ...]]:
        """A function that computes ``expressions`` from the sizes and numbers, exactly as Python does."""
        compute = function_of(self._environment.arithmetic, expressions)
        first = [*self._first, *range(self._places, self._places + len(self.numbers))]
        return lambda *sizes: compute(*(sizes[k] for k in first))


def _of_sizes(name: str, function: Callable[..., float]) -> Callable[..., Any]:
    """A function of the module ``math`` that takes symbolic sizes, too."""

    @functools.wraps(function)
    def computed(*arguments: Any) -> Any:
        if len(arguments) == 1 and is_symbolic(arguments[0]):
            return _symbolic_float(arguments[0].node._of(f"sym_{name}"))
        return function(*arguments)

    return computed


@contextmanager
def sizes_as_numbers() -> Iterator[None]:
    """Let Python code take symbolic sizes for numbers: functions of the module ``math`` compute with them.

    What asks for one as text gets the number, which is a condition that it is this one; the text could be a key.
    """
    size: Any = torch.SymInt
    cache: Any = _fake_tensor_utils
    cached_node = cache.SymNode
    texts = {name: size.__dict__.get(name) for name in ("__repr__", "__str__", "__format__")}

    def as_text(symbolic: Any) -> str:
        asked_by = sys._getframe(1)
        while asked_by.f_code.co_filename == __file__ and asked_by.f_back is not None:
            asked_by = asked_by.f_back
        of_torch = asked_by.f_globals.get("__name__", "").partition(".")[0] in ("torch", "warnings", "remat_planner")
        return repr(symbolic.node.expr) if of_torch else str(int(symbolic))

    def format_text(symbolic: Any, form: str) -> str:
        return format(int(symbolic), form) if form else as_text(symbolic)

    cache.SymNode = CachedNode
    functions = {name: getattr(math, name) for name in MATHEMATICS}
    for name, function in functions.items():
        setattr(math, name, _of_sizes(name, function))
    size.__repr__ = size.__str__ = as_text
    size.__format__ = format_text
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Raw Sym")
            yield
    finally:
        cache.SymNode = cached_node
        for name, function in functions.items():
            setattr(math, name, function)
        for name, method in texts.items():
            if method is None:
                delattr(size, name)
            else:
                setattr(size, name, method)
