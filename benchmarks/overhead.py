"""What running a plan costs beside the recomputation itself: a planned model's step against eager's, in turn in one process.

    python -m benchmarks.overhead [--quick] [MODEL ...]

Each model is planned with a budget of 100 %, so hardly anything is recomputed and what is left is the applier's own overhead.
Times are the medians of steps run in turn (eager, planned, eager, ...); the ratio is the median of the ratios of neighbours,
which other load on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner

Case = tuple[nn.Module, tuple[Any, ...], dict[str, Any], Callable[[Any], torch.Tensor] | None]


class Block(nn.Module):
    """A transformer layer without anything around it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 4, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def tiny_blocks() -> Case:
    """24 transformer layers of width 64 on 32 tokens: every op takes microseconds."""
    model = nn.Sequential(*[Block(64) for _ in range(24)])
    return model, (torch.randn(2, 16, 64),), {}, _mean_square


def tiny_mlp() -> Case:
    """24 linear layers of width 64: a step of a millisecond, so what is done once per step shows."""
    model = nn.Sequential(*[layer for _ in range(24) for layer in (nn.Linear(64, 64), nn.ReLU())])
    return model, (torch.randn(8, 64),), {}, _mean_square


def tiny_gpt2() -> Case:
    """GPT-2 with 24 layers of width 64, dropout and loss."""
    return _gpt2(layers=24, width=64, heads=4, batch=2, length=32)


def gpt2() -> Case:
    """GPT-2 with 6 layers of width 256 on 4 x 256 tokens."""
    return _gpt2(layers=6, width=256, heads=8, batch=4, length=256)


def resnet() -> Case:
    """ResNet-18 on 8 images of 96 x 96."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    inputs = {"pixel_values": torch.randn(8, 3, 96, 96), "labels": torch.randint(0, 2, (8,))}
    return ResNetForImageClassification(config).train(), (), inputs, None


def unet() -> Case:
    """A U-Net of diffusers on 4 images of 32 x 32."""
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    return model.train(), (torch.randn(4, 3, 32, 32), torch.tensor([3, 5, 7, 9])), {}, _mean_square_of_sample


MODELS = (tiny_mlp, tiny_blocks, tiny_gpt2, gpt2, resnet, unet)


def _gpt2(*, layers: int, width: int, heads: int, batch: int, length: int) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        n_positions=length,
        vocab_size=1000,
        bos_token_id=1,
        eos_token_id=2,
        use_cache=False,
    )
    tokens = torch.randint(0, 1000, (batch, length))
    return GPT2LMHeadModel(config).train(), (), {"input_ids": tokens, "labels": tokens}, None


def _mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.pow(2).mean()


def _mean_square_of_sample(output: Any) -> torch.Tensor:
    return output.sample.pow(2).mean()


def measure(case: Case, *, seconds: float) -> tuple[float, float, float, int]:
    """Seconds of an eager step, of a planned one, the ratio, and how many ops the plan executes."""
    model, args, kwargs, loss = case
    schedule = remat_planner.plan(model, args, kwargs, budget="100%", loss=loss, verify=False)
    planned = remat_planner.apply_schedule(model, schedule, audit=False)

    def step(called: nn.Module) -> float:
        model.zero_grad()
        started = time.perf_counter()
        output = called(*args, **kwargs)
        (loss(output) if loss is not None else output.loss).backward()
        return time.perf_counter() - started

    for called in (planned, model, planned, model):  # the planned one first: a step without the plan before it is warned of
        step(called)
    eager_times: list[float] = []
    planned_times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(eager_times) < 5:
        eager_times.append(step(model))
        planned_times.append(step(planned))
    ratio = statistics.median(p / e for e, p in zip(eager_times, planned_times, strict=True))
    return statistics.median(eager_times), statistics.median(planned_times), ratio, len(schedule.steps)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(build.__name__ for build in MODELS))
    parser.add_argument("--quick", action="store_true", help="the tiny models only, a second each")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of a kernel")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    chosen = [build for build in MODELS if build.__name__ in options.models] or list(MODELS[:2] if options.quick else MODELS)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'model':12} {'eager ms':>10} {'planned ms':>11} {'ratio':>7} {'ops':>6} {'us more per op':>15}")
    for build in chosen:
        torch.manual_seed(0)
        eager, planned, ratio, ops = measure(build(), seconds=1.0 if options.quick else 10.0)
        extra = (ratio - 1) * eager / ops * 1e6
        print(f"{build.__name__:12} {eager * 1e3:10.2f} {planned * 1e3:11.2f} {ratio:7.3f} {ops:6,} {extra:15.2f}", flush=True)


if __name__ == "__main__":
    main()
