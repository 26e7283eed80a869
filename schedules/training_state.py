"""What one device keeps of gradients, parameters and optimizer during training, as plain data.

Add an option here as a documented field with a default that changes nothing. ``planner.training_state`` counts its bytes, and
``planner.cli.training_options`` declares its command-line option.
"""

from __future__ import annotations

from dataclasses import dataclass

from remat_planner.schedules.errors import TrainingStateError

_BUCKET_KINDS = ("copied", "views")
_FLOATING_DTYPES = frozenset(
    {
        *("float32", "float", "float64", "double", "float16", "half", "bfloat16", "float4_e2m1fn_x2"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    }
)


@dataclass(frozen=True)
class TrainingState:
    """How gradients, parameters and the optimizer are kept; by default as PyTorch does in one process.

    Attributes:
        gradient_dtype: floating-point dtype of the gradients between steps ("float32"); None for that of each parameter.
        master_weights: the optimizer steps on float32 copies of the parameters of lower precision.
        shard: number of ranks that divide the training state; 1 for no sharding.
        zero_stage: stage of ZeRO, which says what the ranks divide: 1 the optimizer's state and master weights, 2 gradients
            too, 3 parameters too, as FSDP does.
        optimizer_offload: the optimizer runs on the host: its state, the master weights and its step take no bytes on the
            device.
        accumulate: the step adds its gradients to existing ones, as every step of an accumulation but the first does. The
            existing gradients are resident from the start, and each new one is beside them until it is added.
        outputs: "held" where the training loop holds what the model returns until the step ends (``logits = model(x)``), or
            "dropped" where nothing refers to it any more when the backward begins
            (``criterion(model(x), y).backward()``).
        gradient_buckets: how ``DistributedDataParallel`` keeps its buckets: "copied" (gradients are copied into them), "views"
            (gradients live in them, ``gradient_as_bucket_view=True``), or None for no buckets.

    Raises:
        TrainingStateError: an option has no such value, or two options contradict each other.
    """

    gradient_dtype: str | None = None
    master_weights: bool = False
    shard: int = 1
    zero_stage: int = 3
    optimizer_offload: bool = False
    accumulate: bool = False
    outputs: str = "held"
    gradient_buckets: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.shard, bool) or not isinstance(self.shard, int) or self.shard < 1:
            raise TrainingStateError(f"{self.shard!r} is not a number of ranks to shard over: give a whole number, 1 or more")
        if self.zero_stage not in (1, 2, 3):
            raise TrainingStateError(f"{self.zero_stage!r} is not a stage of ZeRO: give 1, 2 or 3")
        if self.zero_stage != 3 and self.shard == 1:
            raise TrainingStateError(f"stage {self.zero_stage} of ZeRO needs more than one rank: give their number (shard=8)")
        if self.outputs not in ("held", "dropped"):
            raise TrainingStateError(
                f"{self.outputs!r} is not what a loop does with the model's outputs: give held or dropped (before the backward)"
            )
        if self.gradient_dtype is not None and self.gradient_dtype not in _FLOATING_DTYPES:
            raise TrainingStateError(
                f"gradients cannot be kept in {self.gradient_dtype!r}: give a floating-point dtype such as float32 or bfloat16"
            )
        if self.gradient_buckets is None:
            return
        if self.gradient_buckets not in _BUCKET_KINDS:
            raise TrainingStateError(
                f"{self.gradient_buckets!r} is not a kind of gradient buckets: give copied, which is how "
                "DistributedDataParallel keeps them by default, or views for gradient_as_bucket_view=True"
            )
        if self.gradients_in_shards or self.gradient_dtype is not None:
            raise TrainingStateError(
                "DistributedDataParallel keeps whole gradients in its buckets, in the dtype of their parameters: with "
                "gradient_buckets, leave out gradient_dtype and shard (stage 1 of ZeRO is possible: it divides only the "
                "optimizer's state), or leave out gradient_buckets"
            )

    @property
    def gradients_in_shards(self) -> bool:
        """Whether each rank retains only its shard of a gradient."""
        return self.shard > 1 and self.zero_stage >= 2

    @property
    def parameters_in_shards(self) -> bool:
        """Whether each rank retains only its shard of a parameter."""
        return self.shard > 1 and self.zero_stage == 3

    @property
    def gradients_in_buckets(self) -> bool:
        """Whether gradients live in the buckets of ``DistributedDataParallel`` and nowhere else."""
        return self.gradient_buckets == "views"

    @property
    def releases_gradients(self) -> bool:
        """Whether the step frees each new gradient once it is added to an existing one or copied into a bucket."""
        return self.accumulate or self.gradients_in_buckets
