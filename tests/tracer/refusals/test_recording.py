"""What only the recording discovers is refused with the line, and leaves the model as it was."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import (
    DataDependentError,
    InputsDoNotFitError,
    LostHookError,
    NothingToTrainError,
    UnsupportedOperatorError,
)
from tests.tracer.cases import Written, linear, mean_square, noise

HERE = "tests/tracer/refusals/test_recording.py:"


def test_a_branch_on_activations_names_the_line():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        if h.sum() > 0:
            h = -h
        return mean_square(h)

    with pytest.raises(DataDependentError, match="depends on parameters") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.source == f"{HERE}{forward.__code__.co_firstlineno + 2}"
    assert caught.value.operator == "aten._local_scalar_dense.default"


def test_a_branch_on_a_draw_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) if torch.rand(()) < 0.5 else m.a(x).sum()

    with pytest.raises(DataDependentError, match="random draws"):
        capture(Written(forward, a=linear()), (noise(),))


def test_a_draw_of_pythons_own_generator_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) * random.random()

    with pytest.raises(DataDependentError, match="Python or NumPy"):
        capture(Written(forward, a=linear()), (noise(),))


def test_a_view_of_a_storage_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(torch.empty(0).set_(x.untyped_storage()).view(x.shape)))

    with pytest.raises(UnsupportedOperatorError, match="cuDNN") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.source == f"{HERE}{forward.__code__.co_firstlineno + 1}"


def test_a_size_that_depends_on_activations_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(h[h > 0])

    with pytest.raises(DataDependentError, match="size of the result") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.source.startswith(HERE)


def test_a_value_read_through_numpy_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) * float(m.a(x).detach().numpy().sum())

    with pytest.raises(DataDependentError) as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.source.startswith(HERE)


def test_a_branch_on_an_input_without_values_is_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) if mask.all() else m.a(x).sum()

    with FakeTensorMode():
        model, x, mask = Written(forward, a=linear()), noise(), torch.ones(4, dtype=torch.bool)
    with pytest.raises(DataDependentError, match="pass a real tensor"):
        capture(model, (x, mask))
    assert capture(model, (x, torch.ones(4, dtype=torch.bool))).guards.all[0].expected is True


def _observes(*_: Any) -> None: ...


@pytest.mark.parametrize(
    ("register", "kind"),
    [
        (lambda m: m.a.register_forward_hook(_observes), "forward hook of a"),
        (lambda m: m.a.register_forward_hook(lambda _, __, output: output), "forward hook of a"),
        (lambda m: m.a.register_forward_pre_hook(_observes), "forward pre hook of a"),
        (lambda m: m.a.register_forward_pre_hook(lambda _, args: args), "forward pre hook of a"),
        (lambda m: m.b.register_full_backward_hook(_observes), "backward hook of b"),
        (lambda m: m.b.register_full_backward_pre_hook(_observes), "backward pre hook of b"),
        (lambda m: m.register_forward_hook(_observes), "forward hook of the model"),
    ],
)
def test_a_hook_that_only_observes_is_named(register: Any, kind: str):
    model = Written(lambda m, x: mean_square(m.b(torch.tanh(m.a(x)))), a=linear(), b=linear())
    handle = register(model)
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    with pytest.raises(LostHookError, match=rf"{kind} \(.*handle\.remove") as caught:
        capture(model, (noise(),))
    assert caught.value.names[0].startswith(kind)
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    handle.remove()
    assert capture(model, (noise(),)).hooks == ()


def test_a_hook_of_a_tensor_that_only_observes_is_named():
    own = torch.Tensor.register_hook

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        h.register_hook(_observes)
        return mean_square(h)

    with pytest.raises(LostHookError, match=rf"hook of a tensor in {HERE}\d+ \(_observes\)") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert len(caught.value.names) == 1
    assert torch.Tensor.register_hook is own


def test_a_model_without_a_differentiable_output_is_refused():
    with pytest.raises(NothingToTrainError, match="no output"):
        capture(Written(lambda m, x: m.a(x).detach(), a=linear()), (noise(),))
    with pytest.raises(NothingToTrainError, match="str"):
        capture(Written(lambda m, x: str(m.a(x).shape), a=linear()), (noise(),))


def test_inputs_that_do_not_fit_keep_the_cause(caplog: pytest.LogCaptureFixture):
    with pytest.raises(InputsDoNotFitError, match=r"\[4, 5\]") as caught:
        capture(Written(lambda m, x: mean_square(m.a(x)), a=linear()), (noise(4, 5),))
    assert caught.value.source.startswith(HERE)
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert not [record for record in caplog.records if record.levelname == "ERROR"], "its traceback is in the cause"
    with pytest.raises(InputsDoNotFitError, match="missing"):
        capture(linear())


@pytest.mark.slow
def test_sparse_gradients_are_refused():
    model = Written(lambda m, i: mean_square(m.e(i)), e=nn.Embedding(10, 4, sparse=True))
    with pytest.raises(UnsupportedOperatorError, match=r"[Ss]parse"):
        capture(model, (torch.tensor([1, 2]),))


def test_a_constant_with_a_nan_is_the_same_in_the_second_recording():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(torch.where(x > 0, m.a(x), torch.tensor([torch.nan, 0.0]).nan_to_num(1.0)[0]))

    assert capture(Written(forward, a=linear()), (noise(),)).ops


def test_a_buffer_that_takes_part_in_the_gradient_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        m.memory.add_(m.a(x).mean(0))
        return mean_square(m.memory)

    with pytest.raises(UnsupportedOperatorError, match="memory"):
        capture(Written(forward, a=linear(), memory=torch.zeros(16)), (noise(),))


def test_a_failed_capture_leaves_the_model_as_it_was():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        m.count += 1
        return mean_square(m.a(x)) if m.a(x).sum() > 0 else m.a(x).sum()

    model = Written(forward, a=linear(), count=0)
    weight = model.a.weight
    state = torch.get_rng_state()
    with pytest.raises(DataDependentError):
        capture(model, (noise(),))
    assert model.a.weight is weight
    assert model.count == 0
    model(noise())
    assert not torch.equal(state, torch.get_rng_state())  # only by this test's own draws


def test_a_write_without_a_functional_form_is_refused_at_its_line():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x).clone()
        h.t()[:4].fill_diagonal_(0.0)
        return mean_square(h)

    with pytest.raises(UnsupportedOperatorError, match=r"test_recording.py:\d+: aten.fill_.* as_strided.* clone") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.operator == "aten.fill_.Scalar"


@torch.library.custom_op("tests_refusals::without_fake", mutates_args=())
def without_fake(x: torch.Tensor) -> torch.Tensor:
    return x[x > 0.5].clone()


@torch.library.custom_op("tests_refusals::without_fake_in_backward", mutates_args=())
def without_fake_in_backward(x: torch.Tensor) -> torch.Tensor:
    return x.sin()


without_fake_in_backward.register_fake(torch.empty_like)
without_fake_in_backward.register_autograd(lambda _, gradient: without_fake(gradient))


@pytest.mark.parametrize("operator", [without_fake, without_fake_in_backward])
def test_an_operator_without_a_fake_whose_results_have_a_form_by_values_is_refused(operator: Any):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(operator(m.a(x)))

    with pytest.raises(UnsupportedOperatorError, match=r"without_fake.*depends on values.*register_fake.*regions"):
        capture(Written(forward, a=linear()), (noise(),))


def test_a_backward_that_reaches_no_parameter_is_refused():
    with pytest.raises(NothingToTrainError, match="gives no parameter and no input a gradient"):
        capture(Written(lambda m, x: m.a(x).norm(p=0), a=linear()), (noise(),))


@pytest.mark.parametrize("multiply", [torch.mm, lambda x, y: torch.nn.functional.linear(x, y), torch.matmul])
def test_factors_of_different_dtypes_are_the_models_error_as_in_eager(multiply: Any):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(multiply(x, torch.eye(16))))

    with pytest.raises(InputsDoNotFitError, match=r"test_recording.py:\d+.*same dtype, but got torch.int64, torch.float32"):
        capture(Written(forward, a=linear()), (torch.ones(4, 16, dtype=torch.long),))
