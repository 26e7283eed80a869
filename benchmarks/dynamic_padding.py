"""What new lengths cost while a planned model trains: an epoch of batches that are padded to their longest, or packed.

    python -m benchmarks.dynamic_padding [--steps 200] [--lengths 60] [--longest 256] [--width 128]

The model is planned for the longest batch at 80 % of its peak. Every step runs in turn by eager, by the planned model, and by
the planned model once more, when the length is known. Times are CPU seconds of the one thread that runs the steps.
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner

VOCABULARY = 500
Batch = tuple[torch.Tensor, torch.Tensor]
"""Token ids and the number of each token's document, both of shape (sequences, length)."""


class Block(nn.Module):
    """A transformer layer that attends within documents."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(0.1)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, 4, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(width, -1))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, width)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Language(nn.Module):
    """A causal language model with its loss."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, width), nn.Linear(width, VOCABULARY)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))

    def forward(self, ids: torch.Tensor, documents: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1])
        mask = (documents[:, None, :] == documents[:, :, None]) & (places[None, :] <= places[:, None])
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, mask[:, None])
        return F.cross_entropy(self.head(x[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def padded(length: int) -> Batch:
    """Eight sequences, each one document."""
    return torch.randint(VOCABULARY, (8, length)), torch.zeros(8, length, dtype=torch.long)


def packed(length: int) -> Batch:
    """One sequence of four documents that has as many tokens as four padded ones."""
    return torch.randint(VOCABULARY, (1, 4 * length)), (torch.arange(4 * length) // length)[None]


def seconds_of(model: nn.Module, batch: Batch) -> float:
    """CPU seconds of a training step."""
    start = time.thread_time()
    model(*batch).backward()
    model.zero_grad()
    return time.thread_time() - start


def epoch(make: Callable[[int], Batch], steps: int, lengths: int, longest: int, width: int) -> str:
    """Train for an epoch and put the times into words."""
    torch.manual_seed(0)
    distinct = random.Random(0).sample(range(longest // 4, longest), lengths)
    order = random.Random(1).sample([*distinct, *random.Random(2).choices(distinct, k=steps - lengths)], steps)
    model = Language(width, layers=3)
    eager = copy.deepcopy(model)
    planned = remat_planner.apply_schedule(model, remat_planner.plan(model, make(longest), budget="80%"))
    seconds_of(eager, make(longest)), seconds_of(planned, make(longest))
    times: list[tuple[float, float, float]] = []
    first: dict[int, float] = {}  # seconds
    for length in order:
        batch = make(length)
        times.append((seconds_of(eager, batch), seconds_of(planned, batch), seconds_of(planned, batch)))
        first.setdefault(length, times[-1][1])
    in_eager, in_epoch, known = map(sum, zip(*times, strict=True))
    step = statistics.median(seconds for _, _, seconds in times)
    opening, *others = ((seconds - step) / step for seconds in first.values())
    return (
        f"{steps} steps with {lengths} lengths: {in_epoch:.0f} s, {in_epoch / known:.2f} of the planned steps alone, "
        f"{in_epoch / in_eager:.2f} of eager; the first new length took {opening:.0f} steps more, each other one "
        f"{statistics.median(others):.2f} (at most {max(others):.1f})"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("steps", 200), ("lengths", 60), ("longest", 256), ("width", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = vars(parser.parse_args())
    logging.getLogger("remat_planner").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    for make in (padded, packed):
        print(f"{make.__name__:7} {epoch(make, **options)}", flush=True)


if __name__ == "__main__":
    main()
