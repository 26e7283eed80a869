"""After a failure, and after the last reference: nothing of a step stays behind."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.planner.apply import planned_call
from remat_planner.planner.errors import (
    BackwardTwiceError,
)
from tests.planner.runtime.planned_net import (
    Failing,
    equal,
    gradients,
    planned_net,
    same_state,
)


@pytest.mark.slow
@pytest.mark.parametrize(("where", "after"), [("forward", 1), ("forward", 9), ("backward", 3), ("backward", 16)])
def test_a_failure_in_the_middle_leaves_nothing_behind(where: str, after: int):
    ours, eager, x = planned_net()
    buffers = [b.clone() for b in ours.buffers()]
    if where == "forward":
        with pytest.raises(MemoryError), Failing(after):
            ours(x)
    else:
        loss = ours(x)["loss"]
        with pytest.raises(MemoryError), Failing(after):
            loss.backward()
        with pytest.raises(BackwardTwiceError):
            loss.backward()
    ours.zero_grad()
    for buffer, before in zip(ours.buffers(), buffers, strict=True):
        buffer.copy_(before)
    for module in (eager, ours):
        torch.manual_seed(5)
        module(x)["loss"].backward()
    assert equal(gradients(ours), gradients(eager))
    assert same_state(ours, eager)


@pytest.mark.slow
def test_a_failed_replay_leaves_the_generator_as_it_was():
    ours, _, x = planned_net()
    torch.manual_seed(5)
    loss = ours(x)["loss"]
    state = torch.get_rng_state()
    for after in range(40):
        with pytest.raises(MemoryError), Failing(after):
            loss.backward(retain_graph=True)
        assert torch.equal(torch.get_rng_state(), state), after
        if after == 12:
            break


@pytest.mark.slow
def test_dropped_outputs_leave_nothing_alive():
    ours, _, x = planned_net()
    gc.collect()
    gc.disable()
    try:
        output = ours(x)
        models_own = {id(t) for t in (x, *ours.parameters(), *ours.buffers())}
        kept = [weakref.ref(t) for t in output["loss"].grad_fn.state.store if t is not None and id(t) not in models_own]
        assert kept
        del output
        assert [ref for ref in kept if ref() is not None] == []
    finally:
        gc.enable()


@pytest.mark.slow
def test_the_planned_module_is_freed_with_its_last_reference():
    ours, _, x = planned_net()
    ours(x)["loss"].backward()
    parameter = weakref.ref(ours.conv.weight)
    planned_call(ours).programs[0].joint.model = None  # the capture of a live schedule knows its model
    del ours
    assert parameter() is None


@pytest.mark.slow
def test_nothing_of_the_applier_runs_in_a_dispatch_mode():
    ours, _, x = planned_net()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

            assert _get_current_dispatch_mode_stack() == []
            return func(*args, **(kwargs or {}))

    with Seen():
        ours(x)["loss"].backward()
