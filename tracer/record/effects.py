"""Which changes of Python state each planned call can make again.

The forward is recorded twice, the second time from the state that the first one left. A change that both make in the same form
can be repeated: an attribute is set, a list is extended, an entry of a dictionary is replaced. A change that differs from one
time to the next (a counter, a draw of the module's own generator) cannot, and is refused by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from remat_planner.tracer.joint import EXTEND, REPLACE, Effect, Effects, flatten
from remat_planner.tracer.python_state import (
    ABSENT,
    Array,
    Change,
    Memory,
    Place,
    RandomGenerator,
    ReadNumber,
    Sequence,
    SetOfItems,
    TextInMemory,
    described_value,
    is_plain,
    is_read_number,
    same,
    walk,
)
from remat_planner.tracer.record.counted_numbers import counted_by
from remat_planner.tracer.torch_private import FakeTensor


@dataclass(frozen=True)
class RecordedEffects:
    """The changes of one recording.

    Attributes:
        effects: as data, without tensors.
        leaves: the leaves of the new values; tensors among them are outputs of the recorded step.
        lost: names of the changes that cannot be made again.
        filled: names of entries that the first forward fills with a fixed tensor for later ones (a cache).
        written: keys that the forward sets, by the label of the object: what it finds there does not matter.
        written_in: these labels, by the identity of the object.
        reassigned: name of each entry that held another tensor before, by the id of that tensor.
    """

    effects: Effects
    leaves: list[Any]
    lost: tuple[str, ...]
    filled: frozenset[str]
    written: dict[str, frozenset[Any]]
    written_in: dict[int, str]
    reassigned: dict[int, str]


def effects_of(
    first: Iterable[Change],
    second: Iterable[Change] | None = None,
    argument_objects: Container[int] = (),
    fixed: Container[int] = (),
) -> RecordedEffects:
    """What a forward leaves behind, from the changes that it made.

    Args:
        first: changes of the first recording.
        second: changes of a recording that began with the state that the first one left. Without it, every change but a draw
            counts as one that can be made again.
        argument_objects: identities of objects in the arguments, which are leaves as a whole.
        fixed: identities of the tensors that each forward can compute again as the first did.
    """
    first, second = list(first), None if second is None else list(second)
    later = None if second is None else {change.holder.place.label: change for change in second}
    changed_later = {id(change.holder.target) for change in second or ()}
    made: list[tuple[Change, Any, Any, bool, int | None]] = []
    lost: list[str] = []
    filled: set[str] = set()
    written: dict[str, set[Any]] = {}
    for change in first:
        unchanged = Change(change.holder, change.after, change.after)
        again = None if later is None else later.pop(change.holder.place.label, unchanged)
        for key, value, name, adds in _parts(change, again):
            once = again is not None and key not in {EXTEND, REPLACE, *again.keys}
            if once and value is not ABSENT and _holds_a_tensor(value):
                if _is_fixed(value, fixed) and id(value) not in changed_later:
                    filled.add(name)
                else:
                    lost.append(name)
            else:
                written.setdefault(change.holder.place.label, set()).add(key)
            if _is_of_fakes(key):
                continue
            if value is ABSENT or _holds_a_tensor(key):  # another tensor is another key
                lost.append(name)
                continue
            _drop_entries_of_fakes(value)
            made.append((change, key, value, once, adds))
    lost += [name for change in (later or {}).values() for name in change.names]
    flat = [flatten(value, argument_objects) for _, _, value, *_ in made]
    effects = Effects(
        tuple(
            Effect(_label(change, key), change.holder.place, type(change.holder), key, spec, len(leaves), once, adds)
            for (change, key, _, once, adds), (leaves, spec) in zip(made, flat, strict=True)
        )
    )
    leaves = [leaf for part, _ in flat for leaf in part]
    return RecordedEffects(
        effects,
        leaves,
        tuple(dict.fromkeys(lost)),
        frozenset(filled),
        {label: frozenset(keys) for label, keys in written.items()},
        {id(change.holder.target): change.holder.place.label for change in first},
        _reassigned(first),
    )


def _label(change: Change, key: Any) -> str:
    return change.holder.place.label if key in (EXTEND, REPLACE) else change.holder.name_of(key)


def _drop_entries_of_fakes(value: Any) -> None:
    """Drop such entries from the dictionaries inside of an object that the forward leaves behind, a copy of a table."""
    for holder in walk([(Place("", value, "object"), value)], None):
        if isinstance(holder.target, dict):
            for key in [key for key in holder.target if _is_of_fakes(key)]:
                del holder.target[key]


def _is_of_fakes(key: Any) -> bool:
    """Whether an entry is for fake tensors, as in a dispatch by types: no step without them has it."""
    return any(isinstance(part, type) and issubclass(part, FakeTensor) for part in (key if isinstance(key, tuple) else (key,)))


def _reassigned(changes: Iterable[Change]) -> dict[int, str]:
    return {
        id(change.before[key]): change.holder.name_of(key)
        for change in changes
        for key in change.keys
        if isinstance(change.before.get(key), torch.Tensor)
    }


def _parts(change: Change, again: Change | None) -> Iterator[tuple[Any, Any, str, int | None]]:
    """Key, new value and name of each part of a change, and what it adds where it counts.

    The value is ``ABSENT`` where the change cannot be made again.
    """
    if isinstance(change.holder, RandomGenerator):
        yield REPLACE, ABSENT, change.holder.place.label, None
    elif isinstance(change.holder, (SetOfItems, Array, Memory, TextInMemory)):
        key, value = _whole(change)
        yield key, value if again is None or not again.keys else ABSENT, change.holder.place.label, None
    elif isinstance(change.holder, Sequence) and (len(change.before) != len(change.after) or added_items(change)):
        yield *_items(change, again), None
    elif change.is_reordered and (not change.keys or (again is not None and again.is_reordered)):
        yield REPLACE, ABSENT, f"the order of {change.holder.place.label}", None
    else:
        for key in change.keys if again is None else dict.fromkeys((*change.keys, *again.keys)):
            value = change.after.get(key, ABSENT)
            added = None if again is None else counted_by(change, key, again)
            repeated = again is None or added is not None or _is_made_again(value, key, again)
            yield key, value if repeated else ABSENT, change.holder.name_of(key), added


def _whole(change: Change) -> tuple[Any, Any]:
    """The change of an object whose entries have no places: items added to a set, or a new content."""
    before, after = change.before.get("items"), change.after.get("items")
    if before is not None and after is not None and before <= after:
        return EXTEND, list(after - before)
    return REPLACE, change.after


def _is_made_again(value: Any, key: Any, again: Change) -> bool:
    """Whether the second forward leaves ``value`` under ``key`` too, with tensors of its own."""
    return key not in set(again.keys) or _same_form(value, again.after.get(key, ABSENT))


def _is_fixed(value: Any, fixed: Container[int]) -> bool:
    return all(id(leaf) in fixed for leaf in flatten(value)[0] if isinstance(leaf, (torch.Tensor, ReadNumber)))


def _holds_a_tensor(value: Any) -> bool:
    return any(isinstance(leaf, (torch.Tensor, ReadNumber)) for leaf in flatten(value)[0])


def _items(change: Change, again: Change | None) -> tuple[Any, Any, str]:
    label = change.holder.place.label
    tail = added_items(change)
    if again is None:
        return (EXTEND, tail, label) if tail is not None else (REPLACE, change.after, label)
    more = added_items(again)
    if tail is not None and more is not None and _same_form(tail, more):
        return EXTEND, tail, label
    after, then = list(change.after.values()), list(again.after.values())
    return (REPLACE, change.after, label) if _same_form(after, then) else (REPLACE, ABSENT, label)


def added_items(change: Change) -> list[Any] | None:
    """The items that a list or deque has got at its end; None where it does not begin with what it held.

    A deque with a limit drops items at its beginning for those beyond the limit. It is one of tensors: what a forward does with
    these is recorded, but two recordings would not show what it makes of numbers that move on.
    """
    before, after = list(change.before.values()), list(change.after.values())
    is_full = isinstance(change.holder.target, deque) and len(after) == change.holder.target.maxlen
    is_full &= all(isinstance(item, torch.Tensor) for item in (*before, *after))
    for dropped in range(len(before) + 1 if is_full else 1):
        stays = len(before) - dropped
        if len(after) > stays and all(same(one, other) for one, other in zip(before[dropped:], after[:stays], strict=True)):
            return after[stays:]
    return None


def _same_form(one: Any, other: Any) -> bool:
    """Whether two values differ in nothing but their tensors."""
    if is_plain(one) or is_plain(other):
        return same(one, other)
    leaves, spec = flatten(one)
    others, other_spec = flatten(other)
    if len(leaves) != len(others) or spec.spec != other_spec.spec:
        return False
    return all(_same_leaf(leaf, another) for leaf, another in zip(leaves, others, strict=True))


def _same_leaf(one: Any, other: Any) -> bool:
    if is_read_number(one) or is_read_number(other):
        return is_read_number(one) and is_read_number(other)
    if isinstance(one, torch.Tensor) or isinstance(other, torch.Tensor):
        return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return same(one, other) or described_value(one, None) == described_value(other, None) != {}
