"""Guards: what a forward read from buffers and inputs, and how to read it again before a later step.

A capture holds only for the values and sizes that it saw. A guard keeps the few operators that lead to such a value. Guards
that depend on the same tensors form a group and share these operators.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

from remat_planner.tracer.leaves import tensors_in
from remat_planner.tracer.torch_private import modes_active, number_of, without_modes

_MOST_REMEMBERED = 1 << 14
"""Bytes of the tensors of one group that are kept to compare with; comparing them is faster than computing."""
_LEAST_STEPS = 4
"""Operators for each tensor of a group from which on comparing the tensors first pays."""


_AUTOCAST = ("cpu", "cuda")


class Place(int):
    """The number of a tensor among those that a chain of operators computes."""


@dataclass(frozen=True)
class ChainCall:
    """One call in a chain of operators on real tensors.

    Attributes:
        func: an operator, or a function of tensors.
        args, kwargs: its arguments, with a ``Place`` for each tensor that the chain computes or starts from.
        results: the places of the tensors among its results.
    """

    func: Callable[..., Any]
    args: Any
    kwargs: Any
    results: tuple[Place, ...] = ()

    def on(self, values: Mapping[int, torch.Tensor]) -> Any:
        """The result, with the tensors in ``values`` at their places."""
        return self.func(*_filled(self.args, values), **_filled(self.kwargs, values))

    def run(self, values: dict[int, torch.Tensor]) -> None:
        """Compute the results and put them into ``values``."""
        result = self.on(values)
        if isinstance(result, torch.Tensor):
            values[self.results[0]] = result
        else:
            tensors = tensors_in(result)
            values.update(zip(self.results, tensors, strict=True))

    def on_host(self) -> ChainCall:
        """The same call of tensors on the host."""
        return replace(self, args=_on_host(self.args), kwargs=_on_host(self.kwargs))


def _on_host(argument: Any) -> Any:
    if isinstance(argument, (torch.device, torch.Tensor)):
        return torch.device("cpu") if isinstance(argument, torch.device) else argument.cpu()
    kind = type(argument)
    if kind is list or kind is tuple:
        return kind(map(_on_host, argument))
    return {name: _on_host(item) for name, item in argument.items()} if kind is dict else argument


def _filled(argument: Any, values: Mapping[int, torch.Tensor]) -> Any:
    """``argument`` with the tensors at its places."""
    kind = type(argument)
    if kind is Place:
        return values[argument]
    if kind is list or kind is tuple:
        return kind(_filled(item, values) for item in argument)
    if kind is dict:
        return {name: _filled(item, values) for name, item in argument.items()}
    return number_of(argument)


@dataclass(frozen=True)
class Guard:
    """What the forward read from tensors: a number (``mask.all()``), a list, or the size of a result (``x[mask]``).

    Attributes:
        call: reads it.
        expected: its value at capture; where another one is found, the step has to be captured again.
        source: "file:line" of the read.
        kind: in a word, what was read.
    """

    call: ChainCall
    expected: Any
    source: str
    kind: Literal["value", "size"]

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is the expected one."""
        return bool(_exact(value) == self._exact_expected)

    @cached_property
    def _exact_expected(self) -> Any:
        return _exact(self.expected)


@dataclass(frozen=True, slots=True)
class Leaf:
    """A buffer or tensor input that a chain starts from.

    Attributes:
        kind: which of the two.
        index: in ``Joint.buffers`` or ``Joint.input_leaves``.
        place: its place in the chain.
        written: the chain writes to it, and so to a copy.
    """

    kind: Literal["buffer", "input"]
    index: int
    place: Place
    written: bool


class Reading(NamedTuple):
    """A guard and the value that it has now."""

    guard: Guard
    value: Any


@dataclass(frozen=True)
class GuardGroup:
    """Guards that depend on the same buffers and inputs.

    Attributes:
        leaves: these.
        constants: tensors that depend on none of them, by place.
        steps: calls, and guards at the points where they are read, in the order of the forward.
        on_host: the tensors are moved to the host first, and all of the rest runs there.
    """

    leaves: tuple[Leaf, ...]
    constants: Mapping[int, torch.Tensor]
    steps: tuple[ChainCall | Guard, ...]
    on_host: bool = False
    _seen: list[torch.Tensor] = field(default_factory=list, compare=False, repr=False)

    def moved_to_host(self) -> GuardGroup:
        """The same, computed on the host: the tensors leave their device once, and no kernel is waited for."""
        return replace(
            self,
            constants={place: tensor.cpu() for place, tensor in self.constants.items()},
            steps=tuple(
                replace(step, call=step.call.on_host()) if isinstance(step, Guard) else step.on_host() for step in self.steps
            ),
            on_host=True,
        )

    def readings(self, tensors: Sequence[torch.Tensor]) -> Iterator[Reading]:
        """The present values, one after the other, from the tensors of ``leaves``.

        Once one differs, the operators behind it may fail.
        """
        values: dict[int, torch.Tensor] = dict(self.constants)
        for leaf, tensor in zip(self.leaves, tensors, strict=True):
            values[leaf.place] = tensor.clone() if leaf.written else tensor
        for step in self.steps:
            if isinstance(step, Guard):
                yield Reading(step, step.call.on(values))
            else:
                step.run(values)

    def hold(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether all values are the expected ones."""
        if self._seen and all(map(torch.equal, tensors, self._seen)):
            return True
        if not all(guard.holds(value) for guard, value in self.readings(tensors)):
            return False
        if self._seen:
            for seen, tensor in zip(self._seen, tensors, strict=True):
                seen.copy_(tensor)
        elif self._is_to_remember(tensors):
            self._seen.extend(tensor.detach().clone() for tensor in tensors)
        return True

    def _is_to_remember(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether to compare the tensors themselves first from now on; zeros of either sign would compare equal."""
        return (
            len(self.steps) >= _LEAST_STEPS * len(tensors)
            and sum(tensor.nbytes for tensor in tensors) <= _MOST_REMEMBERED
            and not any(tensor.dtype.is_floating_point or tensor.dtype.is_complex for tensor in tensors)
        )


class _Leaves:
    """The buffers and inputs of one call; each moves to the host at most once."""

    def __init__(self, buffers: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
        self._tensors = {"buffer": buffers, "input": inputs}
        self._moved: dict[tuple[str, int], torch.Tensor] = {}

    def of(self, group: GuardGroup) -> list[torch.Tensor]:
        """The tensors that the group starts from."""
        if not group.on_host:
            return [self._tensors[leaf.kind][leaf.index] for leaf in group.leaves]
        for leaf in group.leaves:
            if (leaf.kind, leaf.index) not in self._moved:
                self._moved[leaf.kind, leaf.index] = self._tensors[leaf.kind][leaf.index].cpu()
        return [self._moved[leaf.kind, leaf.index] for leaf in group.leaves]


@dataclass(frozen=True)
class Guards:
    """All that must hold for a captured step.

    Attributes:
        groups: the guards.
        differentiable: a tensor that they depend on requires a gradient.
    """

    groups: tuple[GuardGroup, ...] = ()
    differentiable: bool = False

    @property
    def all(self) -> list[Guard]:
        """The guards, group by group."""
        return [step for group in self.groups for step in group.steps if isinstance(step, Guard)]

    def hold(self, buffers: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> bool:
        """Whether what the forward would read from these buffers and inputs is what it read at capture."""
        if not self.groups:
            return True
        # Every planned call asks, and the context would take as long as most guards.
        if not self.differentiable and not modes_active() and not any(map(torch.is_autocast_enabled, _AUTOCAST)):
            return self._hold(_Leaves(buffers, inputs))
        with on_real_tensors():
            return self._hold(_Leaves(buffers, inputs))

    def _hold(self, leaves: _Leaves) -> bool:
        return all(group.hold(leaves.of(group)) for group in self.groups)

    def expect_as(self, other: Guards) -> bool:
        """Whether ``other`` expects the same values."""
        ours, theirs = self.all, other.all
        return len(ours) == len(theirs) and all(one.holds(two.expected) for one, two in zip(ours, theirs, strict=True))

    def differing(self, buffers: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> list[Reading]:
        """The first value of each group that is not the expected one."""
        with on_real_tensors():
            found, leaves = [], _Leaves(buffers, inputs)
            for group in self.groups:
                differ = (reading for reading in group.readings(leaves.of(group)) if not reading.guard.holds(reading.value))
                found += list(itertools.islice(differ, 1))
            return found


@contextmanager
def on_real_tensors() -> Iterator[None]:
    """Run recorded operators on real tensors as they are, whatever modes are active."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(without_modes())
        for device in _AUTOCAST:
            if torch.is_autocast_enabled(device):  # the recorded operators have the casts
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _exact(value: Any) -> Any:
    """Equal for equal values alone: 0.0 and -0.0 differ, and what is not a number equals itself."""
    first = value
    while isinstance(first, list) and first:
        first = first[0]
    return repr(value) if isinstance(first, (float, complex)) else value
