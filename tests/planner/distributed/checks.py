"""What torchrun starts: ``checks.py FOLDER NAME...`` runs these checks on every rank and prints "ok NAME" on the first."""

from __future__ import annotations

import ctypes
import math
import sys
import zlib
from pathlib import Path

import pytest
import torch
import torch.distributed._functional_collectives as collectives
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

import remat_planner
from remat_planner import AuditError
from remat_planner.planner.distributed.sharding import local_part
from remat_planner.planner.errors import ShardedError
from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.regions import options
from remat_planner.planner.runtime import audit
from remat_planner.schedules import RegionSchedule, Schedule, StaleScheduleError
from remat_planner.tracer.errors import ModelNotSupportedError, UnsupportedOperatorError
from tests.planner.copying_solver import CopySaved
from tests.planner.distributed.models import MANY_STEPS, STEPS, WIDTH, Block, build, measured, rank, same, sharded, train

TOLERANCE = 0.03


def planned_once(folder: Path, model: nn.Module, x: torch.Tensor, **options: object) -> Schedule:
    """The first rank's schedule, on every rank; a file holds it for each kind of model and options."""
    path = folder / f"{type(model).__name__}-{zlib.crc32(repr(options).encode())}.json"
    if rank() == 0 and not path.exists():
        remat_planner.plan(model, (x,), solver="ilp", time_limit=2, **options).save(path)
    torch.distributed.barrier()
    return Schedule.load(path)


def planned_blocks(folder: Path, model: nn.Module, x: torch.Tensor, name: str) -> RegionSchedule:
    """A schedule for the blocks, planned once for each ``name``: by all ranks for "sharded", else by the first rank."""
    path = folder / f"{name}.json"
    known = path.exists()
    torch.distributed.barrier()
    if not known and (rank() == 0 or name == "sharded"):
        schedule = remat_planner.plan(model, (x,), budget="80%", regions="layers.*", optimizer="adamw", verify=False)
        if name == "sharded":
            alike: list[object] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(alike, {name: region.steps for name, region in schedule.regions.items()})
            assert all(one == alike[0] for one in alike)
        if rank() == 0:
            schedule.save(path)
    torch.distributed.barrier()
    return RegionSchedule.load(path)


def keeps_its_promise(schedule: Schedule | RegionSchedule, constant: int, model: nn.Module, x: torch.Tensor) -> None:
    found = constant + measured(model, x, accumulate=schedule.origin.training.accumulate)
    assert found <= schedule.budget
    assert abs(found / schedule.peak_bytes - 1) < TOLERANCE, (found, schedule.peak_bytes)
    assert len(schedule.steps) > len(schedule.graph.ops) if isinstance(schedule, Schedule) else schedule.overhead > 0


def many() -> bool:
    """With more than two ranks, only what depends on their number is checked."""
    return torch.distributed.get_world_size() > 2


def steps() -> int:
    return STEPS if many() else MANY_STEPS


def ddp(folder: Path) -> None:
    """Planned whole, applied, wrapped; with two ranks also with gradients in the buckets, with more for accumulation."""
    for views in (False,) if many() else (False, True):
        model, x = build()
        expected = train(DistributedDataParallel(model, gradient_as_bucket_view=views), x, steps=steps())
        model, _ = build()
        buckets = "views" if views else "copied"
        training = remat_planner.TrainingState(gradient_buckets=buckets, accumulate=many())
        schedule = planned_once(folder, model, x, budget="65%", training=training)
        planned = remat_planner.apply_schedule(model, schedule)
        wrapped = DistributedDataParallel(planned, gradient_as_bucket_view=views)
        assert same(train(wrapped, x, steps=steps()), expected)
        keeps_its_promise(schedule, schedule.graph.constant_bytes, wrapped, x)


def ddp_by_regions(folder: Path) -> None:
    """Wrapped, planned by the ranks together, applied."""
    model, x = build()
    expected = train(DistributedDataParallel(model), x, steps=steps())
    wrapped = DistributedDataParallel(build()[0])
    schedule = remat_planner.plan(wrapped, (x,), budget="75%", regions="module.layers.*")
    assert remat_planner.apply_schedule(wrapped, schedule) is wrapped
    assert same(train(wrapped, x, steps=steps()), expected)
    keeps_its_promise(schedule, schedule.constant_bytes, wrapped, x)


def fsdp(folder: Path) -> None:
    """Sharded, planned by the ranks together, applied; also verified and kept in a file."""
    model, x = build()
    expected = train(sharded(model), x, steps=steps())
    model = sharded(build()[0])
    schedule = planned_blocks(folder, model, x, "sharded")
    parts = sum(local_part(p).untyped_storage().nbytes() for p in model.parameters())
    assert parts <= schedule.constants["parameters"] < sum(p.numel() * 4 for p in model.parameters())
    assert 2 * parts <= schedule.constants["optimizer"] < 2.1 * schedule.constants["parameters"]
    if not many():  # it compares what each rank has, whatever their number
        found = remat_planner.verify(model, schedule, (x,))
        assert found.identical, found.differences
        assert found.within_budget
    remat_planner.apply_schedule(model, schedule)
    assert same(train(model, x, steps=steps()), expected)
    keeps_its_promise(schedule, schedule.constant_bytes, model, x)


def copies(folder: Path) -> None:
    """A wrapped module that copies to a disk; a sharded one, whose blocks do: below what recomputation alone reaches."""
    model, x = build()
    expected = train(sharded(model), x)
    whole, offload = build()[0], remat_planner.Offload(disk="100MB", folder=folder, disk_link="20GB/s")
    planned = remat_planner.plan(whole, (x,), budget="100%", solver=CopySaved(), offload=offload, verify=False)
    assert planned.pool_peak_bytes["disk"] > 0
    wrapped = DistributedDataParallel(remat_planner.apply_schedule(whole, planned))
    assert same(train(wrapped, x), train(DistributedDataParallel(build()[0]), x))
    model = sharded(build()[0])
    options._COPYING_SOLVER, searched = CopySaved(), options._COPYING_SOLVER
    peaks = []
    for pools in (None, offload):
        schedule = remat_planner.plan(model, (x,), budget="min", regions="layers.*", offload=pools, verify=False)
        peaks.append(schedule.peak_bytes)
    options._COPYING_SOLVER = searched
    assert peaks[1] < peaks[0]
    assert schedule.pool_peak_bytes["disk"] > 0
    remat_planner.apply_schedule(model, schedule)
    assert same(train(model, x), expected)
    found = schedule.constant_bytes + measured(model, x)
    assert found <= schedule.budget * (1 + TOLERANCE)


def sharded_afterwards(folder: Path) -> None:
    """Regions applied to the model as it is, then ``fully_shard`` per block and root; and one schedule for a sharded root."""
    model, x = build()
    expected = train(sharded(model), x)
    model, _ = build()
    by_regions = planned_blocks(folder, model, x, "blocks")
    assert same(train(sharded(remat_planner.apply_schedule(model, by_regions)), x), expected)
    with pytest.raises(StaleScheduleError, match=r"planned for parameters that are not divided"):
        remat_planner.apply_schedule(sharded(build()[0]), by_regions)
    expected = train(fully_shard(build()[0]), x)
    model, _ = build()
    whole = planned_once(folder, model, x, budget="65%")
    assert same(train(fully_shard(remat_planner.apply_schedule(model, whole)), x), expected)


def refusals(folder: Path) -> None:
    """Ways to plan and wrap that would be wrong."""
    model, x = build()
    schedule = planned_once(folder, model, x, budget="65%")
    with pytest.raises(ShardedError, match=r"layers\.0\.norm\.weight is a DTensor.*by regions") as caught:
        sharded(remat_planner.apply_schedule(model, schedule))(x)
    assert "layers.1.down.bias" in caught.value.names
    with pytest.raises(ModelNotSupportedError, match=r"wrapped by fully_shard.*regions="):
        remat_planner.plan(sharded(build()[0]), (x,), budget="65%")
    nested, _ = build()
    fully_shard(nested.layers[0].up)
    with pytest.raises(ModelNotSupportedError, match=r"region 'layers\.0': module 'up' is wrapped by fully_shard"):
        remat_planner.plan(sharded(nested), (x,), budget="80%", regions="layers.*")
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for budget in ({"budget": "65%"}, {"budget": "80%", "regions": "layers.*"}):
        parallel, _ = build()
        for layer in parallel.layers:
            parallelize_module(layer, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        with pytest.raises(ModelNotSupportedError, match=r"up\.weight is a DTensor.*Tensor-parallel modules cannot be planned"):
            remat_planner.plan(parallel, (torch.ones_like(x),), **budget)
    model, _ = build()
    remat_planner.apply_schedule(model, planned_blocks(folder, model, x, "blocks"))
    parallelize_module(model.layers[1], mesh, {"up": ColwiseParallel()})
    with pytest.raises(ShardedError, match=r"up\.weight is a DTensor"):
        model(x)
    with pytest.raises(ModelNotSupportedError, match="DataParallel"):
        remat_planner.plan(nn.DataParallel(build()[0]), (x,), budget="80%", regions="module.layers.*")


def overlap(folder: Path) -> None:
    """Gradients are handed over, and communication starts, in eager's order: the first bucket long before the last gradient."""

    def ddp_order(model: nn.Module, x: torch.Tensor) -> list[str]:
        wrapped = DistributedDataParallel(model, bucket_cap_mb=0.01)
        seen: list[str] = []
        for name, p in model.named_parameters():
            p.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))

        def launch(_, bucket):  # type: ignore[no-untyped-def] # DDP compares annotations, which are strings here
            seen.append(f"bucket {bucket.index()}")
            future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        wrapped.register_comm_hook(None, launch)
        for _ in range(3):  # buckets are made anew in the second step
            seen.clear()
            wrapped(x).backward()
        return seen

    def fsdp_order(model: nn.Module, x: torch.Tensor) -> list[str]:
        model(x).backward()
        with profile() as profiler:
            model(x).backward()
        names = sorted((e.time_range.start, e.name) for e in profiler.events() if e.name.startswith("FSDP::"))
        return [name for _, name in names]

    model, x = build()
    schedule = planned_once(folder, model, x, budget="65%")
    eager, ours = ddp_order(build()[0], x), ddp_order(remat_planner.apply_schedule(model, schedule), x)
    buckets = [what for what in ours if what.startswith("bucket")]
    assert len(buckets) > 2
    assert buckets == [what for what in eager if what.startswith("bucket")]
    assert ours == eager
    assert ours.index(buckets[0]) < len(ours) / 2, "long before the last gradient"
    model = sharded(build()[0])
    remat_planner.apply_schedule(model, planned_blocks(folder, model, x, "sharded"))
    eager, ours = fsdp_order(sharded(build()[0]), x), fsdp_order(model, x)
    assert any("post_backward_reduce" in name for name in ours)
    assert ours == eager


class Communicating(nn.Module):
    """A collective in the forward."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.a(x)
        for _ in range(4):
            y = F.gelu(y + 1)
        if self.in_place:
            y = y.detach().clone()
            torch.distributed.all_reduce(y)
            return self.a(y).square().mean()
        return collectives.all_gather_tensor_autograd(y, 0, torch.distributed.group.WORLD).square().mean()


def pinned_collectives(folder: Path) -> None:
    """Collectives run once: never recomputed, nor measured alone, which ranks would do for different times."""
    torch.manual_seed(0)
    model, x = Communicating(), build()[1]
    schedule = planned_once(folder, model, x, budget="70%")
    pinned = [i for i, op in enumerate(schedule.graph.ops) if op.pinned and "collective" in op.pinned]
    assert sum(schedule.graph.ops[i].phase == "forward" for i in pinned) == 2, "gathered, and waited for"
    assert len(schedule.steps) > len(schedule.graph.ops)
    assert all(schedule.steps.count(i) == 1 for i in pinned)
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences
    with pytest.raises(UnsupportedOperatorError, match=r"c10d\.allreduce_.*communicates in place"):
        remat_planner.plan(Communicating(in_place=True), (x,), budget="70%", whole=True)


def pipeline(folder: Path) -> None:
    """Two stages, each planned by itself, with four microbatches in flight."""
    microbatches, stages = 4, 2
    piece = torch.randn(256, WIDTH)
    whole = torch.randn(microbatches * 256, WIDTH, generator=torch.Generator().manual_seed(1))

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (output - target).square().mean()

    def stage() -> nn.Module:
        torch.manual_seed(rank())
        return nn.Sequential(Block(), Block())

    def run(module: nn.Module) -> tuple[list[torch.Tensor], int]:
        schedule = ScheduleGPipe(PipelineStage(module, rank(), stages, torch.device("cpu")), microbatches, loss_fn=loss)
        optimizer = torch.optim.AdamW(module.parameters())
        torch.manual_seed(7)

        def step() -> None:
            optimizer.zero_grad()
            schedule.step(*([whole] if rank() == 0 else []), **({} if rank() == 0 else {"target": whole}))

        for _ in range(3):
            step()
            optimizer.step()
        return [p.detach().clone() for p in module.parameters()], measure_peak(step)

    expected, eager_peak = run(stage())
    module = stage()
    schedule = remat_planner.plan(
        module,
        (piece.requires_grad_(rank() > 0),),
        loss=(lambda output: loss(output, piece.detach())) if rank() == stages - 1 else None,
        budget="75%",
        solver="ilp",
        time_limit=2,
    )
    found, peak = run(remat_planner.apply_schedule(module, schedule))
    assert same(found, expected)
    bound = schedule.peak_in_flight(microbatches)
    assert schedule.graph.constant_bytes + peak <= bound
    assert bound < schedule.graph.constant_bytes + eager_peak


class Scaled(nn.Module):
    """A layer, and a number that no watch sees."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(WIDTH, WIDTH)
        self.hidden = ctypes.py_object({"scale": 1.0})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.a(x) * self.hidden.value["scale"]).square().mean()


def audits(folder: Path) -> None:
    """All ranks audit each step; on the last rank the third one is another, and the others end as they do in eager."""
    torch.manual_seed(0)
    audit.SHARE_OF_TIME = math.inf
    model, x = Scaled(), build()[1]
    planned = DistributedDataParallel(remat_planner.apply_schedule(model, planned_once(folder, model, x, budget="100%")))
    for step in range(4):
        if step == 3 and rank() == torch.distributed.get_world_size() - 1:
            model.hidden.value["scale"] = 2.0
        try:
            planned(x).backward()
        except AuditError:
            print(f"step {step} differs on rank {rank()}", flush=True)
            raise


_CHECKS = (
    *(ddp, ddp_by_regions, fsdp, copies, sharded_afterwards, refusals),
    *(overlap, pinned_collectives, pipeline, audits),
)
CHECKS = {check.__name__: check for check in _CHECKS}


def main() -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    folder = Path(sys.argv[1])
    for name in sys.argv[2:]:
        CHECKS[name](folder)
        torch.distributed.barrier()
        if rank() == 0:
            print("ok", name, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
