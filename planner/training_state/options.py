"""TODO: ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from remat_planner.planner.distributed import own_part
from remat_planner.planner.errors import TrainingStateError


@dataclass(frozen=True)
class OptimizerNeeds:
    """Bytes of an optimizer.

    Attributes:
        state: what it keeps from one step to the next.
        transient: what its step takes at its highest, beyond parameters, gradients and state: a foreach AdamW holds about one
            more copy of the parameters, a fused one nothing.
    """

    state: int
    transient: int


NO_OPTIMIZER = OptimizerNeeds(0, 0)

MASTER = "master weights"
GATHERED = "gathered blocks"
ACCUMULATED = "accumulated gradients"
BUCKETS = "gradient buckets"
VIEWS = "views"
BUCKET_KINDS = ("copied", VIEWS)
_STAGES = (1, 2, 3)


@dataclass(frozen=True)
class TrainingState:
    """How gradients and parameters are kept.

    Attributes:
        gradient_dtype: in which gradients are kept ("float32"), or None for that of the parameters.
        master_weights: whether the optimizer steps on float32 copies of parameters of other floating-point dtypes.
        shard: over how many ranks the training state is divided; 1 for not at all.
        zero_stage: what is divided: 1 the optimizer's state and master weights, 2 gradients too, 3 parameters too.
        optimizer_offload: whether the optimizer, its state and the master weights are on the host, and take nothing here.
        accumulate: whether gradients from before are there, to which the step adds its own.
        gradient_buckets: "copied" or "views" for the buckets of ``DistributedDataParallel``, or None where there are none.

    Raises:
        TrainingStateError: no floating-point dtype, no number of ranks, no stage of ZeRO for them, or no kind of buckets.
    """

    gradient_dtype: str | None = None
    master_weights: bool = False
    shard: int = 1
    zero_stage: int = 3
    optimizer_offload: bool = False
    accumulate: bool = False
    gradient_buckets: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.shard, bool) or not isinstance(self.shard, int) or self.shard < 1:
            raise TrainingStateError(f"{self.shard!r} is no number of ranks to shard over: give a whole number, 1 or more")
        if self.zero_stage not in _STAGES:
            raise TrainingStateError(f"{self.zero_stage!r} is no stage of ZeRO: give 1, 2 or 3")
        if self.zero_stage != 3 and self.shard == 1:
            raise TrainingStateError(
                f"stage {self.zero_stage} of ZeRO divides over ranks, and there is one: say over how many (shard=8, --shard 8)"
            )
        dtype = getattr(torch, self.gradient_dtype or "float32", None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise TrainingStateError(
                f"{self.gradient_dtype!r} is no dtype that gradients can be kept in: give float32, bfloat16 or float16"
            )
        if self.gradient_buckets not in (None, *BUCKET_KINDS):
            raise TrainingStateError(
                f"{self.gradient_buckets!r} is no kind of gradient buckets: give copied, as DistributedDataParallel has them, "
                "or views where it is made with gradient_as_bucket_view=True"
            )
        if self.gradient_buckets is not None and (self.gradients_in_shards or self.gradient_dtype is not None):
            raise TrainingStateError(
                "gradient buckets are those of DistributedDataParallel, which has whole gradients on every rank and keeps them "
                "in the dtype of their parameters: leave out gradient_dtype and shard (stage 1 of ZeRO, which divides the "
                "optimizer's state only, is possible), or gradient_buckets"
            )

    def local_shape(self, parameter: torch.Tensor) -> tuple[int, ...]:
        """The shape of what rank 0 has of ``parameter``, or this rank of a DTensor; a number is not divided."""
        shape = tuple(own_part(parameter).shape)
        return (-(-shape[0] // self.shard), *shape[1:]) if shape else shape

    def local_numel(self, parameter: torch.Tensor) -> int:
        """Elements of ``parameter`` at rank 0."""
        count = 1
        for size in self.local_shape(parameter):
            count *= size
        return count

    @property
    def gradients_in_shards(self) -> bool:
        """Whether a gradient is divided when the step is done with it."""
        return self.shard > 1 and self.zero_stage >= 2

    def gradient_bytes(self, parameter: torch.Tensor) -> int:
        """What is kept of the gradient of ``parameter``."""
        count = self.local_numel(parameter) if self.gradients_in_shards else own_part(parameter).numel()
        return count * self.gradient_dtype_of(parameter).itemsize

    def gradient_dtype_of(self, parameter: torch.Tensor) -> torch.dtype:
        """In which the gradient of ``parameter`` is kept."""
        return getattr(torch, self.gradient_dtype) if self.gradient_dtype is not None else parameter.dtype

    def optimized_dtype(self, parameter: torch.Tensor) -> torch.dtype:
        """Of what the optimizer steps on in place of ``parameter``."""
        return torch.float32 if self.has_master(parameter) else parameter.dtype

    def has_master(self, parameter: torch.Tensor) -> bool:
        """Whether the optimizer steps on a float32 copy of ``parameter``."""
        low = parameter.dtype.is_floating_point and parameter.dtype.itemsize < torch.float32.itemsize
        return self.master_weights and parameter.requires_grad and low


AS_THE_MODEL = TrainingState()


def bucket_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """Bytes of DDP's buckets, which have a place for every gradient."""
    return sum(p.numel() * p.dtype.itemsize for p in parameters if p.requires_grad)


def lets_go_of_gradients(accumulate: bool, gradient_buckets: str | None) -> bool:
    """Whether the gradients that a step makes are added to others or copied into buckets, and not kept themselves."""
    return accumulate or gradient_buckets == VIEWS
