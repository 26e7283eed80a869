"""The nodes behind PyTorch's symbolic sizes, with the private names that they take; ``torch_sizes`` makes sizes of them.

``tests/tracer/test_torch_sizes.py`` tries each private name by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.fx.experimental.sym_node import SymNode

from remat_planner.tracer.size_expressions import OPERATORS, Expression, SizeArithmetic


class SizeEnvironment:
    """What PyTorch asks the nodes' ``ShapeEnv`` for: it answers by the numbers, and each answer is a condition."""

    allow_scalar_outputs = allow_dynamic_output_shape_ops = prefer_deferred_runtime_asserts_over_guards = False
    _translation_validation_enabled = False
    settings = None

    def __init__(self, where: Callable[[], str]) -> None:
        self.arithmetic = SizeArithmetic(where)
        self.fake_tensor_cache: dict[Any, Any] = {}
        self._nodes: dict[Expression, SizeNode] = {}

    def node(self, expression: Expression) -> SizeNode:
        """The one node of an expression."""
        node = self._nodes.get(expression)
        if node is None:
            node = self._nodes[expression] = SizeNode(expression, self)
        return node

    def evaluate_sym_node(self, node: SizeNode, **_: Any) -> Any:
        return self.arithmetic.decide(node.expr)

    def _maybe_evaluate_static(self, expression: Expression, **_: Any) -> Any:
        return self.arithmetic.decide(expression)

    def suppress_guards(self) -> AbstractContextManager[None]:
        return nullcontext()

    def is_unbacked_symint(self, _: Any) -> bool:
        return False


_Node: Any = SymNode


class SizeNode(_Node):  # type: ignore[misc]
    """A node of PyTorch that has an ``Expression``."""

    def __init__(self, expression: Expression, environment: Any) -> None:
        self._expr = expression
        self.shape_env = environment
        self.pytype = type(expression.value)
        self.constant = expression.value if expression.is_number else None
        self.fx_node = None

    @property
    def expr(self) -> Any:
        return self._expr

    @property
    def hint(self) -> Any:
        return self._expr.value

    @property
    def _hint(self) -> Any:
        """None for a question: PyTorch would take its value for an answer, without a condition."""
        value = self._expr.value
        return None if isinstance(value, bool) else value

    def has_hint(self) -> bool:
        return True

    def _value_eq(self, other: Any) -> bool:
        return bool(self._expr is other._expr)

    def _value_hash(self) -> int:
        return hash(self._expr)

    def maybe_as_int(self) -> Any:
        return self.constant

    def maybe_as_float(self) -> Any:
        return self.constant

    def maybe_as_bool(self) -> Any:
        return self.constant

    def is_nested_int(self) -> bool:
        return False

    def wrap_int(self, num: int) -> SizeNode:
        return self._constant(num)

    def wrap_float(self, num: float) -> SizeNode:
        return self._constant(num)

    def wrap_bool(self, num: bool) -> SizeNode:
        return self._constant(num)

    def evaluate(self, size_oblivious: bool = False) -> Any:  # noqa: ARG002  as PyTorch calls it
        return self.shape_env.arithmetic.decide(self._expr)

    def expect_true(self, file: str, line: int) -> bool:  # noqa: ARG002  as PyTorch calls it
        return bool(self.evaluate())

    def statically_known_true(self, file: str, line: int) -> bool:  # noqa: ARG002  as PyTorch calls it
        return bool(self.evaluate())

    def sym_sum(self, args: Sequence[SymNode]) -> SymNode:
        total = args[0]
        for node in args[1:]:
            total = total.add(node)
        return total

    def sym_ite(self, then_val: SymNode, else_val: SymNode) -> SymNode:
        return then_val if self.evaluate() else else_val

    def round(self, ndigits: int | None = None) -> SymNode:
        return self._of("round", *(() if ndigits is None else (self.wrap_int(ndigits),)))

    def is_contiguous(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        return self._laid_out(sizes, strides, range(len(sizes) - 1, -1, -1))

    def is_channels_last_contiguous_2d(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        return self._laid_out(sizes, strides, (1, 3, 2, 0))

    def is_channels_last_contiguous_3d(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        return self._laid_out(sizes, strides, (1, 4, 3, 2, 0))

    def is_channels_last_strides_2d(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        return self._strides_fall(sizes, strides, (1, 3, 2, 0))

    def is_channels_last_strides_3d(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        return self._strides_fall(sizes, strides, (1, 4, 3, 2, 0))

    def is_non_overlapping_and_dense(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        order = sorted(range(len(sizes)), key=lambda dim: (strides[dim].hint, sizes[dim].hint))
        return self._laid_out(sizes, strides, order)

    def is_non_overlapping_and_dense_indicator(self, sizes: list[Any], strides: list[Any]) -> SymNode:
        is_dense: Any = self.is_non_overlapping_and_dense(sizes, strides)
        return self._constant(int(is_dense.hint))

    def _laid_out(self, sizes: list[Any], strides: list[Any], order: Sequence[int]) -> SymNode:
        """Whether the dimensions follow one another without gaps, the first of ``order`` innermost."""
        if len(order) != len(sizes):
            return self._constant(False)
        one, zero = self._constant(1), self._constant(0)
        if any(size.eq(zero).guard_bool("", 0) for size in sizes):
            return self._constant(True)
        step: SymNode = one
        for dim in order:
            if not sizes[dim].eq(one).guard_bool("", 0):
                if not strides[dim].eq(step).guard_bool("", 0):
                    return self._constant(False)
                step = step.mul(sizes[dim])
        return self._constant(True)

    def _strides_fall(self, sizes: list[Any], strides: list[Any], order: Sequence[int]) -> SymNode:
        """``is_channels_last_strides_2d_s4`` of c10/core/MemoryFormat.h, and for 3d."""
        if len(order) != len(sizes):
            return self._constant(False)
        least: SymNode = self._constant(0)
        zero, one = self._constant(0), self._constant(1)
        if strides[1].eq(zero).guard_bool("", 0):
            return self._constant(False)
        for dim in order:
            if sizes[dim].eq(zero).guard_bool("", 0) or strides[dim].lt(least).guard_bool("", 0):
                return self._constant(False)
            if dim == 0 and least.eq(strides[1]).guard_bool("", 0):
                return self._constant(False)
            least = strides[dim]
            if sizes[dim].gt(one).guard_bool("", 0):
                least = least.mul(sizes[dim])
        return self._constant(True)

    def _constant(self, value: Any) -> SizeNode:
        node: SizeNode = self.shape_env.node(self.shape_env.arithmetic.constant(value))
        return node

    def _of(self, name: str, *others: Any) -> SizeNode:
        environment = self.shape_env
        operands = (other._expr if isinstance(other, SizeNode) else self._foreign(other) for other in others)
        node: SizeNode = environment.node(environment.arithmetic.apply(name, self._expr, *operands))
        return node

    def _foreign(self, other: Any) -> Expression:
        """The expression of a constant that PyTorch holds in a node in C++."""
        value = other.guard_bool("", 0) if other.is_bool() else other.guard_int("", 0)
        constant: Expression = self.shape_env.arithmetic.constant(value)
        return constant


def _operator(name: str) -> Callable[..., SymNode]:
    def compute(self: SizeNode, *others: Any) -> SymNode:
        return self._of(name, *others)

    return compute


for _name in OPERATORS - {"round"}:
    setattr(SizeNode, _name if hasattr(SymNode, _name) else f"_{_name}", _operator(_name))
    setattr(SizeNode, f"_{_name}", _operator(_name))


class CachedNode(_Node):  # type: ignore[misc]
    """What PyTorch's cache of fakes calls to make the node of a size that it remembers."""

    def __new__(cls, expression: Expression, environment: SizeEnvironment, *_: Any) -> Any:
        return environment.node(expression)
