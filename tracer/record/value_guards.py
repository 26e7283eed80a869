"""The values that a forward may read while it is captured on fake tensors.

Eager code branches on small tensors that depend on inputs and constants alone (``if mask.all()``), and the sizes of results may
depend on them (``x[mask]``). A fake tensor has no values, so ``KnownValues`` remembers every operator whose arguments all come
from inputs, buffers and constants. When the code reads a value, it runs the operators behind that value on the real inputs, and
the answer becomes a ``Guard``: every later step runs the same few operators on its own inputs and compares. Parameters and
random draws are never known.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from remat_planner.tracer.joint import ChainCall, Guard, GuardGroup, Guards, Leaf, Place, on_real_tensors
from remat_planner.tracer.leaves import hashable_form, leaves_of, tensors_in, with_leaves
from remat_planner.tracer.operators import (
    batch_norm_statistics,
    bound_arguments,
    filled,
    filling_number,
    is_random,
    sized_result,
    written_arguments,
)
from remat_planner.tracer.record.bounded_draws import BoundedDraws
from remat_planner.tracer.torch_private import hashable, is_fake, is_symbolic, number_of, storage_key

_MOST_MOVED = 1 << 20
"""Bytes of the tensors of one group of guards that are moved from their device to the host in each step."""
_MOST_FOLDED = 1 << 10
"""Elements of a constant that guards keep and do not compute again."""


class UnknownValueError(Exception):
    """The value cannot be known during the capture; the text says why."""


@dataclass(frozen=True)
class _Remembered:
    """A call with the storages that it reads, those that it writes to, and all that it allocates, views or writes to."""

    call: ChainCall
    reads: frozenset[int]
    writes: frozenset[int]
    touches: frozenset[int]


@dataclass(frozen=True)
class _KnownLeaf:
    kind: Literal["buffer", "input"]
    index: int
    place: Place
    value: torch.Tensor


@dataclass(frozen=True)
class _Read:
    """A guard, the number of calls before it, and the numbers of those behind it."""

    guard: Guard
    after: int
    calls: frozenset[int]
    leaves: tuple[int, ...]  # their storages


class KnownValues:
    """Remembers the operators that depend on inputs, buffers and constants alone, and evaluates them on demand.

    Attributes:
        answers: the results of all reads, in order.
        draws: the ranges of random draws.
    """

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.draws = BoundedDraws()
        self._leaves: dict[int, _KnownLeaf] = {}
        self._calls: list[_Remembered] = []
        self._known: set[int] = set()
        self._written: dict[int, int] = {}  # how often each storage was written to
        self._shown: set[int] = set()  # storages that arrays of the user's share in eager
        self._places: dict[tuple[Any, ...], Place] = {}
        self._values: dict[int, torch.Tensor] = {}  # real tensors by place, of storages that are never written to
        self._reads: dict[Any, _Read] = {}
        self._kept: list[torch.UntypedStorage] = []  # keeps every key unique: another storage may take the key of a freed one

    def add_leaf(self, kind: Literal["buffer", "input"], index: int, fake: torch.Tensor, real: torch.Tensor) -> None:
        """``fake`` stands for the buffer or input ``real``, whose values are known."""
        self._kept.append(fake.untyped_storage())
        self._known.add(storage_key(fake))
        self._leaves[storage_key(fake)] = _KnownLeaf(kind, index, self._place(fake), real)

    def follow(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Remember a call if all its arguments are known; else forget the storages that it overwrites."""
        results = tensors_in(result)
        statistics = batch_norm_statistics(func, args, kwargs)
        overwritten = [t for t in (*written_arguments(func, args, kwargs), *statistics) if is_fake(t) and _has_storage(t)]
        written = {storage_key(t) for t in overwritten}
        self._note_writes(written)
        self.draws.follow(func, args, kwargs, [r for r in results if is_fake(r)], written)
        fakes = _fakes((args, kwargs))
        if is_random(func, args, kwargs) or statistics or not all(map(_has_storage, results)):
            self._known -= written
        elif not all(map(self._is_known, fakes)):
            self._known -= written
            self._follow_derived(func, args, kwargs, results)
        else:
            run = torch.ops.aten.lift_fresh_copy.default if func is torch.ops.aten.lift_fresh.default else func
            self._remember(run, args, kwargs, [r for r in results if is_fake(r)], written)

    def read(
        self, func: Callable[..., Any], args: Any, kwargs: Any, source: str, kind: Literal["value", "size"] = "value"
    ) -> Any:
        """The result of ``func`` on the real values of its arguments; ``source`` is the line that reads it.

        Raises:
            UnknownValueError: the result depends on parameters, random draws or inputs without values.
        """
        storages = self._known_storages((args, kwargs))
        call = ChainCall(func, *self._bound((args, kwargs)))
        key = (*_key(call), *(self._written.get(storage, 0) for storage in storages))
        if key not in self._reads:
            expected, calls, leaves = self._evaluated(call, storages)
            self._reads[key] = _Read(Guard(call, expected, source, kind), len(self._calls), frozenset(calls), leaves)
        expected = self._reads[key].guard.expected
        self.answers.append(expected)
        return expected

    def values(self, fake: torch.Tensor, source: str, *, shared: bool = False) -> torch.Tensor:
        """The values of ``fake`` on the host. Where they are ``shared``, a later write to it is refused.

        Raises:
            UnknownValueError: as for ``read``.
        """
        if shared:
            self._shown.add(storage_key(fake))
        return tensor_of(self.read(torch.Tensor.tolist, (fake,), {}, source), fake)

    def results(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, source: str) -> Any:
        """The fake results of a call whose sizes depend on values.

        Raises:
            UnknownValueError: as for ``read``, or how the sizes depend on values is not known.
        """
        sized = sized_result(func, args, kwargs)
        if sized is None:
            raise UnknownValueError("the size of the result depends on it")
        try:
            sizes = self.read(sized.sizes, (sized.decided_by(func, args, kwargs),), {}, source, "size")
        except UnknownValueError as error:
            raise UnknownValueError(f"the size of the result depends on it, and {error}") from None
        return sized.results(bound_arguments(func, args, kwargs), sizes)

    def guards(self) -> Guards:
        """The guards of all reads that depend on a buffer or input, in groups that depend on the same ones."""
        by_leaves: dict[tuple[int, ...], list[_Read]] = {}
        for read in self._reads.values():
            if read.leaves:
                by_leaves.setdefault(read.leaves, []).append(read)
        differentiable = any(self._leaves[storage].value.requires_grad for leaves in by_leaves for storage in leaves)
        return Guards(tuple(self._group(leaves, reads) for leaves, reads in by_leaves.items()), differentiable)

    def _group(self, leaves: tuple[int, ...], reads: list[_Read]) -> GuardGroup:
        numbers = sorted(frozenset().union(*(read.calls for read in reads)))
        written = {storage for number in numbers for storage in self._calls[number].writes}
        varying = {*leaves}
        constants: dict[int, torch.Tensor] = {}
        steps: list[tuple[int, ChainCall | Guard]] = [(read.after, read.guard) for read in reads]
        for number in numbers:
            call = self._calls[number]
            if varying.isdisjoint(call.reads | call.touches) and self._is_small_constant(call):
                constants.update((place, self._values[place]) for place in call.call.results)
            else:
                varying |= call.touches
                steps.append((number, call.call))
        found = [(self._leaves[storage], storage in written) for storage in leaves]
        group = GuardGroup(
            tuple(Leaf(leaf.kind, leaf.index, leaf.place, is_written) for leaf, is_written in found),
            constants,
            tuple(step for _, step in sorted(steps, key=lambda step: (step[0], isinstance(step[1], ChainCall)))),
        )
        return self._on_host(group, [self._leaves[storage].value for storage in leaves])

    def _on_host(self, group: GuardGroup, tensors: list[torch.Tensor]) -> GuardGroup:
        """The group on the host, where it starts on a device and has whole numbers alone, which are the same everywhere."""
        if all(tensor.device.type == "cpu" for tensor in tensors) or sum(tensor.nbytes for tensor in tensors) > _MOST_MOVED:
            return group
        places = {place for step in group.steps if isinstance(step, ChainCall) for place in step.results}
        dtypes = {geometry[-1] for geometry, place in self._places.items() if place in places}
        if any(dtype.is_floating_point or dtype.is_complex for dtype in (*dtypes, *(tensor.dtype for tensor in tensors))):
            return group
        moved = group.moved_to_host()
        with on_real_tensors():
            return moved if moved.hold([tensor.cpu() for tensor in tensors]) else group  # ties may be sorted in another order

    def _is_small_constant(self, call: _Remembered) -> bool:
        values = [self._values.get(place) for place in call.call.results]
        if any(map(is_symbolic, leaves_of((call.call.args, call.call.kwargs)))):
            return False
        return all(value is not None and value.numel() <= _MOST_FOLDED for value in values)

    def _follow_derived(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, results: list[torch.Tensor]) -> None:
        """Remember a call some of whose results are known although not all of its arguments are."""
        number = filling_number(func, args, kwargs)
        if number is None:
            number = self.draws.decided(func, args, kwargs)
        if number is not None:
            (result,) = results
            form = (result.shape, result.stride(), number, result.dtype, result.device)
            self._remember(filled, form, {}, results, set())
        sized = sized_result(func, args, kwargs)
        if sized is not None and sized.derived:
            arguments = sized.decided_by(func, args, kwargs)
            if all(map(self._is_known, _fakes(arguments))):
                for position, derive in sized.derived.items():
                    self._remember(derive, (arguments,), {}, [results[position]], set())

    def _remember(
        self, func: Callable[..., Any], args: Any, kwargs: Any, results: list[torch.Tensor], written: set[int]
    ) -> None:
        self._kept += [r.untyped_storage() for r in results]
        storages = set(map(storage_key, results))
        self._known |= storages
        bound_args, bound_kwargs = self._bound((args, kwargs))
        call = ChainCall(func, bound_args, bound_kwargs, tuple(map(self._place, results)))
        reads = frozenset(map(storage_key, _fakes((args, kwargs))))
        self._calls.append(_Remembered(call, reads, frozenset(written), frozenset(written | storages)))

    def _note_writes(self, storages: set[int]) -> None:
        """Values of storages that change hold at one time only."""
        if storages & self._shown:
            raise UnknownValueError("it is written to after its memory was given to NumPy")
        for storage in storages:
            self._written[storage] = self._written.get(storage, 0) + 1
        if storages & self._known:
            for geometry, place in self._places.items():
                if geometry[0] in storages:
                    self._values.pop(place, None)

    def _known_storages(self, arguments: Any) -> list[int]:
        fakes = _fakes(arguments)
        if not all(map(self._is_known, fakes)):
            raise UnknownValueError("it depends on parameters or on random draws")
        return list(dict.fromkeys(map(storage_key, fakes)))

    def _evaluated(self, call: ChainCall, storages: Iterable[int]) -> tuple[Any, list[int], tuple[int, ...]]:
        """The result of ``call``, the numbers of the calls behind it, in order, and the storages of the leaves behind it."""
        numbers = self._slice(storages)
        reached = set(storages).union(*(self._calls[number].reads for number in numbers))
        leaves = tuple(storage for storage in self._leaves if storage in reached)
        if any(is_fake(self._leaves[storage].value) for storage in leaves):
            raise UnknownValueError(
                "it depends on an input that has no values (a fake tensor): pass a real tensor for that input"
            )
        written = {storage for number in numbers for storage in self._calls[number].writes}
        with on_real_tensors():
            values = dict(self._values)
            for storage in leaves:
                leaf = self._leaves[storage]
                values[leaf.place] = leaf.value.clone() if storage in written else leaf.value
            for remembered in (self._calls[number] for number in numbers):
                if not all(place in self._values for place in remembered.call.results):
                    remembered.call.run(values)
                    if self._written.keys().isdisjoint(remembered.touches):
                        self._values.update((place, values[place]) for place in remembered.call.results)
            return call.on(values), numbers, leaves

    def _slice(self, storages: Iterable[int]) -> list[int]:
        """Numbers of the remembered calls, in order, on which the contents of ``storages`` depend."""
        wanted = set(storages)
        numbers: list[int] = []
        for number in range(len(self._calls) - 1, -1, -1):
            if self._calls[number].touches & wanted:
                numbers.append(number)
                wanted |= self._calls[number].reads
        return numbers[::-1]

    def _is_known(self, fake: torch.Tensor) -> bool:
        return _has_storage(fake) and storage_key(fake) in self._known

    def _bound(self, arguments: Any) -> Any:
        return with_leaves(
            arguments, lambda leaf: self._place(leaf) if isinstance(leaf, torch.Tensor) and is_fake(leaf) else leaf
        )

    def _place(self, tensor: torch.Tensor) -> Place:
        offset, shape, strides = hashable(tensor.storage_offset()), map(hashable, tensor.shape), map(hashable, tensor.stride())
        geometry = (storage_key(tensor), offset, tuple(shape), tuple(strides), tensor.dtype)
        return self._places.setdefault(geometry, Place(len(self._places)))


def tensor_of(values: Any, fake: torch.Tensor) -> torch.Tensor:
    """A real tensor on the host of the dtype and shape of ``fake`` with the ``values`` that ``tolist`` gives."""
    with on_real_tensors():
        return torch.tensor(values, dtype=fake.dtype).reshape(tuple(map(number_of, fake.shape)))


def _key(call: ChainCall) -> tuple[Any, ...]:
    """Equal for calls of one function with the same arguments."""

    def key(leaf: Any) -> Hashable:
        return type(leaf), id(leaf) if isinstance(leaf, torch.Tensor) else repr(hashable(leaf))

    return call.func, hashable_form((call.args, call.kwargs), key)


def _fakes(arguments: Any) -> list[torch.Tensor]:
    return [tensor for tensor in tensors_in(arguments) if is_fake(tensor)]


def _has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one piece of memory; the values of others, such as sparse tensors, are not followed."""
    return tensor.layout is torch.strided
