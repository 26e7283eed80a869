"""The transfers of a sequence of steps as it executes: what is stored, released and loaded, and which steps wait for which."""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules.errors import InvalidScheduleError
from remat_planner.schedules.graph import Graph
from remat_planner.schedules.pieces import Pieces
from remat_planner.schedules.transfers import PoolName, Transfer

# The instance that a value is bound to: an index into ``Pieces``, or one of these states. ``_FIRST_LOAD - k`` stands for the
# instance of load k, which no step on the compute queue has waited for yet.
CONSTANT, NOT_COMPUTED, _RELEASED, _FIRST_LOAD = -1, -2, -3, -4


@dataclass(slots=True)
class StoredCopy:
    """One copy of a storage in a pool.

    Attributes:
        transfer: the store.
        store: its step.
        release: the step that waits for it; -1 until then.
        last: the last step that needs the copy: the release or, for each load of it, the first step on the compute queue that
            waits for the load. A later store begins after that step, so it may overwrite the copy.
        instance: the instance on the device that was copied.
    """

    transfer: Transfer
    store: int
    instance: int
    release: int = -1
    last: int = -1


@dataclass(frozen=True, slots=True)
class _Load:
    """A load: its transfer and step, the instance that it allocates, and the copy that it reads."""

    transfer: Transfer
    step: int
    instance: int
    copy: StoredCopy


class CopyLedger:
    """Executes transfers on the instances of ``schedules.instances.walk``.

    Args:
        graph: the training step.
        instance_of: the instance or state of each value, shared with the walk.
        pieces: the allocations on the device, shared with the walk.

    Attributes:
        copies: every copy in a pool, in order of issue.
        waits: for each step that waits for transfers, their steps.
    """

    def __init__(self, graph: Graph, instance_of: list[int], pieces: Pieces) -> None:
        self.copies: list[StoredCopy] = []
        self.waits: dict[int, list[int]] = {}
        self._graph = graph
        self._instance_of = instance_of
        self._pieces = pieces
        self._newest: dict[tuple[int, PoolName], StoredCopy] = {}
        self._loads: list[_Load] = []
        self._unread: dict[int, _Load] = {}

    def run(self, step: int, transfer: Transfer) -> None:
        """Execute a transfer.

        Raises:
            InvalidScheduleError: it breaks a rule of ``schedules.transfers``.
        """
        copy = self._newest.get((transfer.storage, transfer.pool.name))
        if transfer.kind == "store":
            self._store(step, transfer, copy)
        elif transfer.kind == "release":
            self._release(step, transfer, copy)
        else:
            self._load(step, transfer, copy)

    def read(self, step: int, op: str, value: int) -> int:
        """The instance of a value in a state below ``CONSTANT``. The reader, ``op``, waits if the value is being loaded.

        Raises:
            InvalidScheduleError: the value is not computed, or has been released and not come back.
        """
        state = self._instance_of[value]
        if state > _FIRST_LOAD:
            raise unavailable(self._graph, step, op, value, released=state == _RELEASED)
        return self._await(step, _FIRST_LOAD - state)

    def finish(self) -> None:
        """Check the whole sequence.

        Raises:
            InvalidScheduleError: a storage is stored and not released, or loaded and not read.
        """
        for copy in self.copies:
            if copy.release < 0:
                raise _invalid(copy.store, copy.transfer, "which no step releases: its memory could be reused during the copy")
        for load in self._unread.values():
            raise _invalid(load.step, load.transfer, "which no step reads before it is computed or loaded again")

    def _store(self, step: int, transfer: Transfer, previous: StoredCopy | None) -> None:
        if previous is not None and previous.release < 0:
            raise _invalid(step, transfer, f"but step {previous.store} stored it and no step released that")
        value = transfer.values[0]
        instance = self._instance_of[value]
        if instance < 0:
            if instance > _FIRST_LOAD:
                raise unavailable(self._graph, step, transfer.name, value, released=instance == _RELEASED)
            load = self._loads[_FIRST_LOAD - instance]  # the compute queue does not wait for it here
            self.waits[step] = [load.step]
            instance = load.instance
        self._pieces.death[instance] = step
        copy = StoredCopy(transfer, step, instance)
        self.copies.append(copy)
        self._newest[transfer.storage, transfer.pool.name] = copy

    def _release(self, step: int, transfer: Transfer, copy: StoredCopy | None) -> None:
        if copy is None or copy.release >= 0:
            raise _invalid(step, transfer, "which no step before it has stored since it was last released")
        for number, load in list(self._unread.items()):
            if load.instance == copy.instance:
                self._await(step, number)  # the store waited for the load, and this step for the store
        self.waits[step] = [copy.store]
        copy.release = step
        copy.last = max(copy.last, step)
        self._pieces.death[copy.instance] = step
        for value in self._graph.values_on[transfer.storage]:
            if self._instance_of[value] == copy.instance:
                self._instance_of[value] = _RELEASED

    def _load(self, step: int, transfer: Transfer, copy: StoredCopy | None) -> None:
        if copy is None or copy.release < 0:
            missing = "stored" if copy is None else "released"
            raise _invalid(step, transfer, f"which no step before it has {missing}")
        instance = self._pieces.add(transfer.storage, transfer.bytes, step, step)
        number = len(self._loads)
        load = _Load(transfer, step, instance, copy)
        self._loads.append(load)
        self._unread[number] = load
        for value in transfer.values:
            self._instance_of[value] = _FIRST_LOAD - number

    def _await(self, step: int, number: int) -> int:
        """Let ``step``, on the compute queue, wait for a load; return the instance that it allocated."""
        load = self._loads[number]
        self._unread.pop(number, None)
        self.waits.setdefault(step, []).append(load.step)
        load.copy.last = max(load.copy.last, step)
        for value in load.transfer.values:
            if self._instance_of[value] == _FIRST_LOAD - number:
                self._instance_of[value] = load.instance
        return load.instance


def unavailable(graph: Graph, step: int, reader: str, value: int, *, released: bool = False) -> InvalidScheduleError:
    """The error for a step that reads a value that is not on the device."""
    why = "released before, and neither loaded nor computed again" if released else "not computed by then"
    return InvalidScheduleError(
        f"step {step} runs {reader!r}, which reads {graph.values[value].name!r}: {why}", step=step, op=reader
    )


def _invalid(step: int, transfer: Transfer, fault: str) -> InvalidScheduleError:
    return InvalidScheduleError(f"step {step} runs {transfer.name!r}, {fault}", step=step, op=transfer.name)
