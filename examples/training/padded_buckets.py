"""Sequences of many lengths, padded to a few: every length is planned for at once, under one budget, and none while training.

python examples/training/padded_buckets.py
"""

import copy
import logging

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import remat_planner
from remat_planner.planner.measurement import measure_peak

BUCKETS = (32, 64, 128)
BATCH, WIDTH, WORDS, PADDING = 8, 64, 200, 0


class Tagger(nn.Module):
    """Tokens [batch, length] -> scores of a tag for each [batch, length, tags]; padding is not attended to."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH, padding_idx=PADDING)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.tags = nn.Linear(WIDTH, 8)

    def forward(self, tokens, tags):
        hidden = self.words(tokens)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=tokens == PADDING)
        loss = cross_entropy(self.tags(hidden).flatten(0, 1), tags.flatten(), ignore_index=-100)
        return {"loss": loss}


def batches(count):
    """Sentences of any length, sorted by it into batches, each padded to the least bucket that holds its longest."""
    lengths = torch.randint(4, BUCKETS[-1] + 1, (count * BATCH,)).sort().values.view(count, BATCH)
    for chosen in lengths[torch.randperm(count)]:
        bucket = next(size for size in BUCKETS if size >= chosen.max())
        there = torch.arange(bucket) < chosen.unsqueeze(1)
        tokens = torch.randint(1, WORDS, (BATCH, bucket)).masked_fill(~there, PADDING)
        yield {"tokens": tokens, "tags": (tokens % 8).masked_fill(~there, -100)}


def train(model, data):
    """Losses of ordinary training steps; nothing in here knows about checkpointing."""
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for batch in data:
        loss = model(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main():
    torch.manual_seed(0)
    model = Tagger()
    eager = copy.deepcopy(model)
    data = list(batches(24))
    of_bucket = {batch["tokens"].shape[1]: batch for batch in data}

    schedule = remat_planner.plan(model, shapes=list(of_bucket.values()), budget="60%", time_limit=2)
    planned = remat_planner.apply_schedule(model, schedule)

    warnings = []
    handler = logging.Handler()
    handler.emit = warnings.append  # the planner says here when it plans for inputs that it does not know
    logging.getLogger("remat_planner").addHandler(handler)
    losses, eager_losses = train(planned, data), train(eager, data)

    print(f"{len(data)} steps, losses {losses[0]:.3f} to {losses[-1]:.3f}, plans made while training: {len(warnings)}")
    print(f"budget {schedule.budget / 1e6:.2f} MB, 60 % of what the longest bucket takes without recomputation")
    within = True
    for form in schedule.forms:
        bucket = next(size for size in BUCKETS if f"{BATCH}, {size}]" in form.origin.inputs["['tokens']"])
        measured = form.graph.constant_bytes + measure_peak(lambda batch=of_bucket[bucket]: step(planned, batch))
        planned.zero_grad()
        within = within and measured <= schedule.budget
        print(
            f"bucket {bucket:4}: measured {measured / 1e6:6.2f} MB, predicted {form.peak_bytes / 1e6:6.2f} MB, "
            f"{form.baseline_peak_bytes / 1e6:6.2f} MB without recomputation, extra time {form.overhead:.1%}"
        )
    same = all(torch.equal(ours, its) for ours, its in zip(planned.parameters(), eager.parameters(), strict=True))
    if losses != eager_losses or not same or warnings or not within:
        raise SystemExit("other bits than eager's, a plan while training, or a budget exceeded: this must not happen")


def step(model, batch):
    """Forward and backward; what is returned is held to the end of a measurement."""
    loss = model(**batch)["loss"]
    loss.backward()
    return loss


if __name__ == "__main__":
    main()
