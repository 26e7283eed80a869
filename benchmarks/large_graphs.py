"""What it takes to plan training steps of many ops: ``python -m benchmarks.large_graphs [--only lstm ...] [--seconds 30]``.

Seconds of one core for each part of a plan, and the memory of a process that makes it alone. The models are captured on fake
tensors with the roofline of an H100. Of three families there are several lengths, so that one sees how each part grows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from remat_planner.schedules import simulate
from remat_planner.solvers import solve
from remat_planner.tracer import capture
from remat_planner.tracer.costs import op_costs
from remat_planner.tracer.lower import lower

Step = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Callable[[Any], torch.Tensor] | None]

_SHARE = 0.6  # of the peak without recomputation: the budget, or the least one where that is higher


class Recurrent(nn.Module):
    """An LSTM cell, once for each step of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(256, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[1], 256)
        total = x.new_zeros(())
        for step in x:
            h, c = self.cell(step, (h, c))
            total = total + h.mean()
        return total


class Experts(nn.Module):
    """Layers of 128 experts each, all of which see all tokens, weighted by a router."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.routers = nn.ModuleList(nn.Linear(256, 128) for _ in range(layers))
        self.experts = nn.ModuleList(
            nn.ModuleList(nn.Sequential(nn.Linear(256, 512), nn.GELU(), nn.Linear(512, 256)) for _ in range(128))
            for _ in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for router, experts in zip(self.routers, self.experts, strict=True):
            weights = router(x).softmax(-1)
            assert isinstance(experts, nn.ModuleList)
            x = x + sum(weights[..., k : k + 1] * expert(x) for k, expert in enumerate(experts))
        return x.square().mean()


class Microbatches(nn.Module):
    """A decoder of 126 layers on several microbatches, one after the other, whose losses are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(256, 4, 512, dropout=0.0, batch_first=True, norm_first=True) for _ in range(126)
        )

    def forward(self, batches: list[torch.Tensor]) -> torch.Tensor:
        total = batches[0].new_zeros(())
        for x in batches:
            for layer in self.layers:
                x = layer(x)
            total = total + x.square().mean()
        return total


def recurrent(steps: int) -> Step:
    """An unrolled scan."""
    return Recurrent(), (torch.zeros(steps, 16, 256),), {}, None


def experts(layers: int) -> Step:
    """A mixture of 128 experts."""
    return Experts(layers), (torch.zeros(4, 128, 256),), {}, None


def microbatches(count: int) -> Step:
    """126 layers."""
    return Microbatches(), ([torch.zeros(2, 128, 256) for _ in range(count)],), {}, None


def sdxl() -> Step:
    """The U-Net of Stable Diffusion XL on one picture of 1,024 x 1,024."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=[1, 2, 10],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
        use_linear_projection=True,
    )
    inputs = {
        "sample": torch.zeros(1, 4, 128, 128),
        "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 77, 2048),
        "added_cond_kwargs": {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)},
    }
    return model, (), inputs, lambda output: output.sample.square().mean()


def mamba2() -> Step:
    """Mamba2-2.7B on 1,024 tokens."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = Mamba2Config(hidden_size=2560, num_hidden_layers=64, num_heads=80, head_dim=64, vocab_size=50288, use_cache=False)
    tokens = torch.zeros(1, 1024, dtype=torch.long)
    return Mamba2ForCausalLM(config), (), {"input_ids": tokens, "labels": tokens}, None


MODELS: dict[str, Callable[[], Step]] = {
    **{f"lstm, {n} steps": partial(recurrent, n) for n in (250, 500, 1000)},
    **{f"128 experts, {n} layers": partial(experts, n) for n in (2, 4, 8)},
    **{f"126 layers, {n} microbatches": partial(microbatches, n) for n in (1, 2, 4)},
    "SDXL": sdxl,
    "Mamba2-2.7B": mamba2,
}


@dataclass(frozen=True)
class Row:
    """Seconds of one core for each part, the peak of the process in bytes, and what came out."""

    ops: int
    record: float
    lower: float
    solve: float
    simulate: float
    memory: int
    overhead: float
    bound: float


def measure(name: str, seconds: float) -> Row:
    """Plan one model in this process."""
    torch.set_num_threads(1)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, args, kwargs, loss = MODELS[name]()
        model.train()
    times = [time.process_time()]

    def passed() -> None:
        times.append(time.process_time())

    joint = capture(model, args, kwargs, loss=loss)
    passed()
    lowering = lower(joint)
    graph = lowering.with_costs(op_costs(lowering.costed, costs="h100"), block=512)
    passed()
    peak = simulate(graph, range(len(graph.ops))).peak_bytes
    passed()
    found = solve(graph, int(_SHARE * peak), time_limit=seconds)
    passed()
    recorded, lowered, simulated, solved = (after - before for before, after in pairwise(times))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Row(
        ops=len(graph.ops),
        record=recorded,
        lower=lowered,
        solve=solved,
        simulate=simulated,
        memory=memory,
        overhead=found.cost / graph.seconds - 1,
        bound=found.bound / graph.seconds - 1,
    )


def main() -> None:
    """Measure the models one after the other, each in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[""], help="models whose names begin so")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each solve")
    options = parser.parse_args()
    print("| model | ops | record | lower | solve | simulate | memory | extra time at 60 % | bound |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    context = multiprocessing.get_context("spawn")
    for name in MODELS:
        if name.startswith(tuple(options.only)):
            with context.Pool(1) as pool:
                row = pool.apply(measure, (name, options.seconds))
            print(
                f"| {name} | {row.ops:,} | {row.record:.1f} s | {row.lower:.1f} s | {row.solve:.1f} s | {row.simulate:.2f} s | "
                f"{row.memory / 1e6:,.0f} MB | {100 * row.overhead:.2f} % | {100 * row.bound:.2f} % |",
                flush=True,
            )


if __name__ == "__main__":
    main()
