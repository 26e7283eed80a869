"""Thousands of steps of two planned models in turn, with changing shapes and failures in the middle: nothing grows or lingers.

    python -m benchmarks.soak [--steps 2000] [--seed 0] [--modes autocast ...] [--copies FOLDER]

Every step takes one of several forms of input: some were planned together, some are new at first; batch norm is frozen and
autocast is on for some. One step in eight fails in the middle of its forward or of its backward, as where memory runs out, and
is given up. An eager copy of each model trains beside it: losses are compared at every step, parameters and buffers at every
hundredth. Exits with 1 where a bit differs, something was planned twice, or memory, tensors, open files or Python objects grow.
``--copies`` copies all that the forward saves to a file in the folder, and must leave nothing there.
"""

from __future__ import annotations

import argparse
import copy
import gc
import logging
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import remat_planner

_LOOKS = 10  # at memory, in a run; the first ones are while programs are still being made
_SETTLED = 4  # the look from which on nothing may grow
_FAILURES = 8  # one step in so many
_OFTEN = 8  # as planned, for each time in another mode
MODES = ("as planned", "norm frozen", "autocast")
_MOST_OPS = 60  # a failure comes within the first so many operators
_RESIDENT_GROWTH = 16e6  # bytes that the allocator of the C library may move by
_OBJECTS_GROWTH = 200  # Python objects that caches of libraries may move by


class Convolutions(nn.Module):
    """Convolution, batch norm, dropout and a counter: state that every step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.steps.add_(1)
        h = F.gelu(self.norm(self.first(x)))
        h = F.dropout(torch.relu(self.second(h)), 0.1, self.training)
        return {"loss": self.head(h.mean((2, 3))).pow(2).mean()}


class Attention(nn.Module):
    """A layer of attention on sequences that may be masked."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, norm_first=True)
        self.norm = nn.LayerNorm(32)

    def forward(self, x: torch.Tensor, padding: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.layer(x, src_key_padding_mask=padding)
        return {"loss": self.norm(x).pow(4).mean()}


Call = tuple[tuple[Any, ...], dict[str, Any]]


def _images(size: int) -> Call:
    return (torch.randn(4, 3, size, size),), {}


def _sequences(length: int, *, masked: bool = False) -> Call:
    padding = torch.zeros(4, length, dtype=torch.bool)
    padding[:, length // 2 :] = True
    return (torch.randn(4, length, 32),), {"padding": padding} if masked else {}


class _FailingError(MemoryError):
    """Thrown on purpose."""


class _Failing(TorchDispatchMode):
    """Throws at the n-th operator."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _FailingError
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Look:
    """What there is after so many steps: tensors and their bytes, open files, Python objects, bytes of the process."""

    step: int
    tensors: int
    tensor_bytes: int
    files: int
    objects: int
    resident: int

    @classmethod
    def at(cls, step: int) -> Look:
        """Count, once all garbage is gone."""
        gc.collect()
        found = gc.get_objects()
        tensors = [thing for thing in found if issubclass(type(thing), torch.Tensor)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if _has_memory(t)}
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        return cls(step, len(tensors), sum(storages.values()), files, len(found), pages * resource.getpagesize())


_FAKE = torch._subclasses.FakeTensor


def _has_memory(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a storage: no fake, and not sparse."""
    return type(tensor) is not _FAKE and tensor.layout is torch.strided


@dataclass
class Trained:
    """One model, planned, beside its eager copy."""

    name: str
    planned: nn.Module
    eager: nn.Module
    calls: dict[str, Callable[[], Call]]
    optimizers: tuple[torch.optim.Optimizer, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.optimizers = tuple(torch.optim.AdamW(m.parameters(), lr=1e-3) for m in (self.planned, self.eager))

    def step(self, form: str, mode: str, seed: int) -> bool:
        """A step of both, from the same random state; whether the losses have the same bits."""
        args, kwargs = self.calls[form]()
        losses = []
        for module, optimizer in zip((self.planned, self.eager), self.optimizers, strict=True):
            torch.manual_seed(seed)
            with _mode(module, mode):
                loss = module(*args, **kwargs)["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
        return torch.equal(*losses)

    def fail(self, form: str, mode: str, where: str, after: int) -> bool:
        """A step of the planned model that is given up in the middle; whether it came to that."""
        args, kwargs = self.calls[form]()
        buffers = [(b, b.clone()) for b in self.planned.buffers()]
        try:
            with _mode(self.planned, mode), _Failing(after) if where == "forward" else nullcontext():
                loss = self.planned(*args, **kwargs)["loss"]
            with _Failing(after) if where == "backward" else nullcontext():
                loss.backward()
            failed = False
        except _FailingError:
            failed = True
        self.optimizers[0].zero_grad()
        with torch.no_grad():
            for buffer, content in buffers:
                buffer.copy_(content)
        return failed

    def same(self) -> bool:
        """Whether all parameters and buffers have the same bits."""
        states = self.planned.state_dict().values(), self.eager.state_dict().values()
        return all(torch.equal(one, other) for one, other in zip(*states, strict=True))


@dataclass
class Soak:
    """What a run showed.

    Attributes:
        looks: at memory, at even distances.
        failures: steps that were given up, by where.
        plans: what was planned while training: one for each form that was new, or one for several that differ in sizes.
        new_forms: how many of those there were.
        differing: steps at which a bit was not eager's.
    """

    looks: list[Look] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    plans: int = 0
    new_forms: int = 0
    differing: list[int] = field(default_factory=list)

    def complaints(self) -> list[str]:
        """What must not be, in words; empty where all is well."""
        said = []
        if self.differing:
            said.append(f"bits differ from eager's at {len(self.differing)} steps, first {self.differing[0]}")
        if self.plans > self.new_forms or (self.new_forms and not self.plans):
            said.append(f"{self.plans} plans were made while training for {self.new_forms} new forms")
        if not all(self.failures.values()):
            said.append(f"not every kind of failure came about: {self.failures}")
        settled, last = self.looks[_SETTLED], self.looks[-1]
        if last.tensors > settled.tensors or last.tensor_bytes > settled.tensor_bytes:
            said.append(
                f"tensors grew from {settled.tensors:,} ({settled.tensor_bytes:,} bytes) to {last.tensors:,} "
                f"({last.tensor_bytes:,} bytes)"
            )
        if last.files > settled.files:
            said.append(f"open files grew from {settled.files} to {last.files}")
        if last.objects - settled.objects > _OBJECTS_GROWTH:
            said.append(f"Python objects grew from {settled.objects:,} to {last.objects:,}")
        if last.resident - settled.resident > _RESIDENT_GROWTH:
            said.append(f"the process grew from {settled.resident:,} to {last.resident:,} bytes")
        return said


def soak(steps: int, *, seed: int = 0, modes: Sequence[str] = MODES, copies: Path | None = None) -> Soak:
    """Train both models for ``steps`` steps in turn, each form of input in each of ``modes``; with ``copies`` in a folder."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    images: dict[str, Callable[[], Call]] = {f"{n}": partial(_images, n) for n in (8, 12, 16)}
    sequences: dict[str, Callable[[], Call]] = {f"{n}": partial(_sequences, n) for n in (8, 16, 24)}
    sequences["16 masked"] = partial(_sequences, 16, masked=True)
    trained = (
        _planned("convolutions", Convolutions(), images, {"10": partial(_images, 10)}, copies),
        _planned("attention", Attention(), sequences, {"12": partial(_sequences, 12)}, copies),
    )
    found = Soak()
    seen = {(model.name, form, MODES[0]) for model, planned in trained for form in planned}
    with _plans_counted(found):
        for step in range(steps):
            if step % max(1, steps // _LOOKS) == 0:
                found.looks.append(Look.at(step))
            model = trained[step % 2][0]
            every = [(form, mode) for form in model.calls for mode in modes]
            # Each once at first, so that all programs are made; then at random, mostly as planned.
            weights = [_OFTEN if mode == MODES[0] else 1 for _, mode in every]
            form, mode = every[step // 2] if step // 2 < len(every) else draw.choices(every, weights)[0]
            new = (model.name, form, mode) not in seen
            seen.add((model.name, form, mode))
            found.new_forms += new
            where = draw.choice(("forward", "backward")) if not new and draw.randrange(_FAILURES) == 0 else None
            if where is not None:
                found.failures[where] += model.fail(form, mode, where, draw.randrange(_MOST_OPS))
            elif not model.step(form, mode, seed=step):
                found.differing.append(step)
            if step % 100 == 99 and not model.same():
                found.differing.append(step)
    found.looks.append(Look.at(steps))
    found.differing += [steps for model, _ in trained if not model.same()]
    return found


def _planned(
    name: str,
    model: nn.Module,
    planned: dict[str, Callable[[], Call]],
    new: dict[str, Callable[[], Call]],
    folder: Path | None,
) -> tuple[Trained, list[str]]:
    eager = copy.deepcopy(model)
    forms = [make() for make in planned.values()]
    options: dict[str, Any] = {"solver": "greedy"}
    if folder is not None:
        options = {"solver": "offload-all", "offload": remat_planner.Offload(disk="1GB", folder=folder, disk_link="10GB/s")}
    schedule = remat_planner.plan(model, shapes=forms, budget="90%", verify=False, **options)
    if folder is not None and not schedule.pool_peak_bytes:
        raise RuntimeError(f"the plan for the {name} copies nothing")
    return Trained(name, remat_planner.apply_schedule(model, schedule), eager, planned | new), list(planned)


@contextmanager
def _mode(model: nn.Module, mode: str) -> Iterator[None]:
    model.norm.train(mode != "norm frozen")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16) if mode == "autocast" else nullcontext():
            yield
    finally:
        model.norm.train()


@contextmanager
def _plans_counted(found: Soak) -> Iterator[None]:
    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if any(said in record.getMessage() for said in ("planning once", "captured once")):
                found.plans += 1

    log, handler = logging.getLogger("remat_planner"), Counter()
    propagates, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--copies", type=Path, metavar="FOLDER")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = soak(asked.steps, seed=asked.seed, modes=asked.modes, copies=asked.copies)
    print(f"{'step':>6} {'tensors':>9} {'in them':>12} {'files':>6} {'objects':>10} {'process':>12}")
    for look in found.looks:
        sizes = f"{look.tensor_bytes / 1e6:9.3f} MB {look.files:6} {look.objects:10,} {look.resident / 1e6:9.1f} MB"
        print(f"{look.step:6} {look.tensors:9,} {sizes}")
    failed = ", ".join(f"{count} in the {where}" for where, count in found.failures.items())
    print(f"given up in the middle: {failed}; new forms {found.new_forms}, planned while training {found.plans}")
    complaints = found.complaints()
    if asked.copies is not None and (left := list(asked.copies.iterdir())):
        complaints.append(f"{len(left)} files are left in {asked.copies}")
    for complaint in complaints:
        print(f"MUST NOT BE: {complaint}", file=sys.stderr)
    if not complaints:
        print("bits equal to eager's at every step, nothing grew")
    raise SystemExit(1 if complaints else 0)


if __name__ == "__main__":
    main()
