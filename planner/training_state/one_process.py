"""Which training states a single process cannot run, so that ``verify`` refuses their schedules."""

from __future__ import annotations

from remat_planner.schedules import TrainingState


def beyond_one_process(training: TrainingState) -> str | None:
    """What the state counts beyond a step of plain PyTorch in one process, in words; None if such a process can run it."""
    if training.shard > 1:
        return f"parameters in shards over {training.shard} ranks"
    if training.gradient_dtype is not None:
        return f"gradients in {training.gradient_dtype}"
    if training.gradients_in_buckets:
        return "gradients in the buckets of DistributedDataParallel"
    return None
