"""Cases whose schedules are exported, and what they take."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.exports.eager_checkpointing import EagerStep
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.measurement.real_step import one_step
from remat_planner.schedules import Schedule
from tests.zoo import Case

# What eager allocates beside the graph's storages: copies of the random state while a region runs again (some 10 kB), and
# what the profiler sees of Python. Storages themselves are predicted to the byte.
_MARGIN = 0.02


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Block(nn.Module):
    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(inplace) if inplace else nn.GELU(), nn.Dropout(0.1))
        self.out = nn.Linear(128, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out(self.mlp(x))


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


def plain() -> Case:
    return Case(Net(*(Block() for _ in range(4))), (torch.randn(1024, 64),), {}, _mean_square)


def in_place() -> Case:
    return Case(Net(*(Block(inplace=True) for _ in range(3))), (torch.randn(1024, 64),), {}, _mean_square)


def gpt2(use_cache: bool = False) -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=2,
        n_head=4,
        n_embd=64,
        vocab_size=200,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        attn_pdrop=0.0,
        use_cache=use_cache,
    )
    tokens = torch.randint(0, 200, (4, 64))
    return Case(transformers.GPT2LMHeadModel(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


def llama() -> Case:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=200,
        use_cache=False,
    )
    tokens = torch.randint(0, 200, (4, 64))
    return Case(transformers.LlamaForCausalLM(config).train(), (), {"input_ids": tokens, "labels": tokens}, None)


CASES: dict[str, Callable[[], Case]] = {"plain": plain, "in_place": in_place, "gpt2": gpt2, "llama": llama}


@functools.cache
def planned(name: str, budget: str) -> tuple[Case, Schedule]:
    torch.manual_seed(0)
    case = CASES[name]()
    # Most are planned on paper, as on a GPU: what solving finds there does not depend on how busy this CPU is.
    costs = "measure" if case.loss is not None and budget == "70%" else "h100"
    schedule = remat_planner.plan(case.model, case.args, case.kwargs, loss=case.loss, budget=budget, costs=costs, time_limit=20)
    assert isinstance(schedule, Schedule)
    return case, schedule


def wrapped(case: Case, code: str) -> nn.Module:
    """A copy of the model on which the exported code was used."""
    model = copy.deepcopy(case.model)
    names: dict[str, Any] = {}
    exec(code, names)
    names["wrap"](model)
    return model


def gradients(model: nn.Module, case: Case) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(1)
    model.zero_grad()
    one_step(model, case.args, case.kwargs, case.loss)()
    found = {name.replace("_checkpoint_wrapped_module.", ""): p.grad for name, p in model.named_parameters()}
    return found | dict(model.named_buffers()) | {"random state": torch.get_rng_state()}


def same(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> bool:
    return one.keys() == other.keys() and all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def peak(model: nn.Module, case: Case, constant: int) -> int:
    one_step(model, case.args, case.kwargs, case.loss)()
    model.zero_grad()
    return constant + measure_peak(one_step(model, case.args, case.kwargs, case.loss))


def measured(model: nn.Module, x: torch.Tensor, step: EagerStep) -> int:
    return peak(model, Case(model, (x,), {}, _mean_square), step.graph.constant_bytes)
