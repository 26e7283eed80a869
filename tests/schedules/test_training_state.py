"""The training state is plain data, and refuses what means nothing."""

from __future__ import annotations

import pytest
import torch

from remat_planner.schedules import TrainingState, TrainingStateError


def test_every_floating_point_dtype_of_torch_can_keep_gradients_and_no_other() -> None:
    for name, dtype in vars(torch).items():
        if isinstance(dtype, torch.dtype):
            if dtype.is_floating_point:
                assert TrainingState(gradient_dtype=name).gradient_dtype == name
            else:
                with pytest.raises(TrainingStateError, match="floating-point"):
                    TrainingState(gradient_dtype=name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": 0}, "0 is not a number of ranks"),
        ({"shard": True}, "True is not a number of ranks"),
        ({"zero_stage": 4, "shard": 2}, "4 is not a stage of ZeRO"),
        ({"zero_stage": 1}, "stage 1 of ZeRO needs more than one rank"),
        ({"gradient_dtype": "half32"}, "cannot be kept in 'half32'"),
        ({"gradient_buckets": "flat"}, "'flat' is not a kind of gradient buckets"),
        ({"gradient_buckets": "copied", "gradient_dtype": "float32"}, "leave out gradient_dtype and shard"),
    ],
)
def test_an_error_names_the_value(options: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingStateError, match=message):
        TrainingState(**options)  # type: ignore[arg-type]


def test_what_the_stages_of_zero_divide() -> None:
    divided = [
        (state.gradients_in_shards, state.parameters_in_shards)
        for state in (TrainingState(), *(TrainingState(shard=2, zero_stage=stage) for stage in (1, 2, 3)))
    ]
    assert divided == [(False, False), (False, False), (True, False), (True, True)]


def test_when_gradients_are_released() -> None:
    assert not TrainingState().releases_gradients
    assert not TrainingState(gradient_buckets="copied").releases_gradients
    assert TrainingState(gradient_buckets="views").releases_gradients
    assert TrainingState(accumulate=True).releases_gradients
