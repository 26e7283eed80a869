"""The forward as it was recorded, before passes, as data: what a later recording of it is compared with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from remat_planner.tracer.python_state import ABSENT, Change, Holder, Place, Roots, is_plain, same

_MOST_DIFFERENCES = 5
_TENSOR = re.compile(r"%\d+")
_MOST_CHARACTERS = 120  # of the arguments of an operator, in messages


class RecordedOperator(NamedTuple):
    """An operator of the forward, or a constant that it reads.

    Attributes:
        target: the operator; None for a constant.
        arguments: its arguments as text, with "%7" for what is at place 7 (parameters, buffers and inputs come first).
        constant: the constant.
        generator: identity of the random generator that it was given; None for none.
        module: path of the module whose forward called it.
        source: "file:line".
    """

    target: Any
    arguments: str
    constant: Any
    generator: int | None
    module: str
    source: str

    def __str__(self) -> str:
        if self.target is None:
            kind = type(self.constant)
            return f"a constant {'tensor' if issubclass(kind, torch.Tensor) else kind.__name__}"
        text = _TENSOR.sub("_", self.arguments)
        return f"{self.target}({text if len(text) <= _MOST_CHARACTERS else text[:_MOST_CHARACTERS] + '...'})"

    @property
    def where(self) -> str:
        """Its module and line, in words."""
        return f"in {self.module or 'the model itself'} ({self.source or 'line unknown'})"


class Result(NamedTuple):
    """A tensor that the forward returns or leaves behind: its place, and whether it requires a gradient."""

    place: int | None
    differentiable: bool


@dataclass(frozen=True)
class LeftBehind:
    """What the forward leaves in one object that outlives it.

    Attributes:
        results: the tensors.
        values: numbers and alike, by key.
    """

    results: frozenset[Result]
    values: Mapping[Any, Any]


@dataclass(frozen=True)
class RecordedForward:
    """The forward of one recording.

    Attributes:
        operators: in the order in which eager runs them.
        outputs: the leaves of the output; tensors as ``Result``.
        structure: of the output.
        reads: "file:line" of each value that the forward read from a tensor, with the value.
        left: what it leaves in Python state, by the label of the object.
        beyond: names of Python state that it changes and that the planned forward leaves alone.
        filled: entries that it fills once for all later forwards (a cache), as they were before: object, and values by key.
        places: of each tensor in Python state that it reads there, as it reads buffers.
        functions: which autograd.Functions run as they are, and why (``tracer.record.OpaqueFunctions``).
        sizes: numbers among the arguments of operators that are computed from the sizes of inputs, by the text in their place.
    """

    operators: tuple[RecordedOperator, ...] = ()
    outputs: tuple[Any, ...] = ()
    structure: Any = None
    reads: tuple[tuple[str, Any], ...] = ()
    left: Mapping[str, LeftBehind] = field(default_factory=dict)
    beyond: tuple[str, ...] = ()
    filled: tuple[tuple[Holder, Mapping[Any, Any]], ...] = ()
    places: tuple[tuple[Place, ...], ...] = ()
    functions: Any = None
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def with_sizes(self, numbers: Mapping[str, Any]) -> RecordedForward:
        """The same forward where ``sizes`` are these ``numbers``."""
        if not numbers:
            return self
        texts = re.compile("|".join(map(re.escape, sorted(numbers, key=len, reverse=True))))

        def written(operator: RecordedOperator) -> RecordedOperator:
            return operator._replace(arguments=texts.sub(lambda text: repr(numbers[text.group()]), operator.arguments))

        return replace(self, operators=tuple(map(written, self.operators)), sizes={})

    def emptied(self, roots: Roots) -> list[Change]:
        """The changes of Python state that make ``filled`` entries what this recording found."""
        changes = []
        for holder, before in self.filled:
            found = _found_again(holder, roots)
            if found is not None:
                now = found.entries()
                then = {key: value for key, value in {**now, **before}.items() if value is not ABSENT}
                changes.append(Change(found, now, then))
        return changes

    def differences(self, now: RecordedForward) -> tuple[str, ...]:
        """What a later recording does otherwise, in words: what, and where in the user's code; empty if it does the same.

        In ``now``, ``left`` has whatever the forward leaves in the objects that it changes.
        """
        found = list(_of_operators(self, now)) or [*_of_outputs(self, now), *_of_reads(self, now), *_of_left(self, now)]
        return tuple(found[:_MOST_DIFFERENCES])


def _found_again(holder: Holder, roots: Roots) -> Holder | None:
    """The holder that is now where ``holder`` was, also in a copy of the model; None where there is none."""
    place: Place = holder.place
    if place.kind == "object" and not place.steps:
        return holder
    try:
        target = place.find(roots)
    except LookupError:
        return None
    return holder if target is holder.target else type(holder)(place, target, None)


def _of_operators(one: RecordedForward, other: RecordedForward) -> Iterator[str]:
    """Operators that differ: all that differ in values alone, up to the first that is another one."""
    for before, now in zip(one.operators, other.operators, strict=False):
        if before.target is not now.target or _TENSOR.sub("", before.arguments) == _TENSOR.sub("", now.arguments):
            if before[:2] != now[:2]:
                yield f"{before} {before.where}, now {now} {now.where}"
                return
            if before.generator != now.generator:
                yield f"the random generator of {now} {now.where}"
            elif not _same_constant(before.constant, now.constant):
                yield f"{_described(before.constant, now.constant)} {now.where}"
        else:
            yield f"{before}, now {now} {now.where}"
    shorter, longer = sorted((one.operators, other.operators), key=len)
    if len(shorter) < len(longer):
        more = longer[len(shorter)]
        yield f"{'now also' if longer is other.operators else 'no longer'} {more} {more.where}"


def _of_outputs(one: RecordedForward, other: RecordedForward) -> Iterator[str]:
    if one.structure != other.structure or len(one.outputs) != len(other.outputs):
        yield "the structure of the output"
        return
    for k, (before, now) in enumerate(zip(one.outputs, other.outputs, strict=True)):
        if isinstance(before, Result) or isinstance(now, Result):
            if before != now:
                yield f"leaf {k} of the output is another tensor"
        elif not _same_value(before, now):
            yield f"leaf {k} of the output ({_short(before)}, now {_short(now)})"


def _of_reads(one: RecordedForward, other: RecordedForward) -> Iterator[str]:
    before, now = set(one.reads), set(other.reads)
    yield from (f"now reads a value at {source or 'a line of the model'}" for source, _ in now - before)
    yield from (f"no longer reads a value at {source or 'a line of the model'}" for source, _ in before - now)


def _of_left(one: RecordedForward, other: RecordedForward) -> Iterator[str]:
    yield from (f"the forward now changes {name}" for name in other.beyond)
    nothing = LeftBehind(frozenset(), {})
    for label, before in one.left.items():
        now = other.left.get(label, nothing)
        if not before.results <= now.results:
            yield f"a tensor that the forward leaves behind in {label}"
        for key, value in before.values.items():
            if not same(value, now.values.get(key, value)):
                yield f"what the forward leaves behind in {label} ({_short(value)}, now {_short(now.values[key])})"


def _same_constant(one: Any, other: Any) -> bool:
    """Whether two constants are one object, or tensors with the same bits."""
    if one is other:
        return True
    if type(one) is not torch.Tensor or type(other) is not torch.Tensor:
        return False
    if (one.dtype, one.shape, one.device, one.layout) != (other.dtype, other.shape, other.device, other.layout):
        return False
    return one.layout is torch.strided and torch.equal(_bytes_of(one), _bytes_of(other))


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().resolve_conj().resolve_neg().cpu().reshape(-1).view(torch.uint8)


def _described(one: Any, other: Any) -> str:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.numel() == other.numel() == 1:
            return f"a constant tensor ({one.item()}, now {other.item()})"
        return f"a constant tensor ({_form(one)}, now {'other values' if _form(one) == _form(other) else _form(other)})"
    return f"a constant ({_short(one)}, now {_short(other)})"


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _same_value(one: Any, other: Any) -> bool:
    """Whether a leaf of the output is the same; objects that each forward makes anew count by their type."""
    return same(one, other) if is_plain(one) or is_plain(other) else type(one) is type(other)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."
