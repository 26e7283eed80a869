"""Everything besides its outputs that a forward may change, watched while a step is recorded.

| state | put back | on a change |
|---|---|---|
| parameters and buffers in their slots | yes | another tensor in a slot: ``StateReassignedError`` |
| Python state: attributes, containers, arguments, globals | yes | repeated by each planned call, or refused (``effects``) |
| hooks that only look on | yes | ``LostHookError`` |
| iterators and queues in Python state | not used | ``PythonStateError`` (``used_up``) |
| Python's and NumPy's own generators | by ``capture`` | ``DataDependentError`` |
| the values of buffers and inputs | fakes are changed | with a gradient: ``UnsupportedOperatorError`` |
| torch's generators: their seeds and states | by ``capture`` | ``RandomStateError`` (``calls_below_dispatch``) |
| the memory of parameters, buffers and inputs | fakes are changed | ``StateReassignedError`` (``calls_below_dispatch``) |

Draws from torch's generators need no watch: random operators are recorded. A new kind of state gets a row here and a line in
``watched_step`` (forward and backward), ``WatchedForward`` or ``CallsBelowDispatch``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state import (
    CachedFunction,
    Change,
    Environment,
    ExecutedCode,
    Place,
    Roots,
    Snapshot,
    objects_in_arguments,
    starts_of,
)
from remat_planner.tracer.record.counted_numbers import CountedNumbers
from remat_planner.tracer.record.eager_types import EagerType
from remat_planner.tracer.record.grown_lists import GrownLists
from remat_planner.tracer.record.hooks import WatchedHooks, watched_hooks
from remat_planner.tracer.record.module_attributes import swapped
from remat_planner.tracer.record.random_state import python_random_state
from remat_planner.tracer.record.used_up import UsedUp
from remat_planner.tracer.refusals import backward_state_error, cached_function_error, python_draw_error
from remat_planner.tracer.torch_private import generator_key


@contextmanager
def watched_step(
    model: nn.Module, replacement: Mapping[int, torch.Tensor], places: Collection[tuple[Place, torch.Tensor]] = ()
) -> Iterator[WatchedHooks]:
    """Run forward and backward inside, with other tensors in the model, as ``swapped`` puts them there.

    Raises:
        StateReassignedError: the forward put another tensor into the slot of a parameter or buffer.
        LostHookError: a hook had no part in what the step computes.
    """
    with swapped(model, replacement, places), watched_hooks(model, [tensor for _, tensor in places]) as hooks:
        yield hooks


class WatchedForward:
    """Watches one forward: which code runs, and which Python state it changes.

    Args:
        model: the module, with stand-ins in its slots.
        args: the positional inputs of the call.
        kwargs: the named inputs of the call.
        left_behind: changes of an earlier forward, from which this one starts; None for the first.
        is_carried: whether what such a change left under a key has a stand-in, which is there.
        own_tensors: puts the tensors of objects among the inputs back into them, in whose places stand-ins are.
        identities: what ``id`` says of each stand-in: the id of the tensor that it stands for.

    Attributes:
        executed: the code that has run.
        changes: of Python state.
        counted: the integers that this forward may count up, which an earlier one has changed.
        grown: the lists that this forward may extend, which an earlier one has extended.
        argument_objects: where each object is that lies in the arguments, by its identity.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        left_behind: Sequence[Change] | None = None,
        is_carried: Callable[[Change, Any], bool] = lambda *_: False,
        own_tensors: Callable[[], None] = lambda: None,
        identities: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self._starts = starts_of(model, args, kwargs)
        roots = Roots.of(model, args, kwargs)
        self._used_up = UsedUp(roots, may_count=left_behind is None)
        self._before = self._start = _snapshot(self._starts)
        self._own_tensors = own_tensors
        self._left_behind = left_behind or ()
        self._is_carried = is_carried
        self._identities = identities
        self.executed = ExecutedCode()
        self.changes: list[Change] = []
        self.counted = CountedNumbers()
        self.grown = GrownLists(roots)
        self.argument_objects = objects_in_arguments(self._before.holders)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run the forward inside. Python state stays as the forward leaves it until ``put_back``.

        Raises:
            DataDependentError: the forward drew from the generator of Python or NumPy.
            PythonStateError: it took items from an iterator or a queue, or one is among its arguments; or a function under
                ``functools.lru_cache`` has made tensors in it that later forwards find.
        """
        drawn = python_random_state()
        try:
            for change in self._left_behind:
                if change.holder.place.kind != "arguments":  # each call has containers of its own
                    self._before.add(change.holder)
                    now, changed = change.holder.entries(), set(change.keys)
                    stays = {k for k in now if k not in changed or self._is_carried(change, k)}  # it may be a stand-in
                    left = {k: now[k] if k in stays else self.counted.in_place_of(change, k) for k in change.after}
                    change.holder.put_back(left)
            start = self._start = _snapshot(self._starts) if self._left_behind else self._before
            for change in self._left_behind:
                start.add(change.holder)

            caller = sys._getframe(2)  # of this context; between them is contextlib's own frame
            looked_at = 0

            def put_stand_ins() -> None:
                nonlocal looked_at
                for holder, entries in start.kept[looked_at:]:
                    self._used_up.replace_in(holder, entries.items())
                    self.grown.replace_in(holder, entries.items())
                looked_at = len(start.kept)

            def first_call(code: Any, frame: Any) -> None:
                for snapshot in dict.fromkeys((self._before, start)):
                    snapshot.add_names_of(code, frame, caller)
                put_stand_ins()

            self.executed = ExecutedCode(first_call, {"type": EagerType, "id": _id_of_original(self._identities)})
            self._used_up.refuse_inputs()
            self.grown.begin(self._left_behind)
            put_stand_ins()
            with self.executed.observed():
                yield
            self._put_stand_ins_back()
            self.changes = start.changes()
            for holder in start.holders:
                if isinstance(holder, CachedFunction) and holder.was_recorded and holder.finds_recorded(self._identities):
                    raise cached_function_error(holder.target)
        except BaseException:
            self._put_stand_ins_back()
            self.put_back()
            raise
        if python_random_state() != drawn:
            self.put_back()
            raise python_draw_error()

    @contextmanager
    def watching_backward(self) -> Iterator[ExecutedCode]:
        """Run the backward inside, with code of the user's in it: what that can read, the forward can. Yields what observes it.

        Raises:
            DataDependentError: it drew from the generator of Python or NumPy.
            PythonStateError: it changes Python state.
        """
        for change in self.changes:
            change.holder.put_back(change.after)  # the backward finds what the forward has left
        drawn, start, caller = python_random_state(), _snapshot(self._starts), sys._getframe(2)
        code = ExecutedCode(lambda code, frame: start.add_names_of(code, frame, caller))
        try:
            with code.observed():
                yield code
            changed = [name for change in start.changes() for name in change.names]
        finally:
            start.put_back()
            for change in reversed(self.changes):
                change.holder.put_back(change.before)
        self.executed.include(code)
        changed += self._counted_for(code)
        if changed:
            raise backward_state_error(changed)
        if python_random_state() != drawn:
            raise python_draw_error("backward")

    def _counted_for(self, code: ExecutedCode) -> Iterator[str]:
        """Names of the numbers that the forward counts and that ``code``, which runs in the backward, can read."""
        names = code.names
        for change in self.changes:
            for key in change.keys:
                is_number = isinstance(change.after.get(key), int) and not isinstance(change.after[key], bool)
                if is_number and (names is None or not isinstance(key, str) or key in names):
                    yield change.holder.name_of(key)

    @property
    def found(self) -> set[int]:
        """The identities of the objects that the forward found."""
        return {id(holder.target) for holder in self._before.holders}

    def found_generator(self, key: int) -> bool:
        """Whether the forward could reach the random generator with this key before it ran."""
        return self._before.holds(lambda value: isinstance(value, torch.Generator) and generator_key(value) == key)

    @property
    def was_there(self) -> Callable[[Any], bool]:
        """Whether the forward found an object, so that it did not make it."""
        found = self.found
        return lambda thing: id(thing) in found

    def _put_stand_ins_back(self) -> None:
        self._used_up.put_back()
        self.grown.put_back()

    def put_back(self) -> None:
        """Make the Python state what it was before the forward, and what an earlier one left as that left it."""
        self._start.put_back()
        self._before.put_back()
        self._own_tensors()


def _id_of_original(identities: Mapping[int, int]) -> Callable[[Any], int]:
    """``id`` for the code of the forward; no method of what refers to that code, which would make a cycle."""
    return lambda thing: identities.get(id(thing), id(thing))


def _snapshot(starts: list[tuple[Place, Any]]) -> Snapshot:
    """What can be reached from ``starts``, and the environment."""
    snapshot = Snapshot(starts)
    snapshot.add(Environment.named(None)[1])
    return snapshot
