"""One call of an operator, taken out of its graph: only what decides its cost.

Two nodes with equal ``key`` cost the same: their operator, shapes, strides, dtypes, aliasing between arguments and plain
arguments are equal. Repeated layers of a model share their keys, so each distinct call is measured once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import fx

from remat_planner.tracer.leaves import leaves_of, with_leaves
from remat_planner.tracer.operators.computed_numbers import with_some_number
from remat_planner.tracer.operators.declared import sized_by_values
from remat_planner.tracer.operators.graph_functions import graph_function_name

# These arguments say where a tensor is allocated, not what is computed. The key omits them, so that a profile measured on one
# device serves another.
_PLACEMENT = ("device", "pin_memory", "layout")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor argument: a strided view onto argument storage number ``storage``, ``offset`` elements after its start.

    ``conjugated`` and ``negated``: its values are those in memory, conjugated or negated when they are read. Many kernels copy
    such a tensor first.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    storage: int
    offset: int
    conjugated: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True)
class StorageSpec:
    """A storage that arguments view."""

    bytes: int
    device: torch.device


@dataclass(frozen=True, eq=False)
class OpCall:
    """A call of an operator, or of a graph function, on tensors without values.

    Attributes:
        target: the operator overload (``torch.ops.aten.mm.default``) or the Python function.
        args, kwargs: its arguments, with a ``TensorSpec`` in the place of each tensor.
        storages: the storages that the tensor arguments view, by ``TensorSpec.storage``.
        outputs: the fake results, flattened; None where a result is no tensor.
        allocates: bytes of each storage that the call allocates for its results, according to the fake tensors.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    storages: tuple[StorageSpec, ...]
    outputs: tuple[torch.Tensor | None, ...]
    allocates: tuple[int, ...]

    @property
    def tensors(self) -> list[TensorSpec]:
        """The tensor arguments in order."""
        return [leaf for leaf in leaves_of((self.args, self.kwargs)) if isinstance(leaf, TensorSpec)]

    @cached_property
    def is_view(self) -> bool:
        """Whether the call computes nothing: every output views the storage of an argument, and nothing is written."""
        if self.target is operator.getitem:
            return True
        if isinstance(self.target, torch._ops.OpOverload):
            if self.writes:
                return False
            returned = self.target._schema.returns
            if returned and all(result.alias_info is not None for result in returned):
                return True
        return not self.allocates and any(output is not None for output in self.outputs)

    @property
    def writes(self) -> bool:
        """Whether the call writes into an argument, by its schema."""
        return isinstance(self.target, torch._ops.OpOverload) and self.target._schema.is_mutable

    @property
    def device(self) -> torch.device:
        """Where the call runs: the first accelerator among its tensors, else the CPU."""
        devices = [storage.device for storage in self.storages]
        devices += [output.device for output in self.outputs if output is not None]
        return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))

    @cached_property
    def key(self) -> str:
        """The call in one line, the same in every process and on every device."""
        parts = [self._render(argument) for argument in self.args]
        parts += [f"{name}={self._render(value)}" for name, value in sorted(self.kwargs.items()) if name not in _PLACEMENT]
        return f"{target_name(self.target)}({', '.join(parts)}){self._sizes_by_values()}"

    def argument(self, name: str) -> Any:
        """The argument called ``name`` in the operator's schema, or its default.

        Raises:
            KeyError: the target is no operator, or its schema has no such argument.
        """
        if name in self.kwargs:
            return self.kwargs[name]
        if not isinstance(self.target, torch._ops.OpOverload):
            raise KeyError(f"{target_name(self.target)} is a Python function: it has no schema, and so no argument {name!r}")
        schema = self.target._schema
        for position, declared in enumerate(schema.arguments):
            if declared.name == name:
                return self.args[position] if position < len(self.args) else declared.default_value
        raise KeyError(f"{target_name(self.target)} has no argument {name!r}; its schema is {schema}")

    def _sizes_by_values(self) -> str:
        """The shapes of results that depend on values, which the forms of the arguments do not tell."""
        if not sized_by_values(self.target):
            return ""
        masks = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in self.tensors)
        if self.target is torch.ops.aten.index.Tensor and not masks:
            return ""
        return f" -> {[list(output.shape) for output in self.outputs if output is not None]}".replace(" ", "")

    def _render(self, argument: Any) -> str:
        if isinstance(argument, (list, tuple)):
            return f"[{', '.join(map(self._render, argument))}]"
        if not isinstance(argument, TensorSpec):
            return repr(argument)
        dtype = str(argument.dtype).removeprefix("torch.")
        form = f"{dtype}{list(argument.shape)}{list(argument.stride)}".replace(" ", "")
        form += ".conj" * argument.conjugated + ".neg" * argument.negated
        # The offset counts where the tensor is only a part of its storage, the storage's number where several tensors share it.
        size = self.storages[argument.storage].bytes
        if argument.offset or size != math.prod(argument.shape) * argument.dtype.itemsize:
            form += f"@{argument.offset}/{size}"
        shared = sum(tensor.storage == argument.storage for tensor in self.tensors) > 1
        return f"{form}#{argument.storage}" if shared else form


def target_name(target: Callable[..., Any]) -> str:
    """ "aten.mm.default" for an operator, the name of a graph function for a Python function."""
    return str(target) if isinstance(target, torch._ops.OpOverload) else graph_function_name(target)


def op_call(node: fx.Node, corrected: Mapping[fx.Node, Any] | None = None) -> OpCall:
    """The call that a ``call_function`` node makes, from the fake tensors in ``meta["val"]``.

    Args:
        node: the node.
        corrected: for some of the nodes that it reads, the values to use in place of their ``meta["val"]``.

    Raises:
        ValueError: the node is not a call, or an argument has no ``meta["val"]``.
    """
    if node.op != "call_function" or not callable(node.target):
        raise ValueError(f"{node.format_node()}: only a call of an operator has a cost")
    corrected = corrected or {}
    passed = with_some_number(node, node.args)
    reads: dict[fx.Node, None] = {}
    fx.node.map_arg((passed, node.kwargs), lambda argument: reads.setdefault(argument))
    values = {argument: corrected[argument] if argument in corrected else _value(argument) for argument in reads}
    storages = _storages(list(values.values()))
    specs = {argument: _specs(value, storages) for argument, value in values.items()}
    args = fx.node.map_arg(passed, lambda argument: specs[argument])
    kwargs = fx.node.map_arg(node.kwargs, lambda argument: specs[argument])
    outputs = tuple(leaf if isinstance(leaf, torch.Tensor) else None for leaf in leaves_of(node.meta.get("val")))
    fresh = {
        storage._cdata: storage.nbytes()
        for output in outputs
        if output is not None and (storage := output.untyped_storage())._cdata not in storages
    }
    return OpCall(
        target=node.target,
        args=args,
        kwargs=dict(kwargs),
        storages=tuple(spec for _, spec in storages.values()),
        outputs=outputs,
        allocates=tuple(fresh.values()),
    )


def _storages(values: list[Any]) -> dict[int, tuple[int, StorageSpec]]:
    """Number and size of each storage that the tensors in ``values`` view, by storage identity."""
    storages: dict[int, tuple[int, StorageSpec]] = {}
    for tensor in (leaf for value in values for leaf in leaves_of(value) if isinstance(leaf, torch.Tensor)):
        storage = tensor.untyped_storage()
        storages.setdefault(storage._cdata, (len(storages), StorageSpec(storage.nbytes(), tensor.device)))
    return storages


def _specs(value: Any, storages: dict[int, tuple[int, StorageSpec]]) -> Any:
    def spec(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        number, _ = storages[leaf.untyped_storage()._cdata]
        return TensorSpec(
            shape=tuple(leaf.shape),
            stride=tuple(leaf.stride()),
            dtype=leaf.dtype,
            storage=number,
            offset=int(leaf.storage_offset()),
            conjugated=leaf.is_conj(),
            negated=leaf.is_neg(),
        )

    return with_leaves(value, spec)


def _value(node: fx.Node) -> Any:
    if "val" not in node.meta:
        if node.op == "get_attr" and node.graph.owning_module is not None:
            return operator.attrgetter(str(node.target))(node.graph.owning_module)
        raise ValueError(f'{node.format_node()}: has no meta["val"], which the cost of its readers depends on')
    return node.meta["val"]
