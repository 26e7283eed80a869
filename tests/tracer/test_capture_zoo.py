"""The captured step against eager, over the zoo: bits, order of operators, bytes."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from remat_planner.schedules import simulate
from remat_planner.tracer import lower
from remat_planner.tracer.joint.output_tree import flatten
from tests.tracer.replay import replay
from tests.zoo import ZOO, Case, loss_of
from tests.zoo_captures import captured

pytestmark = pytest.mark.parametrize("name", ZOO)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str) -> Case:
    torch.manual_seed(0)
    return ZOO[name]()


@pytest.mark.slow
def test_a_replay_of_the_joint_graph_has_eagers_bits(name: str):
    case, joint = captured(name)
    eager = copy.deepcopy(case.model)

    torch.manual_seed(1)
    output = eager(*case.args, **case.kwargs)
    loss = loss_of(case, output)
    loss.backward()
    after_eager = torch.get_rng_state()
    torch.manual_seed(1)
    ours = replay(joint, case.args, case.kwargs, lambda out: loss_of(case, out))

    assert torch.equal(after_eager, torch.get_rng_state()), "the step draws otherwise than eager"
    assert torch.equal(ours.loss, loss)
    for parameter, gradient in eager.named_parameters():
        mine = ours.parameter_gradients.get(parameter)
        theirs = gradient.grad
        assert (mine is None) == (theirs is None), parameter
        if theirs is not None:
            assert torch.equal(mine, theirs), parameter
            assert mine.stride() == theirs.stride(), parameter
    for (buffer, mine), theirs in zip(case.model.named_buffers(), eager.buffers(), strict=True):
        assert torch.equal(mine, theirs), buffer
    for mine, theirs in zip(pytree.tree_leaves(ours.output), pytree.tree_leaves(output), strict=True):
        if isinstance(theirs, torch.Tensor):
            assert torch.equal(mine, theirs)


# A fake recurrent layer makes an empty workspace; the costs put the measured size in.
_WORKSPACE_OF_UNKNOWN_SIZE = ("lstm", torch.uint8)


@pytest.mark.slow
def test_fake_tensors_have_the_shapes_and_strides_of_the_real_ones(name: str):
    case, joint = captured(name)
    ours = replay(joint, case.args, case.kwargs, lambda out: loss_of(case, out))
    for node, value in ours.values.items():
        if node.op != "call_function":
            continue
        for fake, real in zip(pytree.tree_leaves(node.meta["val"]), pytree.tree_leaves(value), strict=True):
            if isinstance(real, torch.Tensor) and (name, real.dtype) != _WORKSPACE_OF_UNKNOWN_SIZE:
                assert (fake.shape, fake.stride(), fake.device) == (real.shape, real.stride(), real.device), node.format_node()


class _Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


# Reads of values are no work of the step; slices of everything are left out by eager, but not under a trace.
_NOT_WORK = ("aten._local_scalar_dense.default", "aten.lift_fresh.default", "aten.detach.default", "aten.slice.Tensor")
# Autograd goes back through a view that was written to by as_strided, on fake tensors by the view itself; it copies one of two
# equal bias gradients of a recurrent layer.
_MOVED_OTHERWISE = ("in_place_and_views", "lstm")
_MOVES = (
    "aten.as_strided.default",
    "aten.view.default",
    "aten.new_zeros.default",
    "aten.new_empty_strided.default",
    "aten.copy_.default",
)


@pytest.mark.slow
def test_the_capture_runs_eagers_operators_in_eagers_order(name: str):
    _, joint = captured(name)
    ours: dict[bool, list[str]] = {False: [], True: []}
    for operator in joint.operators:
        ours[operator.in_backward].append(operator.name)
    case = build(name)
    with _Operators() as forward:
        output = case.model(*case.args, **case.kwargs)
    leaves, _ = flatten(output)
    outputs = [leaves[i] for i in joint.tangent_outputs]
    arriving = torch.autograd.grad(loss_of(case, output), outputs, retain_graph=True)
    with _Operators() as backward:
        torch.autograd.backward(outputs, arriving)

    assert _work(ours[False], name) == _work(forward.seen, name)
    assert _work(ours[True], name) == _work(backward.seen, name)


def _work(operators: list[str], name: str) -> list[str]:
    ignored = (*_NOT_WORK, *(_MOVES if name in _MOVED_OTHERWISE else ()))
    return [op for op in operators if op not in ignored]


class _Storages(TorchDispatchMode):
    """Bytes of the storages that operators make, at their highest."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known = {t.untyped_storage()._cdata for t in known}
        self.keep = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.known:
                storage = tensor.untyped_storage()
                self.known.add(storage._cdata)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.mark.slow
def test_the_graphs_own_order_peaks_where_eager_does(name: str):
    if name == _WORKSPACE_OF_UNKNOWN_SIZE[0]:
        pytest.skip("the workspace of the fake recurrent layer has no size; tests of the costs cover it")
    _, joint = captured(name)
    case = build(name)
    graph = lower(joint).graph
    predicted = simulate(graph, range(len(graph.ops))).peak_bytes - graph.constant_bytes
    constants = [*case.model.parameters(), *case.model.buffers(), *pytree.tree_leaves((case.args, case.kwargs))]
    gc.collect()
    gc.disable()
    try:
        with _Storages([t for t in constants if isinstance(t, torch.Tensor)]) as meter:
            output = case.model(*case.args, **case.kwargs)
            loss_of(case, output).backward()
    finally:
        gc.enable()
    # Merged and dropped work, and temporaries that eager's C++ holds for longer than it needs them, lower the peak; in-place
    # ops made functional can raise it a little; those on slices with gaps by the gaps, as wide as a row where that is short.
    most = {"gru": 1.03, "lstm_loop": 1.35}.get(name, 1.02)
    assert 0.65 * meter.peak <= predicted <= most * meter.peak
