"""Models are built without memory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from remat_planner.planner.model_loading import fake_build
from remat_planner.planner.model_loading.fake_build import RealMemoryWarning, built_without_memory
from remat_planner.tracer.errors import DataDependentError
from remat_planner.tracer.torch_private import is_fake


class Tied(nn.Module):
    """An embedding and a projection that share their weight, and a buffer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, size)
        self.head = nn.Linear(size, size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(size))


def test_a_model_larger_than_any_machine() -> None:
    with built_without_memory():
        model = nn.Sequential(*(nn.Linear(1_000_000, 1_000_000, bias=False) for _ in range(4)))
    assert sum(p.numel() for p in model.parameters()) == 4 * 10**12
    assert all(is_fake(p) for p in model.parameters())


def test_conversion_keeps_ties_and_flags() -> None:
    with built_without_memory():
        model = Tied(8)
        model.embedding.weight.requires_grad_(False)
        returned = model.to(torch.bfloat16)
    assert returned is model
    assert model.head.weight is model.embedding.weight
    assert isinstance(model.head.weight, nn.Parameter)
    assert model.head.weight.dtype == model.scale.dtype == torch.bfloat16
    assert not model.head.weight.requires_grad


def test_numbers_that_depend_on_constants_can_be_read() -> None:
    with built_without_memory():
        rates = [rate.tolist() for rate in torch.linspace(0, 0.3, 4, device="cpu").split([1, 3])]
        steps = torch.arange(4)
        steps[1:] *= 2
        read = [step.item() for step in steps]
        assert bool((steps >= 0).all())
        assert len(torch.unique(steps // 3)) == 3
        assert (torch.unique(steps // 3) + torch.tensor(1))[2].item() == 3
    assert rates == [rate.tolist() for rate in torch.linspace(0, 0.3, 4).split([1, 3])]
    assert read == [0, 2, 4, 6]


def test_sparse_tensors_can_be_created_but_not_read() -> None:
    with built_without_memory():
        sparse = torch.eye(3).to_sparse()
        with pytest.raises(DataDependentError):
            bool(torch.sparse.sum(sparse))
    assert is_fake(sparse)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_numbers_of_parameters_cannot_be_read(on_gpu: bool) -> None:
    with built_without_memory():
        weight = nn.Linear(4, 4, device="cuda" if on_gpu else "cpu").weight.detach()
        with pytest.raises(DataDependentError, match="parameters or on random draws") as caught:
            float(weight.sum())
    assert caught.value.source.startswith("tests/planner/model_loading/test_fake_build.py:")


_INITIALISERS = [name for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")]


@pytest.mark.parametrize("name", [name for name in _INITIALISERS if name not in ("eye_", "dirac_", "sparse_", "constant_")])
def test_every_initialiser_takes_fakes(name: str) -> None:
    with built_without_memory():
        weight = torch.empty(8, 8)
        getattr(nn.init, name)(weight)
    assert is_fake(weight)


def test_initialisers_with_arguments_take_fakes() -> None:
    with built_without_memory():
        nn.init.constant_(torch.empty(4, 4), 1.0)
        nn.init.eye_(torch.empty(4, 4))
        nn.init.dirac_(torch.empty(4, 4, 3))
        nn.init.sparse_(torch.empty(4, 4), 0.5)
        nn.init.trunc_normal_(torch.empty(4, 4), std=0.02, a=-0.01, b=0.01)


def test_afterwards_modules_are_real_again() -> None:
    with built_without_memory():
        nn.Linear(2, 2)
    layer = nn.Linear(2, 2)
    weight = layer.weight
    assert layer.double().weight is weight  # PyTorch's own conversion, in place
    assert not is_fake(weight)


@pytest.mark.skipif(torch.cuda.is_available(), reason="fakes of a GPU that is there stay on it")
def test_tensors_for_an_absent_gpu_are_fake_and_on_the_cpu() -> None:
    with built_without_memory():
        model = nn.Linear(4, 4).cuda().to("cuda").to(torch.device("cuda:1"))
        x = torch.randn(2, 4, device="cuda:0").to(0)
        with torch.device("cuda"):
            y = torch.zeros(2, 4)
        attended = nn.functional.scaled_dot_product_attention(*(torch.randn(1, 2, 8, 16, device="cuda") for _ in range(3)))
        result = model(x + y)
    assert {t.device.type for t in (result, attended, *model.parameters())} == {"cpu"}
    assert is_fake(result)
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")  # outside nothing is redirected


@pytest.mark.slow
def test_real_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_build, "EXPECTED_GROWTH", 10**7)
    said: list[str] = []
    for _ in range(3):  # the system may take pages of other tests back at the same time
        with warnings.catch_warnings(record=True) as caught, built_without_memory():
            warnings.simplefilter("always")
            array = np.ones(2 * 10**7)
        said += [str(one.message) for one in caught if one.category is RealMemoryWarning]
    assert array.nbytes > fake_build.EXPECTED_GROWTH
    assert said
    assert all("grew by" in text and "NumPy" in text for text in said)
