"""Code that needs addresses: a Function is one operator, anything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from remat_planner.tracer import capture
from remat_planner.tracer.errors import InputsDoNotFitError, UnsupportedOperatorError
from remat_planner.tracer.functions import register_function
from remat_planner.tracer.joint import Joint
from tests.autograd_functions import Sine
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.tracer.launched import Dropped, Reading, Scaled, Tanh, memory

HERE = "tests/tracer/record/test_opaque_functions.py:"


def _captured(between: Callable[[torch.Tensor], torch.Tensor], loss: Callable[[Any], torch.Tensor] | None = None) -> Joint:
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(between(m.a(x)))

    return capture(Written(forward, a=linear()), (noise(),), loss=loss)


def _named(joint: Joint, name: str) -> list[Any]:
    return [node for node in joint.ops if node.target.__name__ == name]


@pytest.mark.slow
def test_a_function_by_address_is_one_operator_each_way():
    joint = _captured(lambda x: Tanh.apply(Scaled.apply(x, 3.0)))
    (forward,) = _named(joint, "Scaled")
    (backward,) = _named(joint, "Scaled_backward")
    assert forward.meta["pinned"].startswith("an autograd.Function that runs as it is (tests.tracer.launched.Scaled)")
    assert not forward.meta["random"]
    assert (forward.meta["phase"], backward.meta["phase"]) == ("forward", "backward")
    assert forward.meta["source"].startswith(HERE)
    assert len(_named(joint, "Tanh")) == 1


def test_apply_that_was_bound_early_is_found():
    bound = Scaled.apply
    assert _named(_captured(bound), "Scaled")


def test_a_registered_function_may_run_again():
    register_function(Scaled, pure=True)
    try:
        (forward,) = _named(_captured(Scaled.apply), "Scaled")
    finally:
        register_function(Scaled, pure=False)
    assert forward.meta["pinned"] is None
    with pytest.raises(TypeError, match=r"torch\.autograd\.Function"):
        register_function(linear, pure=True)  # type: ignore[arg-type]


def test_draws_keep_their_order():
    (forward,) = _named(_captured(Dropped.apply), "Dropped")
    assert forward.meta["random"]


def test_draws_that_a_checkpoint_repeats_are_refused():
    with pytest.raises(UnsupportedOperatorError, match=r"Dropped draws random numbers.*checkpointing of this block off"):
        _captured(lambda x: checkpoint(Dropped.apply, x, use_reentrant=False))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_function_that_fakes_can_run_is_recorded_operator_by_operator(checkpointed: bool):
    joint = _captured((lambda x: checkpoint(Sine.apply, x, use_reentrant=False)) if checkpointed else Sine.apply)
    assert _named(joint, "sin.default")
    assert not _named(joint, "Sine")


def _data_ptr(x: torch.Tensor) -> int:
    return x.data_ptr()


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage().data_ptr()


def _caught(x: torch.Tensor) -> int:
    try:
        return x.data_ptr()
    except UnsupportedOperatorError:
        return 0


@pytest.mark.parametrize("reads", [_data_ptr, _storage, _caught])
def test_an_address_outside_of_a_function_is_refused(reads: Callable[[torch.Tensor], int]):
    with pytest.raises(UnsupportedOperatorError, match=r"asks for the address .*torch.autograd.Function.*custom_op") as caught:
        _captured(lambda x: x * float(reads(x) > 0))
    first = reads.__code__.co_firstlineno
    assert caught.value.source in [f"{HERE}{line}" for line in range(first, first + 4)]
    assert caught.value.operator.endswith("data_ptr")


def test_an_address_that_c_code_reads_is_refused():
    with pytest.raises(UnsupportedOperatorError, match="asks for the address") as caught:
        _captured(lambda x: x * torch.from_dlpack(x.detach()))
    assert caught.value.source.startswith(HERE)


def test_an_address_in_a_hook_of_the_backward_is_refused():
    def between(x: torch.Tensor) -> torch.Tensor:
        x.register_hook(lambda gradient: gradient * float(gradient.data_ptr() > 0))
        return x * 2

    with pytest.raises(UnsupportedOperatorError, match="asks for the address"):
        _captured(between)


class ReadsWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: Any) -> torch.Tensor:
        memory(x)
        return x * module.weight.sum()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def test_a_function_that_reaches_beyond_its_arguments_is_refused():
    other = linear()

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(ReadsWeight.apply(m.a(x), m.b))

    model = Written(forward, a=linear(), b=other)
    weight = other.weight.detach().clone()
    with pytest.raises(
        UnsupportedOperatorError, match=r"ReadsWeight does not run .*not among its arguments.*custom_op"
    ) as caught:
        capture(model, (noise(),))
    assert caught.value.operator.endswith("ReadsWeight")
    assert torch.equal(other.weight, weight)


class OtherObjects(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, note: object) -> torch.Tensor:
        memory(x)
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def test_objects_that_are_new_in_each_recording_are_refused():
    with pytest.raises(UnsupportedOperatorError, match="other objects"):
        _captured(lambda x: OtherObjects.apply(x, object()))


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel for this device")

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_a_function_that_fails_in_eager_fails_here():
    def falls_back(x: torch.Tensor) -> torch.Tensor:
        try:
            return Broken.apply(x)
        except RuntimeError:
            return x.tanh()

    assert _named(_captured(falls_back), "tanh.default")
    with pytest.raises(InputsDoNotFitError, match="no kernel for this device"):
        _captured(Broken.apply)


class BrokenBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such kernel")


def test_a_backward_that_fails_in_eager_fails_here():
    with pytest.raises(UnsupportedOperatorError, match="the backward raised ValueError while it was captured: no such kernel"):
        _captured(BrokenBackward.apply)


def test_a_conjugated_argument_is_refused():
    with pytest.raises(UnsupportedOperatorError, match="conjugates"):
        _captured(lambda x: x * Reading.apply(torch.complex(x, x).conj()).real)


class FailsBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        memory(x)
        return x * 1

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such kernel")


def test_a_sample_that_fails_is_told():
    with pytest.raises(UnsupportedOperatorError, match=r"its backward raised ValueError: no such kernel\. Change that"):
        _captured(FailsBackward.apply)


def test_a_loss_may_launch_kernels_too():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return m.a(x)

    joint = capture(Written(forward, a=linear()), (noise(),), loss=lambda output: Tanh.apply(output).sum())
    assert joint.loss is not None
    assert [node.target.__name__ for node in joint.loss.forward if "Tanh" in node.target.__name__] == ["Tanh"]
    assert [node.target.__name__ for node in joint.loss.backward if "Tanh" in node.target.__name__] == ["Tanh_backward"]


def test_nothing_is_left_patched():
    _captured(Scaled.apply)
    assert "apply" not in vars(torch.autograd.function._SingleLevelFunction)
    assert "data_ptr" not in vars(torch.Tensor)
    assert "data_ptr" not in vars(torch.UntypedStorage)
    assert torch.ones(1).data_ptr()
