"""Each step that cannot be captured is refused with an error that says what, where, and carries its data."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import CaptureError, capture
from remat_planner.tracer.errors import (
    DataDependentError,
    InputsDoNotFitError,
    LossError,
    LostHookError,
    ModelNotSupportedError,
    NothingToTrainError,
    PythonStateError,
    StateReassignedError,
    UnsupportedOperatorError,
)
from tests.tracer.cases import Written, linear, mean_square, noise

HERE = "tests/tracer/test_capture_errors.py:"


def test_every_error_is_a_capture_error():
    for error in (
        DataDependentError,
        InputsDoNotFitError,
        LossError,
        LostHookError,
        ModelNotSupportedError,
        NothingToTrainError,
        PythonStateError,
        StateReassignedError,
        UnsupportedOperatorError,
    ):
        assert issubclass(error, CaptureError)


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


def test_a_value_taken_out_through_numpy_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) * float(x.numpy().sum())

    with pytest.raises(DataDependentError) as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert caught.value.source.startswith(HERE)


def test_an_input_without_values_cannot_be_branched_on():
    from torch._subclasses.fake_tensor import FakeTensorMode

    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)) if mask.all() else m.a(x).sum()

    with FakeTensorMode():
        model, x, mask = Written(forward, a=linear()), noise(), torch.ones(4, dtype=torch.bool)
    with pytest.raises(DataDependentError, match="pass a real tensor"):
        capture(model, (x, mask))
    assert capture(model, (x, torch.ones(4, dtype=torch.bool))).guards[0].expected is True


@pytest.mark.parametrize("kind", ["buffer", "parameter", "attribute"])
def test_state_that_the_forward_replaces_is_named(kind: str):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x) + (m.kept[0] if kind == "attribute" else m.kept)
        if kind == "parameter":
            m.kept = nn.Parameter(h.detach().mean(0))
        else:
            m.kept = h.detach().mean(0)[None] if kind == "attribute" else h.detach().mean(0)
        return mean_square(h)

    model = Written(forward, a=linear())
    if kind == "buffer":
        model.register_buffer("kept", torch.zeros(16))
    elif kind == "parameter":
        model.kept = nn.Parameter(torch.zeros(16))
    else:
        model.__dict__["kept"] = torch.zeros(1, 16)
    before = model.kept
    with pytest.raises(StateReassignedError, match="kept") as caught:
        capture(model, (noise(),))
    assert caught.value.names == ("kept",)
    assert model.kept is before


def _counter(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.state += 1
    return mean_square(m.a(x))


def _counter_that_scales(m: Written, x: torch.Tensor) -> torch.Tensor:
    m.state += 1
    return mean_square(m.a(x)) * m.state


def _first_time(m: Written, x: torch.Tensor) -> torch.Tensor:
    scale, m.state = (1.0, 1) if m.state else (2.0, 1)
    return mean_square(m.a(x)) * scale


def _last_time(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    h, m.memory = (h if m.memory is None else h + m.memory), h.detach()
    return mean_square(h)


def _last_time_with_its_gradient(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    h, m.memory = (h if m.memory is None else h + m.memory), h
    return mean_square(h)


def _history(m: Written, x: torch.Tensor) -> torch.Tensor:
    h = m.a(x)
    m.seen.append(h.detach().mean())
    return mean_square(h)


@pytest.mark.parametrize(
    ("forward", "name"),
    [
        (_counter, "state"),
        (_counter_that_scales, "state"),
        (_first_time, "state"),
        (_last_time, "memory"),
        (_last_time_with_its_gradient, "memory"),
        (_history, "seen"),
    ],
)
def test_python_state_that_changes_from_step_to_step_is_named(forward: Any, name: str):
    inner = Written(forward, a=linear(), state=0, memory=None, seen=[])
    model = Written(lambda m, x: m.inner(x) + mean_square(m.b(x)), b=linear(), inner=inner)
    with pytest.raises(PythonStateError, match=rf"inner\.{name}\. .*register_buffer") as caught:
        capture(model, (noise(),))
    assert caught.value.names == (f"inner.{name}",)
    assert (inner.state, inner.memory, inner.seen) == (0, None, [])


def test_python_state_that_settles_or_is_not_read_again_is_accepted():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        m.kept, m.shape, m.state = h.mean(), tuple(x.shape), 7
        return mean_square(h) + m.kept

    model = Written(forward, a=linear(), kept=None, shape=None, state=0)
    notes = capture(model, (noise(),)).warnings
    assert [note.split(";")[0].split()[-1] for note in notes] == ["kept", "shape", "state"]


def _looks_on(*_: Any) -> None: ...


@pytest.mark.parametrize(
    ("register", "kind"),
    [
        (lambda m: m.a.register_forward_hook(_looks_on), "forward hook of a"),
        (lambda m: m.a.register_forward_hook(lambda _, __, output: output), "forward hook of a"),
        (lambda m: m.a.register_forward_pre_hook(_looks_on), "forward pre hook of a"),
        (lambda m: m.a.register_forward_pre_hook(lambda _, args: args), "forward pre hook of a"),
        (lambda m: m.b.register_full_backward_hook(_looks_on), "backward hook of b"),
        (lambda m: m.b.register_full_backward_pre_hook(_looks_on), "backward pre hook of b"),
        (lambda m: m.register_forward_hook(_looks_on), "forward hook of the model"),
    ],
)
def test_a_hook_that_only_looks_on_is_named(register: Any, kind: str):
    model = Written(lambda m, x: mean_square(m.b(torch.tanh(m.a(x)))), a=linear(), b=linear())
    handle = register(model)
    hooks = [dict(module._forward_hooks) for module in model.modules()]
    with pytest.raises(LostHookError, match=rf"{kind} \(.*handle\.remove") as caught:
        capture(model, (noise(),))
    assert caught.value.names[0].startswith(kind)
    assert [dict(module._forward_hooks) for module in model.modules()] == hooks
    handle.remove()
    assert capture(model, (noise(),)).hooks == ()


def test_a_hook_of_a_tensor_that_only_looks_on_is_named():
    own = torch.Tensor.register_hook

    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        h.register_hook(_looks_on)
        return mean_square(h)

    with pytest.raises(LostHookError, match=rf"hook of a tensor in {HERE}\d+ \(_looks_on\)") as caught:
        capture(Written(forward, a=linear()), (noise(),))
    assert len(caught.value.names) == 1
    assert torch.Tensor.register_hook is own


def test_a_parameter_reached_through_a_closure_is_refused():
    other = linear()
    with pytest.raises(ModelNotSupportedError, match="closure"):
        capture(Written(lambda m, x: mean_square(other(m.a(x))), a=linear()), (noise(),))


def test_no_parameter_to_train():
    with pytest.raises(NothingToTrainError, match="requires a gradient"):
        capture(linear().requires_grad_(False), (noise(),))
    with pytest.raises(NothingToTrainError, match="requires a gradient"):
        capture(nn.ReLU(), (noise(),))


def test_no_output_that_can_be_differentiated():
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


def test_arguments_that_are_no_tuple_and_no_dictionary():
    with pytest.raises(InputsDoNotFitError, match=r"\(x,\)"):
        capture(linear(), noise())  # type: ignore[arg-type]
    with pytest.raises(InputsDoNotFitError, match="dictionary"):
        capture(linear(), (), [noise()])  # type: ignore[arg-type]


def test_tensors_hidden_in_an_input_are_refused():
    class Batch:
        def __init__(self) -> None:
            self.x = noise()

    with pytest.raises(InputsDoNotFitError, match="Batch"):
        capture(Written(lambda m, batch: mean_square(m.a(batch.x)), a=linear()), (Batch(),))


@pytest.mark.parametrize(
    ("loss", "shape", "text"),
    [
        (lambda output: output, (4, 16), "one number"),
        (lambda output: output.sum().item() * 0 + 1.0, None, None),
        (lambda output: 3.0, None, "float"),
        (lambda output: output.detach().sum(), (), "detached"),
        (lambda output: torch.zeros((), requires_grad=True) + 1, (), "no output"),
    ],
)
def test_a_loss_that_is_no_differentiable_scalar(loss: Any, shape: tuple[int, ...] | None, text: str | None):
    if text is None:
        with pytest.raises(DataDependentError, match="the loss reads a value"):
            capture(linear(), (noise(),), loss=loss)
        return
    with pytest.raises(LossError, match=text) as caught:
        capture(linear(), (noise(),), loss=loss)
    assert caught.value.shape == shape


def test_a_models_own_loss_that_is_no_scalar():
    with pytest.raises(LossError, match=r"\[4, 16\]"):
        capture(Written(lambda m, x: {"loss": m.a(x)}, a=linear()), (noise(),))


def test_sparse_gradients_are_refused():
    model = Written(lambda m, i: mean_square(m.e(i)), e=nn.Embedding(10, 4, sparse=True))
    with pytest.raises(UnsupportedOperatorError, match=r"[Ss]parse"):
        capture(model, (torch.tensor([1, 2]),))


def test_a_buffer_that_takes_part_in_the_gradient_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        m.memory.add_(m.a(x).mean(0))
        return mean_square(m.memory)

    with pytest.raises(UnsupportedOperatorError, match="memory"):
        capture(Written(forward, a=linear(), memory=torch.zeros(16)), (noise(),))


def test_what_is_no_module():
    with pytest.raises(ModelNotSupportedError) as caught:
        capture(nn.Linear, (noise(),))  # type: ignore[arg-type]
    assert caught.value.kind == "type"


def test_compiled_models_are_refused():
    with pytest.raises(ModelNotSupportedError, match="_orig_mod") as caught:
        capture(torch.compile(linear()), (noise(),))
    assert caught.value.kind == "torch.compile"


def test_data_parallel_models_are_refused():
    with pytest.raises(ModelNotSupportedError, match="module 'inner'") as caught:
        capture(Written(lambda m, x: mean_square(m.inner(x)), inner=nn.DataParallel(linear())), (noise(),))
    assert caught.value.kind == "DataParallel"


@pytest.fixture
def process_group(tmp_path: Any) -> Any:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield distributed
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_is_refused():
    with pytest.raises(ModelNotSupportedError, match="all-reduce") as caught:
        capture(nn.parallel.DistributedDataParallel(linear()), (noise(),))
    assert caught.value.kind == "DistributedDataParallel"


@pytest.mark.usefixtures("process_group")
def test_sharded_models_are_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import distribute_module

    mesh = init_device_mesh("cpu", (1,))
    with pytest.raises(ModelNotSupportedError) as caught:
        capture(fully_shard(linear(), mesh=mesh), (noise(),))
    assert caught.value.kind == "fully_shard"
    with pytest.raises(ModelNotSupportedError) as caught:
        capture(distribute_module(linear(), mesh), (noise(),))
    assert caught.value.kind == "DTensor"


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
