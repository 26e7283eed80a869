"""Models that are refused before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import ModelNotSupportedError, NothingToTrainError
from tests.tracer.cases import Written, linear, mean_square, noise


def test_a_model_that_is_no_module_is_refused():
    with pytest.raises(ModelNotSupportedError) as caught:
        capture(nn.Linear, (noise(),))  # type: ignore[arg-type]
    assert caught.value.kind == "type"


@pytest.mark.slow
def test_compiled_models_are_refused():
    with pytest.raises(ModelNotSupportedError, match="_orig_mod") as caught:
        capture(torch.compile(linear()), (noise(),))
    assert caught.value.kind == "torch.compile"


def test_data_parallel_models_are_refused():
    with pytest.raises(ModelNotSupportedError, match="module 'inner'") as caught:
        capture(Written(lambda m, x: mean_square(m.inner(x)), inner=nn.DataParallel(linear())), (noise(),))
    assert caught.value.kind == "DataParallel"


def test_lazy_modules_are_refused_until_they_have_seen_an_input():
    model = Written(lambda m, x: mean_square(m.inner(x)), inner=nn.LazyLinear(4))
    with pytest.raises(ModelNotSupportedError, match=r"inner\.weight, inner\.bias .* call the model once") as caught:
        capture(model, (noise(),))
    assert caught.value.kind == "lazy module"
    model(noise())
    assert capture(model, (noise(),)).ops


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


def test_a_model_without_a_parameter_to_train_is_refused():
    with pytest.raises(NothingToTrainError, match="requires a gradient"):
        capture(linear().requires_grad_(False), (noise(),))
    with pytest.raises(NothingToTrainError, match="requires a gradient"):
        capture(nn.ReLU(), (noise(),))
