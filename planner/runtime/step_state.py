"""One forward of a program and its backwards: the store between them, and the segments that run for autograd.

Autograd calls first the nodes of the outputs, each of which brings the gradients that arrive there, then the nodes that hand
gradients over. The first of these begins the backward: from here on it is known which gradients arrive. Each runs the segments
up to its own.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from operator import attrgetter
from typing import Any

import torch

from remat_planner.planner.codegen import Backward, Code, Handover, UndecidedError
from remat_planner.planner.copies import StepPools
from remat_planner.planner.distributed import in_process_group
from remat_planner.planner.errors import (
    BackwardTwiceError,
    ChangedInBetweenError,
    DoubleBackwardError,
    MissingGradientError,
    OutputHookError,
    TransformError,
    UnexpectedGradientError,
)
from remat_planner.planner.runtime.shared_memory import SharedMemory
from remat_planner.planner.runtime.wiring import Wiring
from remat_planner.planner.torch_private import below_autograd, current_backward, graph_is_kept, stands_for_many

Gradients = tuple[torch.Tensor | None, ...]


_version = attrgetter("_version")
_address = torch.Tensor.data_ptr


def _is_users_hook(hook: Any) -> bool:
    """Whether ``hook`` is neither PyTorch's own, as that with which ``fully_shard`` gathers parameters and which takes no
    gradient, nor the planner's, which notes how gradients arrive at a region from outside.
    """
    return not str(getattr(getattr(hook, "func", hook), "__module__", "")).startswith(("torch.", "remat_planner."))


class StepState:
    """State of one forward and its backwards.

    Attributes:
        wiring: the program.
        on_backward: called when a backward begins.
        token: the gradient of a link between two autograd nodes.
        outputs: what the forward returned, until autograd knows it.
        returned: the returned tensors that the forward reads itself, by position, as long as they are alive.
        store: what the forward retains for the backward; None once it is freed.
        versions: version counters, after the forward, of what must not change until the backward.
        memory: where that lies; to assign to ``x.data`` is no change of version.
        shared: outputs that lie in one storage.
        running: the backward that runs, or the last one that ran.
        not_taken: gradients of a backward that keeps the graph and did not want them, by handover.
        pools: where the step copies to, until the last backward begins; None where it copies nothing.
    """

    __slots__ = (
        "memory",
        "not_taken",
        "on_backward",
        "outputs",
        "pools",
        "returned",
        "running",
        "shared",
        "store",
        "token",
        "versions",
        "wiring",
    )

    def __init__(self, wiring: Wiring, on_backward: Callable[[], None] | None = None, pools: StepPools | None = None) -> None:
        self.wiring = wiring
        self.pools = pools
        self.on_backward = on_backward
        self.token = wiring.token
        self.outputs: list[torch.Tensor] = []
        self.returned: list[tuple[int, weakref.ref[torch.Tensor]]] = []
        self.store: list[Any] | None = None
        self.versions: list[int] = []
        self.memory: list[int] = []
        self.shared: tuple[SharedMemory, ...] = ()
        self.running: _RunningBackward | None = None
        self.not_taken: dict[int, Gradients] = {}

    def run_forward(self, arguments: list[Any]) -> None:
        """Run the forward on parameters, buffers and inputs; the call empties the list."""
        program = self.wiring.program
        if self.pools is not None:
            arguments.append(self.pools)
        outputs, retained = _execute(program.run_forward, arguments)
        store: list[Any] = [None] * program.backwards.whole.store_size
        for place, value in zip(program.writes, retained, strict=True):
            store[place] = value
        self.store = store
        self.versions = self._versions_in(store)
        self.memory = self._memory_in(store)
        self.outputs = list(outputs)
        self.shared = tuple(SharedMemory(outputs, sharing) for sharing in program.sharing)

    def take_outputs(self) -> tuple[torch.Tensor, ...]:
        """The outputs, with their history."""
        outputs, self.outputs = self.outputs, []
        self.returned = [(position, weakref.ref(outputs[position])) for position in self.wiring.read_inside]
        return tuple(outputs)

    def _versions_in(self, store: list[Any]) -> list[int]:
        return list(map(_version, map(store.__getitem__, self.wiring.unchanged_places)))

    def _memory_in(self, store: list[Any]) -> list[int]:
        # In a process group parameters may be gathered anew, elsewhere (``fully_shard``).
        return [] if in_process_group() else list(map(_address, map(store.__getitem__, self.wiring.unchanged_places)))

    def receive(self, positions: Sequence[int], gradients: Gradients) -> None:
        """Take the gradients that arrive at the outputs at ``positions``.

        Raises:
            TransformError: the backward is called inside of ``vmap``.
            DoubleBackwardError: the backward is to be differentiated.
            BackwardTwiceError: the activations are freed.
            UnexpectedGradientError: the plan expects no gradient at an output, or none any more in this backward.
        """
        if any(gradient is not None and stands_for_many(gradient) for gradient in gradients):
            raise TransformError(
                "the backward of a planned module is called for many gradients at once (is_grads_batched=True, vmap), which "
                "cannot pass through it: call it for each, or take the plan off with remat_planner.remove_schedule"
            )
        if torch.is_grad_enabled():
            raise DoubleBackwardError(
                "create_graph=True asks for gradients of gradients, but a planned module covers one forward and one backward: "
                "call the backward without it, or take the plan off with remat_planner.remove_schedule"
            )
        arrived = {position: gradient for position, gradient in zip(positions, gradients, strict=True) if gradient is not None}
        running, number = self.running, current_backward()
        if running is None or running.number != number:
            if self.store is None:
                raise BackwardTwiceError(
                    "a second backward through the same forward of a planned module: its activations are freed. Call the first "
                    "backward with retain_graph=True, or run the forward again"
                )
            running = self.running = _RunningBackward(number)
            self.not_taken = {}
        for position in arrived:
            if running.backward is not None or not self.wiring.incoming[position]:
                raise self._unexpected(position)
        running.arrived.update(arrived)

    def hand_over(self, handover: Handover) -> Gradients:
        """The gradients of one of the program's handovers.

        Raises:
            BackwardError: the backward cannot run; the subclasses say why.
        """
        running = self.running
        if running is None or running.number != current_backward():
            if handover.number in self.not_taken:
                return self.not_taken.pop(handover.number)
            raise BackwardTwiceError(
                "the backward of a planned module was entered in the middle: call it from the outputs, or run the forward again"
            )
        if running.backward is None:
            self._begin(running)
        while running.next_segment <= handover.segment:
            self._run_segment(running)
        if handover.positions is None:
            return running.left.pop(handover.segment)
        left = list(running.left[handover.segment])
        gradients = tuple(left[k] for k in handover.positions)
        for k in handover.positions:
            left[k] = None
        running.left[handover.segment] = tuple(left)
        return gradients

    def _refuse_hooks(self, position: int, output: torch.Tensor | None) -> None:
        """Raise where somebody wants the gradient of an output that the forward reads itself: autograd knows a part of it."""
        if output is None or not (output.retains_grad or any(map(_is_users_hook, (output._backward_hooks or {}).values()))):
            return
        name = self.wiring.output_names[position]
        what = "retain_grad() of" if output.retains_grad else "a hook on"
        raise OutputHookError(
            f"{what} the output {name} would see only the gradient from outside of the planned forward, which computes other "
            "outputs from it. Take the plan off where you look at such gradients (remat_planner.remove_schedule), or return a "
            "copy that is used nowhere else",
            output=name,
        )

    def _unexpected(self, position: int) -> UnexpectedGradientError:
        name = self.wiring.output_names[position]
        if not self.wiring.incoming[position]:
            return UnexpectedGradientError(
                f"a gradient arrived at the output {name}, to which the planned loss sends none. Plan with the loss that "
                "you train with: plan(..., loss=...) or budgeted(..., loss=...)",
                output=name,
            )
        return UnexpectedGradientError(
            f"a gradient arrived at the output {name} when the backward of the planned module had begun with the gradients "
            "of other outputs, since the loss was computed on another device or in another thread. Compute it where the "
            "outputs are",
            output=name,
        )

    def _begin(self, running: _RunningBackward) -> None:
        """All gradients have arrived: put them into the store, and choose the backward that they need."""
        wiring, store = self.wiring, self.store
        if store is None:
            raise BackwardTwiceError(
                "the backward of a planned module was entered again after a failure: run the forward again"
            )
        backward = self._backward_for(running.arrived)
        if self._versions_in(store) != self.versions or self._memory_in(store) != self.memory:
            self._check_unchanged(backward.unchanged, "between the forward and the backward, which reads it")
        for position, reference in self.returned:
            self._refuse_hooks(position, reference())
        for memory in self.shared:
            memory.refuse_changes(running.arrived, wiring.output_names, self)
        if self.on_backward is not None:
            self.on_backward()
        live = [*store, *[None] * (backward.store_size - len(store))]
        if not graph_is_kept():
            self.store = self.pools = None
        elif self.pools is not None:
            for pool in self.pools.values():
                pool.keep_copies()
        for place in backward.unread:
            live[place] = None
        while running.arrived:
            position, gradient = running.arrived.popitem()
            # Where the tensor is in several places of the output, autograd has added up its gradients: the first gets the sum.
            expected = wiring.incoming[position][0]
            if expected.place is not None and expected.place not in backward.unread:
                live[expected.place] = expected.layout.fit(gradient)
        running.backward, running.live = backward, live

    def _backward_for(self, arrived: Collection[int]) -> Backward:
        wiring = self.wiring
        if len(arrived) == len(wiring.program.tangents):
            return wiring.program.backwards.whole
        present = [wiring.incoming[position][0].tangent for position in arrived]
        missing = frozenset(range(len(wiring.program.tangents))).difference(present)
        try:
            return wiring.program.backwards.without(missing)
        except UndecidedError as error:
            without = [
                name
                for position, name in enumerate(wiring.output_names)
                if wiring.incoming[position] and position not in arrived
            ]
            raise MissingGradientError(
                f"a gradient arrives at {', '.join(wiring.output_names[k] for k in arrived)} and none at {', '.join(without)}, "
                f"and what PyTorch does then cannot be planned ({error}). Plan with the loss that you train with: "
                "plan(..., loss=...)",
                outputs=tuple(without),
            ) from None

    def _run_segment(self, running: _RunningBackward) -> None:
        assert running.backward is not None
        live = running.live
        if live is None:
            raise BackwardTwiceError("the backward of a planned module goes on after a failure: run the forward again")
        number = running.next_segment
        segment = running.backward.segments[number]
        if number and segment.unchanged:
            self._check_unchanged(segment.unchanged, "during the backward, which still reads it", live)
        values = [live[place] for place in segment.reads]
        for place in segment.clears:
            live[place] = None
        running.next_segment += 1
        try:
            gradients, retained = _execute(segment.run, values)
        except BaseException:
            running.live = None
            raise
        for place, value in zip(segment.writes, retained, strict=True):
            live[place] = value
        running.left[number] = gradients
        if running.next_segment == len(running.backward.segments):
            running.live = None

    def _check_unchanged(self, indices: Sequence[int], when: str, store: list[Any] | None = None) -> None:
        store = self.store if store is None else store
        assert store is not None
        tensors = [store[self.wiring.unchanged_places[k]] for k in indices]
        changed = self._differing(indices, list(map(_version, tensors)), self.versions)
        if self.memory:
            changed += self._differing(indices, list(map(_address, tensors)), self.memory)
        if not changed:
            return
        names = tuple(dict.fromkeys(self.wiring.unchanged_names[k] for k in changed))
        raise ChangedInBetweenError(
            f"changed in place {when}: {', '.join(names)}. Change it after the backward, or change a clone", names=names
        )

    @staticmethod
    def _differing(indices: Sequence[int], now: list[int], before: Sequence[int]) -> list[int]:
        """Those of ``indices`` whose numbers ``now`` are not those of ``before``. All are compared in C first."""
        then = list(map(before.__getitem__, indices))
        return [] if now == then else [k for k, one, other in zip(indices, now, then, strict=True) if one != other]


class _RunningBackward:
    """A backward under way.

    Attributes:
        number: of autograd's backward.
        arrived: the gradients, by position of the output, until it begins.
        backward: what it runs; None until it begins.
        live: its store; None before it begins, once it is over, and after a failure.
        next_segment: the one that runs next.
        left: what has left each segment and waits for its handover.
    """

    __slots__ = ("arrived", "backward", "left", "live", "next_segment", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.arrived: dict[int, torch.Tensor] = {}
        self.backward: Backward | None = None
        self.live: list[Any] | None = None
        self.next_segment = 0
        self.left: dict[int, Gradients] = {}


def _execute(code: Code, values: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Run generated code without autograd's records and without autocast, whose casts were captured.

    Grad mode is on as in eager's forward, because some kernels depend on it: oneDNN's LSTM keeps its workspace only then.
    """
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return _execute(code, values)
    with torch.enable_grad(), below_autograd():
        return code(values)
