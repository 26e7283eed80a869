"""The values that a forward may read while it is captured on fake tensors.

Eager code branches on small tensors that depend on inputs and constants alone: ``if mask.all()``. A fake tensor has no values,
so ``KnownValues`` remembers every operator whose arguments all come from inputs, buffers and constants. When the code reads a
number, it runs the operators behind that number on the real inputs, and the answer becomes a ``Guard``: every later step runs
the same few operators on its own inputs and compares. Parameters and random draws are never known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Guard
from remat_planner.tracer.operators import batch_norm_statistics, is_random, written_arguments
from remat_planner.tracer.torch_private import is_fake, storage_key, without_modes

_Geometry = tuple[Any, ...]


class UnknownValueError(Exception):
    """The value cannot be known during the capture; the text says why."""


@dataclass(frozen=True)
class _Reference:
    """A tensor in a remembered call, by its place in memory."""

    storage: int
    geometry: _Geometry


@dataclass(frozen=True)
class _Call:
    """One remembered call of an operator."""

    func: torch._ops.OpOverload
    args: Any
    kwargs: Any
    results: tuple[_Reference, ...]
    reads: frozenset[int]
    touches: frozenset[int]  # storages that it allocates, views or writes


@dataclass(frozen=True)
class _Leaf:
    kind: str  # "buffer" or "input"
    index: int
    reference: _Reference
    value: torch.Tensor


class KnownValues:
    """Remembers the operators that depend on inputs, buffers and constants alone, and evaluates them on demand.

    Attributes:
        guards: one for each read that depends on a buffer or input.
        answers: the results of all reads, in order.
    """

    def __init__(self) -> None:
        self.guards: list[Guard] = []
        self.answers: list[bool | int | float] = []
        self._leaves: dict[int, _Leaf] = {}
        self._calls: list[_Call] = []
        self._known: set[int] = set()
        self._kept: list[torch.UntypedStorage] = []  # keeps every key unique: another storage may take the key of a freed one

    def add_leaf(self, kind: str, index: int, fake: torch.Tensor, real: torch.Tensor) -> None:
        """``fake`` stands for the buffer or input ``real``, whose values are known; ``kind`` is "buffer" or "input"."""
        reference = _reference(fake)
        self._kept.append(fake.untyped_storage())
        self._known.add(reference.storage)
        self._leaves[reference.storage] = _Leaf(kind, index, reference, real)

    def follow(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Remember a call if all its arguments are known; else forget the storages that it overwrites."""
        arguments = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        results = [r for r in pytree.tree_leaves(result) if isinstance(r, torch.Tensor)]
        statistics = batch_norm_statistics(func, args, kwargs)
        overwritten = [t for t in (*written_arguments(func, args, kwargs), *statistics) if is_fake(t) and _has_storage(t)]
        written = {storage_key(t) for t in overwritten}
        fakes = [a for a in arguments if is_fake(a)]
        unknown = not all(map(_has_storage, results)) or not all(map(self._is_known, fakes))
        if is_random(func, args, kwargs) or statistics or unknown:
            self._known -= written
            return
        references = tuple(_reference(r) for r in results if is_fake(r))
        self._kept += [r.untyped_storage() for r in results if is_fake(r)]
        self._known.update(r.storage for r in references)
        bound_args, bound_kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: _reference(t) if is_fake(t) else t, (args, kwargs)
        )
        self._calls.append(
            _Call(
                func,
                bound_args,
                bound_kwargs,
                references,
                frozenset(storage_key(a) for a in fakes),
                frozenset(written.union(r.storage for r in references)),
            )
        )

    def read(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, source: str) -> Any:
        """The result of ``func``, mostly a number, on the real values of its arguments; ``source`` is the line that reads it.

        Raises:
            UnknownValueError: the result depends on parameters, random draws or inputs without values.
        """
        arguments = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, torch.Tensor)]
        fakes = [a for a in arguments if is_fake(a)]
        if not all(map(self._is_known, fakes)):
            raise UnknownValueError("it depends on parameters or on random draws")
        bound = pytree.tree_map_only(torch.Tensor, lambda t: _reference(t) if is_fake(t) else t, (args, kwargs))
        calls, leaves = self._slice(storage_key(a) for a in fakes)
        if any(is_fake(leaf.value) for leaf in leaves):
            raise UnknownValueError(
                "it depends on an input that has no values (a fake tensor): pass a real tensor for that input"
            )

        def evaluate(buffers: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> bool | int | float:
            return _evaluated(
                calls, [(leaf, (buffers if leaf.kind == "buffer" else inputs)[leaf.index]) for leaf in leaves], func, bound
            )

        expected = _evaluated(calls, [(leaf, leaf.value) for leaf in leaves], func, bound)
        self.answers.append(expected)
        if leaves:
            self.guards.append(Guard(evaluate=evaluate, expected=expected, source=source))
        return expected

    def _is_known(self, fake: torch.Tensor) -> bool:
        return _has_storage(fake) and storage_key(fake) in self._known

    def _slice(self, storages: Iterable[int]) -> tuple[list[_Call], list[_Leaf]]:
        """The remembered calls, in order, on which the contents of ``storages`` depend, and the leaves among these."""
        wanted = set(storages)
        calls: list[_Call] = []
        for call in reversed(self._calls):
            if call.touches & wanted:
                calls.append(call)
                wanted |= call.reads
        return calls[::-1], [leaf for storage, leaf in self._leaves.items() if storage in wanted]


def _evaluated(
    calls: list[_Call], leaves: list[tuple[_Leaf, torch.Tensor]], func: Callable[..., Any], bound: tuple[Any, Any]
) -> Any:
    """Run remembered calls on real tensors, then ``func`` on their results."""
    written = {s for call in calls for s in call.touches}
    with without_modes(), torch.no_grad():
        values: dict[_Geometry, torch.Tensor] = {
            leaf.reference.geometry: real.detach().clone() if leaf.reference.storage in written else real.detach()
            for leaf, real in leaves
        }

        def real(argument: Any) -> Any:
            return values[argument.geometry] if isinstance(argument, _Reference) else argument

        for call in calls:
            args, kwargs = pytree.tree_map(real, (call.args, call.kwargs), is_leaf=lambda a: isinstance(a, _Reference))
            run = torch.ops.aten.lift_fresh_copy.default if call.func is torch.ops.aten.lift_fresh.default else call.func
            out = [t for t in pytree.tree_leaves(run(*args, **kwargs)) if isinstance(t, torch.Tensor)]
            values.update((reference.geometry, t) for reference, t in zip(call.results, out, strict=True))
        args, kwargs = pytree.tree_map(real, bound, is_leaf=lambda a: isinstance(a, _Reference))
        return func(*args, **kwargs)


def _has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one piece of memory; the values of others, such as sparse tensors, are not followed."""
    return tensor.layout is torch.strided


def _reference(tensor: torch.Tensor) -> _Reference:
    key = storage_key(tensor)
    return _Reference(key, (key, tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype))
