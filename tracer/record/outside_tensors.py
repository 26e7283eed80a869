"""The tensors that a recorded step finds in Python state, in no parameter, buffer or input: plain attributes, globals.

A recording sees them as real tensors among the arguments of operators. Each that has a place in Python state gets a stand-in
there, as buffers have one, and the step is recorded again. So a planned call reads what lies in the place by then. The others
are constants of the captured step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from remat_planner.tracer.errors import CaptureError
from remat_planner.tracer.joint import flatten
from remat_planner.tracer.leaves import tensors_in
from remat_planner.tracer.operators import batch_norm_statistics, written_arguments
from remat_planner.tracer.python_state import Change, ExecutedCode, Place, PythonReads, Roots, same, tensor_places
from remat_planner.tracer.record.recording import CapturedCall
from remat_planner.tracer.refusals import changed_constant_error, changed_view_error, forward_varies_error
from remat_planner.tracer.torch_private import fake_mode_of, is_fake, storage_key
from remat_planner.tracer.torch_sparse import is_sparse

Result = TypeVar("Result")
_PLAIN = (torch.Tensor, nn.Parameter)  # of a module that is not registered; a buffer of ``nn.Buffer`` is a plain tensor
Placed = tuple[torch.Tensor, tuple[Place, ...]]
"""A tensor in Python state, and its places."""


class _FoundError(BaseException):
    """Ends a recording: other tensors need stand-ins. No code of the user's may catch this."""


class OutsideTensors:
    """Finds, over all recordings of ``call``, the tensors in Python state that it reads.

    Args:
        call: the call, whose state has the parameters and buffers alone.
        fakes: identities of fakes in Python state that stand for themselves.
    """

    def __init__(self, call: CapturedCall, fakes: frozenset[int] = frozenset()) -> None:
        self._plain_call = call
        self._registered = frozenset(map(id, call.state.registered))
        self._fakes = _fakes_in_attributes(call) | fakes
        self._places: dict[int, tuple[torch.Tensor, tuple[Place, ...]]] = {}
        self._found: dict[int, torch.Tensor] = {}
        self._constant: dict[int, torch.Tensor] = {}
        self._may_interrupt = True
        self._names: frozenset[str] = frozenset()
        self._executed: Callable[[], ExecutedCode] = ExecutedCode
        self._carried: set[tuple[str, Any]] = set()
        self._real_memory: dict[Any, Any] = {}  # of buffers, by the memory of their stand-ins
        self._changed: dict[Any, str] = {}

    @property
    def constants(self) -> list[torch.Tensor]:
        """The tensors that the last recording read and that had no stand-in."""
        return list(self._found.values())

    def reads(self, executed: ExecutedCode) -> PythonReads:
        """What the code that ran can read, without what is there now."""
        return PythonReads.of_code(executed, self._names)

    def has_constant(self) -> Callable[[torch.Tensor], bool]:
        """Tells whether a tensor is one of ``constants``, or shares its memory."""
        memory = set(map(_memory_of, self._found.values()))
        return lambda tensor: bool(memory) and _memory_of(tensor) in memory

    @property
    def call(self) -> CapturedCall:
        """The call; its state has the tensors that have stand-ins too."""
        return self._plain_call.with_places(self._places.values())

    def recorded(self, record: Callable[[CapturedCall], Result]) -> Result:
        """What ``record`` returns for the call, which is recorded until every tensor that it reads is known.

        Raises:
            CaptureError: the step cannot be recorded, neither with stand-ins for these tensors nor with constants.
        """
        try:
            return self._recorded(record)
        finally:
            self._executed = ExecutedCode  # the other one refers to this object, and a cycle would keep the model allocated

    def _recorded(self, record: Callable[[CapturedCall], Result]) -> Result:
        refused: CaptureError | None = None
        while True:
            self._found.clear()
            self._changed.clear()
            self._carried.clear()
            try:
                result = record(self.call)
            except _FoundError:
                self._may_interrupt = not self._has_looked_in_vain()
            except CaptureError as error:
                if self._has_looked_in_vain():
                    if refused is not None:
                        raise refused from refused.__cause__
                    if not self._places or any(_is_trained(tensor) for tensor, _ in self._places.values()):
                        raise  # no graph can have these as constants
                    refused = error
                    self._constant |= {identity: tensor for identity, (tensor, _) in self._places.items()}
                    self._places.clear()
            else:
                if self._has_looked_in_vain():
                    self._refuse_changed_memory()
                    return result
            torch.clear_autocast_cache()  # it may hold fakes of this recording

    @property
    def places(self) -> tuple[tuple[Place, ...], ...]:
        """The places of each tensor that has a stand-in."""
        return tuple(places for _, places in self._places.values())

    def recorded_as(
        self, planned: Iterable[tuple[Place, ...]], roots: Roots, record: Callable[[CapturedCall], Result]
    ) -> Result:
        """What ``record`` returns for the call with stand-ins in the ``planned`` places and in no others.

        Raises:
            CaptureError: the forward does not leave there what an earlier one did.
        """
        for places in planned:
            tensor = places[0].find(roots)
            self._places[id(tensor)] = tensor, places
        self._may_interrupt = False
        try:
            return record(self.call)
        except _FoundError:
            raise forward_varies_error() from None
        finally:
            self._executed = ExecutedCode  # the other one refers to this object, and a cycle would keep the inputs allocated

    def begin(
        self, executed: Callable[[], ExecutedCode], buffers: Iterable[torch.Tensor], stand_ins: Iterable[torch.Tensor]
    ) -> None:
        """A forward begins; ``executed`` returns the code that it has run, ``buffers`` have these ``stand_ins``."""
        self._executed = executed
        self._real_memory = dict(zip(map(_memory_of, stand_ins), map(_memory_of, buffers), strict=True))

    def is_carried(self, change: Change, key: Any) -> bool:
        """Whether the forward found a stand-in under ``key`` and left a tensor of the same form for the next one."""
        return (change.holder.place.label, key) in self._carried

    def end(self, changes: Iterable[Change], stand_ins: Mapping[int, torch.Tensor]) -> None:
        """The forward is over. End the recording here where some of the tensors that it read need stand-ins.

        Args:
            changes: what it changed in Python state.
            stand_ins: the tensor behind each stand-in, by the id of that.
        """
        given_up = []
        for change, key in ((each, key) for each in changes for key in each.keys):
            before, after = change.before.get(key), change.after.get(key)
            found = [tensor for tensor in flatten(before)[0] if id(tensor) in stand_ins]
            if found and _has_form_of(before, after):
                self._carried.add((change.holder.place.label, key))
            else:
                given_up += [stand_ins[id(tensor)] for tensor in found]
        for tensor in given_up:
            self._give_up(tensor)
        if given_up or (self._may_interrupt and self._candidates()):
            raise _FoundError

    def note_arguments(self, func: torch._ops.OpOverload, args: Any, kwargs: Any, source: str) -> None:
        """The step calls an operator, in line ``source``. What ``lift_fresh`` gets is a constant of the code.

        Raises:
            UnsupportedOperatorError: it would change a tensor that can have no stand-in.
        """
        if func is torch.ops.aten.lift_fresh.default:
            return
        self.note(tensors_in((args, kwargs)))
        statistics = batch_norm_statistics(func, args, kwargs)
        changed = [t for t in (*written_arguments(func, args, kwargs), *statistics) if isinstance(t, torch.Tensor)]
        for memory in map(_memory_of, changed):
            if memory in self._real_memory:
                self._changed.setdefault(self._real_memory[memory], source)
        written = [tensor for tensor in changed if self._is_outside(tensor)]
        if self._may_interrupt and any(id(tensor) not in self._constant for tensor in written):
            raise _FoundError
        if written:
            raise changed_constant_error(func, source)

    def note(self, values: Iterable[Any]) -> None:
        """The step reads ``values``, some of which may be tensors."""
        for value in values:
            if self._is_outside(value):
                self._found.setdefault(id(value), value)

    def _is_outside(self, value: Any) -> bool:
        if not isinstance(value, torch.Tensor):
            return False
        return not is_fake(value) or (id(value) in self._fakes and id(value) not in self._places)  # a fake stands for itself

    def _refuse_changed_memory(self) -> None:
        """Refuse tensors that lie in memory which the step changes through another; a graph would not know when to read them.

        Raises:
            UnsupportedOperatorError: there is one.
        """
        state = self.call.state
        uses = Counter(map(_memory_of, (*state.parameters, *state.buffers)))
        shared = [memory for memory in map(_memory_of, state.unregistered) if uses[memory] > 1]
        for memory in (*map(_memory_of, self.constants), *shared):
            if memory in self._changed:
                raise changed_view_error(self._changed[memory])

    def _candidates(self) -> list[torch.Tensor]:
        return [tensor for identity, tensor in self._found.items() if identity not in self._constant]

    def _has_looked_in_vain(self) -> bool:
        """Look for the places of the tensors that the last recording read. True where the next one has no other stand-ins."""
        candidates = self._candidates()
        if not candidates:
            return True
        before = len(self._places)
        placed = self._placed({_memory_of(tensor) for tensor in candidates})
        found = set()
        for tensor, places in self._replaceable(_read(candidates, placed)):
            _, known = self._places.get(id(tensor), (tensor, ()))
            new = [place for place in places if not any(map(place.is_same, known))]
            if new:
                self._places[id(tensor)] = tensor, (*known, *new)
                found.add(_memory_of(tensor))
        for tensor in candidates:
            if _memory_of(tensor) not in found:
                self._give_up(tensor)
        return not found and len(self._places) == before

    def _placed(self, memory: Collection[Any]) -> list[Placed]:
        """The tensors in Python state that have this memory, with their places; ``x.data`` has the memory of ``x``."""
        executed, left = self._executed(), set(memory)
        found = self._placed_by(self.reads(executed), left, executed)
        left -= {_memory_of(tensor) for tensor, _ in found}
        if left:  # getattr(self, f"mask_{k}")
            others = self._placed_by(replace(self.reads(executed), names=None), left, executed)
            self._names |= {key for _, places in others for place in places for _, key in place.steps if isinstance(key, str)}
            found += others
        return found

    def _placed_by(self, reads: PythonReads, memory: Collection[Any], executed: ExecutedCode) -> list[Placed]:
        model = self._plain_call.model
        return tensor_places(lambda tensor: _memory_of(tensor) in memory, reads.holders(model), executed, Roots.of(model))

    def _give_up(self, tensor: torch.Tensor) -> None:
        """Have no stand-in for the memory of ``tensor``."""
        self._constant[id(tensor)] = tensor
        memory = _memory_of(tensor)
        for other, _ in list(self._places.values()):
            if _memory_of(other) == memory:
                self._constant[id(other)] = other
                del self._places[id(other)]

    def _replaceable(self, placed: Iterable[Placed]) -> list[Placed]:
        """Those of ``placed`` that can have stand-ins."""
        return [
            (tensor, places)
            for tensor, places in placed
            if id(tensor) in self._registered or (id(tensor) not in self._constant and self._can_have_stand_in(tensor))
        ]

    def _can_have_stand_in(self, tensor: torch.Tensor) -> bool:
        """Whether ``tensor`` is a plain one, or sparse. No gradient may be sent into it (``refuse_histories``)."""
        if type(tensor) not in _PLAIN and id(tensor) not in self._fakes:
            return False
        if is_sparse(tensor):
            return True
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            return False
        return not tensor.is_inference() and tensor.device.type != "meta"


def _is_trained(tensor: torch.Tensor) -> bool:
    return tensor.is_leaf and tensor.requires_grad


def _read(tensors: Collection[torch.Tensor], placed: Sequence[Placed]) -> list[Placed]:
    """Those of ``placed`` through which the step reads ``tensors``: these themselves, or what has the memory of others."""
    identities = {id(tensor) for tensor, _ in placed}
    elsewhere = {_memory_of(tensor) for tensor in tensors if id(tensor) not in identities}
    themselves = set(map(id, tensors))
    return [(tensor, places) for tensor, places in placed if id(tensor) in themselves or _memory_of(tensor) in elsewhere]


def _memory_of(tensor: torch.Tensor) -> Any:
    """Something that is equal for tensors in one storage; what has none is told by identity."""
    try:
        return storage_key(tensor)
    except (RuntimeError, NotImplementedError):
        return "without storage", id(tensor)


def _has_form_of(stand_in: Any, value: Any) -> bool:
    """Whether the next forward can read ``value`` where this one read ``stand_in``.

    Of a value with a history it is not known whether the training loop detaches it, or the next forward does: that forward is
    refused where neither does (``refuse_histories``).
    """
    if isinstance(stand_in, dict) and type(value) is type(stand_in) and value.keys() == stand_in.keys():
        return all(_has_form_of(stand_in[key], value[key]) for key in stand_in)
    if isinstance(stand_in, (tuple, list)) and type(value) is type(stand_in) and len(value) == len(stand_in):
        return all(_has_form_of(one, other) for one, other in zip(stand_in, value, strict=True))
    if not isinstance(stand_in, torch.Tensor):
        return same(stand_in, value)
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return (value.shape, value.stride(), value.dtype, value.device) == (
        stand_in.shape,
        stand_in.stride(),
        stand_in.dtype,
        stand_in.device,
    )


def _fakes_in_attributes(call: CapturedCall) -> frozenset[int]:
    """The identities of the fakes in the plain attributes of a model that was built of fakes."""
    if fake_mode_of(call.tensors) is None:
        return frozenset()
    holders = PythonReads(names=None).holders(call.model)
    return frozenset(
        id(v) for holder in holders for v in holder.entries().values() if isinstance(v, torch.Tensor) and is_fake(v)
    )
