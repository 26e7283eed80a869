"""A model that inductor compiles within a budget: measured peaks, gradients, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import remat_planner
from remat_planner.planner.measurement import measure_peak
from remat_planner.planner.partition import backend as backends


class Perceptron(nn.Module):
    """Residual layers with dropout."""

    def __init__(self, layers: int = 3, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + nn.functional.dropout(torch.tanh(layer(x)), 0.5)
        return x.pow(2).mean()


class Residual(Perceptron):
    """Without random draws."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            y = torch.tanh(layer(x))
            x = x + y * torch.sigmoid(y)
        return x.pow(2).mean()


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_compiled():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


def gradients(called: nn.Module, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    called(x).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.slow
def test_the_measured_step_is_within_the_budget_and_its_masks_are_replayed():
    torch.manual_seed(0)
    model, x = Perceptron(), torch.randn(1024, 64)
    state, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    compiled = remat_planner.compile(model, (x,), budget="85%")
    step = remat_planner.compiled_step(compiled)
    assert all(map(torch.equal, state.values(), model.state_dict().values()))
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert step.measured_peak_bytes <= step.budget_bytes
    assert step.predicted_peak_bytes == pytest.approx(step.measured_peak_bytes, rel=0.03)
    assert step.parts[0].recomputed
    assert step.largest_difference is None  # it draws masks
    ours = [gradient.clone() for gradient in gradients(compiled, model, x)]
    torch._dynamo.reset()
    theirs = gradients(torch.compile(model, dynamic=False), model, x)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_schedule_for_a_compiler_is_refused_and_the_way_is_named():
    with pytest.raises(remat_planner.CompilerError, match=r"remat_planner\.compile\(model.*apply_schedule") as caught:
        remat_planner.plan(Perceptron(), (torch.randn(2, 64),), budget="80%", compiler="inductor")
    assert caught.value.compiler == "inductor"


def test_a_model_that_has_a_schedule_is_refused():
    model, x = Perceptron(1), torch.randn(2, 64)
    applied = remat_planner.apply_schedule(model, remat_planner.plan(model, (x,), budget="100%"))
    with pytest.raises(remat_planner.AlreadyAppliedError, match="remove_schedule"):
        remat_planner.compile(applied, (x,), budget="80%")


def test_a_model_that_torch_compile_leaves_as_it_is_is_refused():
    class Kept(Perceptron):
        @torch.compiler.disable
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    with pytest.raises(remat_planner.CompilerError, match=r"no graph of this Kept.*explain"):
        remat_planner.compile(Kept(), (torch.randn(2, 64),), budget="80%")


@pytest.mark.slow
def test_a_range_of_sizes_is_compiled_at_the_largest_and_smaller_ones_take_less():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(1024, 64)
    compiled = remat_planner.compile(model, (x,), budget="80%", shapes="rows=2..1024")
    step = remat_planner.compiled_step(compiled)
    assert not vars(x)  # Dynamo's marks are on copies
    assert step.parts[0].recomputed
    assert step.measured_peak_bytes <= step.budget_bytes
    constant = sum(parameter.nbytes for parameter in model.parameters())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in (1024, 700, 65):
            x = torch.randn(rows, 64)
            ours = [gradient.clone() for gradient in gradients(compiled, model, x)]
            for one, other in zip(ours, gradients(model, model, x), strict=True):
                torch.testing.assert_close(one, other)
            model.zero_grad()
            assert constant + x.nbytes + measure_peak(lambda x=x: compiled(x).backward()) <= step.budget_bytes


def test_a_model_for_one_size_is_refused_a_range():
    class Fixed(Perceptron):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.shape[0] == 8 else x.sum()

    with pytest.raises(remat_planner.ShapesError, match=r"this Fixed for fewer sizes than rows=2\.\.8: leave shapes out"):
        remat_planner.compile(Fixed(1), (torch.randn(8, 64),), budget="100%", shapes="rows=2..8")


def test_each_shape_counts_its_own_inputs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backends, "compiled_with", lambda *_: lambda *_: (torch.zeros((), requires_grad=True),))
    backend = remat_planner.budgeted_backend("1GB")
    compiled = torch.compile(Perceptron(1), backend=backend, dynamic=False)
    inputs = [torch.randn(rows, 64) for rows in (4, 8)]
    for x in inputs:
        compiled(x)
        assert backend.constant_bytes == 4 * (64 * 64 + 64) + x.nbytes


def test_the_last_form_that_is_compiled_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """For the next ones ``torch.compile`` runs eager, above the budget."""
    monkeypatch.setattr(backends, "compiled_with", lambda *_: lambda *_: (torch.zeros((), requires_grad=True),))
    compiled = torch.compile(Perceptron(1), backend=remat_planner.budgeted_backend("1GB"), dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2), caplog.at_level("WARNING", "remat_planner"):
        compiled(torch.randn(4, 64))
        assert not caplog.messages
        compiled(torch.randn(8, 64))
    assert ["compiled 2 forms of the inputs, its limit" in message for message in caplog.messages] == [True]


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("blocks", [True, False])
def test_graphs_of_sharded_modules_are_refused(blocks: bool):
    from torch.distributed.fsdp import fully_shard

    backend = remat_planner.budgeted_backend("1GB")
    model: nn.Module = nn.Sequential(Perceptron(1))
    if blocks:
        model[0].compile(backend=backend, dynamic=False)
    fully_shard(model[0])
    fully_shard(model)
    with pytest.raises(BackendCompilerFailed, match=r"fully_shard.*regions=") as caught:
        (model if blocks else torch.compile(model, backend=backend, dynamic=False))(torch.randn(2, 64))
    assert caught.value.inner_exception.kind == "fully_shard"


@pytest.mark.usefixtures("process_group")
def test_sharded_models_are_refused():
    from torch.distributed.fsdp import fully_shard

    with pytest.raises(remat_planner.ModelNotSupportedError, match="fully_shard"):
        remat_planner.compile(fully_shard(Perceptron(1)), (torch.randn(2, 64),), budget="80%")


@pytest.mark.usefixtures("process_group")
def test_graphs_on_shards_of_tensors_are_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_module, distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    model = distribute_module(Perceptron(1), mesh)
    compiled = torch.compile(model, backend=remat_planner.budgeted_backend("1GB"), dynamic=False)
    with pytest.raises(BackendCompilerFailed, match="DTensor"):
        compiled(distribute_tensor(torch.randn(2, 64), mesh))


@pytest.mark.parametrize(
    ("wrapped", "message"),
    [
        (torch.compile, r"compiled already.*_orig_mod"),
        (nn.DataParallel, "wrapped by DataParallel"),
        (lambda model: model.forward, "pass an nn.Module"),
    ],
)
def test_what_is_no_plain_model_is_refused(wrapped: Callable[[nn.Module], nn.Module], message: str):
    with pytest.raises(remat_planner.ModelNotSupportedError, match=message):
        remat_planner.compile(wrapped(Perceptron()), (torch.randn(2, 64),), budget="80%")


def test_a_model_without_parameters_to_train_is_refused():
    with pytest.raises(remat_planner.NothingToTrainError):
        remat_planner.compile(Perceptron().requires_grad_(False), (torch.randn(2, 64),), budget="80%")


def test_budgets_that_mean_nothing_here():
    with pytest.raises(remat_planner.BudgetError, match="no least budget"):
        remat_planner.compile(Perceptron(), (torch.randn(2, 64),), budget="min")
    with pytest.raises(remat_planner.BudgetError):
        remat_planner.budgeted_backend("nothing")


def test_a_release_without_partitioners_is_refused(monkeypatch):
    monkeypatch.setattr(backends, "partitioner_missing", lambda: "no partitioner")
    with pytest.raises(remat_planner.CompilerError, match=r"no partitioner.*apply_schedule"):
        remat_planner.budgeted_backend("1GB")


def test_a_model_that_was_not_compiled_here_has_no_figures():
    with pytest.raises(KeyError):
        remat_planner.compiled_step(Perceptron())


class Pictures(nn.Module):
    """Convolutions whose gradients need much workspace, normalisation and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.third, self.norm = nn.Conv2d(64, 128, 3, padding=1, bias=False), nn.BatchNorm2d(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = x + torch.relu(self.norm(self.second(x)))
        return torch.relu(self.third(x)).mean()


@pytest.mark.slow
def test_a_convolutional_network_takes_the_predicted_bytes():
    torch.manual_seed(0)
    model, x = Pictures(), torch.randn(4, 3, 8, 8)
    step = remat_planner.compiled_step(remat_planner.compile(model, (x,), budget="100%"))
    assert step.attempts == 1
    assert step.largest_difference is not None
    assert step.predicted_peak_bytes == pytest.approx(step.measured_peak_bytes, rel=0.03)
    assert not any(name.startswith("convolution") for name in step.parts[0].recomputed)


class Broken(Perceptron):
    """Two graphs: ``torch.compile`` cuts at the graph break."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layers[0](x))
        torch._dynamo.graph_break()
        return torch.tanh(self.layers[1](x)).pow(2).mean()


@pytest.mark.slow(on_request=True)
def test_the_graphs_around_a_graph_break_share_the_budget():
    torch.manual_seed(0)
    model, x = Broken(2, 32), torch.randn(512, 32)
    compiled = remat_planner.compile(model, (x,), budget="100%")
    step = remat_planner.compiled_step(compiled)
    assert len(step.parts) == 2
    assert step.measured_peak_bytes <= step.budget_bytes
    with pytest.raises(remat_planner.InfeasibleBudgetError, match="as measured"):
        remat_planner.compile(model, (x,), budget="1kB")
