"""What changes torch's state without an operator is refused at its line; what PyTorch's own checkpoint does is not."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils.checkpoint import checkpoint

from remat_planner.tracer import capture
from remat_planner.tracer.errors import CaptureError, RandomStateError, StateReassignedError, UnsupportedOperatorError
from tests.tracer.cases import Written, linear, mean_square, noise

Forward = Callable[[Written, torch.Tensor], Any]


def forked(_: Written, __: torch.Tensor) -> None:
    with torch.random.fork_rng():
        torch.rand(3)


def caught(_: Written, __: torch.Tensor) -> None:
    with contextlib.suppress(RandomStateError):
        torch.manual_seed(3)


RANDOM_STATE: dict[str, tuple[Forward, str]] = {
    "manual_seed": (lambda m, x: torch.manual_seed(3), "torch.random.manual_seed"),
    "seed": (lambda m, x: torch.seed(), "torch.random.seed"),
    "initial_seed": (lambda m, x: torch.initial_seed(), "torch.random.initial_seed"),
    "fork_rng": (forked, "torch.random.fork_rng"),
    "get_rng_state": (lambda m, x: torch.get_rng_state(), "torch.random.get_rng_state"),
    "set_rng_state": (lambda m, x: torch.set_rng_state(m.state), "torch.random.set_rng_state"),
    "of a GPU": (lambda m, x: torch.cuda.manual_seed_all(3), "torch.cuda.manual_seed_all"),
    "default generator": (lambda m, x: torch.default_generator.manual_seed(3), "torch.Generator.manual_seed"),
    "own generator": (lambda m, x: m.own.manual_seed(3), "torch.Generator.manual_seed"),
    "caught": (caught, "torch.random.manual_seed"),
    "called from C": (lambda m, x: list(map(torch.default_generator.manual_seed, [3])), "a function"),
}


def net(change: Forward, **members: Any) -> Written:
    """A model whose forward makes a change."""

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        change(m, h)
        return mean_square(F.dropout(h + m.buffer, 0.3))

    return Written(forward, a=linear(), buffer=torch.zeros(16), **members)


@pytest.mark.parametrize("name", RANDOM_STATE)
def test_the_state_of_a_generator_is_not_read_or_set(name: str):
    change, call = RANDOM_STATE[name]
    model = net(change, own=torch.Generator())
    x = noise()
    model.state = before = torch.get_rng_state()
    with pytest.raises(RandomStateError, match=r"Seed before the step") as caught:
        capture(model, (x,))
    assert caught.value.call == call
    if name != "called from C":
        assert caught.value.source.startswith("tests/tracer/record/test_calls_below_dispatch.py:")
    assert torch.equal(torch.get_rng_state(), before)


class Seeding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        torch.manual_seed(3)
        return gradient * torch.rand(gradient.shape)


def test_a_backward_is_watched_too():
    model = Written(lambda m, x: mean_square(Seeding.apply(m.a(x))), a=linear())
    with pytest.raises(RandomStateError, match=r"the backward calls torch\.random\.manual_seed"):
        capture(model, (noise(),))


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoint_may_set_the_generator_back(reentrant: bool):
    def block(m: Written, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(m.a(x), 0.3)

    model = Written(lambda m, x: mean_square(checkpoint(block, m, m.a(x), use_reentrant=reentrant)), a=linear())
    capture(model, (noise(),))

    def seeding(m: Written, x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return m.a(x)

    model = Written(lambda m, x: mean_square(checkpoint(seeding, m, m.a(x), use_reentrant=reentrant)), a=linear())
    with pytest.raises(RandomStateError):
        capture(model, (noise(),))


MEMORY: dict[str, tuple[Forward, type[CaptureError], str]] = {
    "data of a buffer": (lambda m, x: setattr(m.buffer, "data", x.mean(0)), StateReassignedError, "buffer buffer"),
    "data of a weight": (lambda m, x: setattr(m.a.weight, "data", m.a.weight * 2), StateReassignedError, "parameter a.weight"),
    "data of an activation": (lambda m, x: setattr(x, "data", x * 2), StateReassignedError, "a tensor"),
    "set_": (lambda m, x: m.buffer.set_(x.detach().mean(0)), StateReassignedError, "buffer buffer"),
    "set_ to nothing": (lambda m, x: m.unread.set_(), StateReassignedError, "buffer unread"),
    "set_ to a storage": (
        lambda m, x: m.buffer.set_(x.detach().mean(0).untyped_storage(), 0, (16,)),
        UnsupportedOperatorError,
        "aten.set_.source_Storage_storage_offset",
    ),
    "unsqueeze_": (lambda m, x: m.buffer.unsqueeze_(0), StateReassignedError, "buffer buffer"),
    "resize_": (lambda m, x: m.unread.resize_(7), StateReassignedError, "buffer unread"),
    "resize_ of a storage": (
        lambda m, x: m.buffer.untyped_storage().resize_(128),
        UnsupportedOperatorError,
        "UntypedStorage.resize_",
    ),
    "copy_ of a storage": (
        lambda m, x: m.buffer.untyped_storage().copy_(x.detach().mean(0).untyped_storage()),
        UnsupportedOperatorError,
        "UntypedStorage.copy_",
    ),
    "swap_tensors": (
        lambda m, x: torch.utils.swap_tensors(m.buffer, torch.ones(16)),
        UnsupportedOperatorError,
        "torch.utils.swap_tensors",
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_the_memory_of_a_tensor_is_not_exchanged(name: str):
    change, kind, what = MEMORY[name]
    with pytest.raises(kind, match=r"tests/tracer/record/test_calls_below_dispatch\.py:\d+") as caught:
        capture(net(change, unread=torch.zeros(3)), (noise(),))
    assert what in str(caught.value)


def test_data_may_be_read_and_written_into_and_assigned_to_itself():
    def change(m: Written, x: torch.Tensor) -> None:
        m.buffer.data.mul_(0.9).add_(x.data.mean(0))
        m.a.weight.data = m.a.weight.data

    capture(net(change), (noise(),))
    assert "data" not in vars(torch.Tensor)


def test_a_form_that_is_put_back_is_no_change():
    capture(net(lambda m, x: m.unread.unsqueeze_(0).squeeze_(0), unread=torch.zeros(3)), (noise(),))


def test_a_profiler_of_the_callers_is_on_again_afterwards():
    def profiler(*_: Any) -> None:
        return None

    sys.setprofile(profiler)
    try:
        capture(Written(lambda m, x: mean_square(m.a(x)), a=linear()), (noise(),))
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(None)


def draws_of(model: nn.Module) -> list[tuple[str, torch.Generator | None]]:
    graph = capture(model, (noise(),)).graph.graph
    return [(str(node.target), node.meta.get("generator")) for node in graph.nodes if node.meta.get("random")]


def test_a_draw_from_the_default_generator_is_a_draw_from_none():
    model = net(lambda m, x: x.detach().add_(torch.rand(16, generator=torch.default_generator)))
    assert [generator for _, generator in draws_of(model)] == [None, None]


def test_a_draw_from_an_own_generator_is_recorded_with_it_and_leaves_it_alone():
    own = torch.Generator().manual_seed(3)
    before = own.get_state()
    model = net(lambda m, x: m.buffer.copy_(torch.rand(16, generator=m.own)), own=own)
    drawn, dropped = draws_of(model)
    assert drawn[0] == "aten.rand.generator"
    assert drawn[1] is not None
    assert drawn[1].get_state().equal(before)
    assert dropped[1] is None
    assert own.get_state().equal(before)


GLOBAL = torch.Generator()


@pytest.mark.parametrize("where", ["list", "global", "argument"])
def test_an_own_generator_is_found_anywhere(where: str):
    model = net(lambda m, x: m.buffer.copy_(torch.rand(16, generator=GLOBAL if where == "global" else m.held[0])))
    model.held = [torch.Generator()]
    if where != "argument":
        assert draws_of(model)[0][1] is not None
        return
    with_argument = Written(lambda m, x, g: mean_square(m.a(x) * torch.rand(x.shape, generator=g)), a=linear())
    assert capture(with_argument, (noise(), torch.Generator())).ops


def test_a_generator_that_the_forward_makes_is_refused_at_its_line():
    with pytest.raises(RandomStateError, match="not found in the model, its arguments or globals") as caught:
        capture(net(lambda m, x: m.buffer.copy_(torch.rand(16, generator=torch.Generator()))), (noise(),))
    assert caught.value.source.startswith("tests/tracer/record/test_calls_below_dispatch.py:")
