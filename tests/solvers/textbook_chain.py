"""The chain of the rotor paper in the arrays of ``persistent_dp``, for tests against published tables."""

from __future__ import annotations

import numpy as np

from remat_planner.solvers.chain.persistent_dp import Floats, Ints, Stages


def textbook_stages(forward: Floats, activations: Ints, saved: Ints) -> Stages:
    """The chain of the paper: one option per stage, a gradient as large as its activation, no other memory.

    Args:
        forward: float64[n], seconds of each stage.
        activations: int64[n + 1], slots of what enters each stage and, last, of what leaves the chain.
        saved: int64[n], slots that the backward of each stage needs beside its input.
    """
    times = np.stack([forward, forward]).astype(np.float64)
    outputs = np.asarray(activations[1:], dtype=np.int64)
    held = np.asarray(saved, dtype=np.int64)
    return Stages(
        inputs=np.asarray(activations[:-1], dtype=np.int64),
        forward=times,
        forward_needs=np.stack([outputs, outputs]),
        save=times[:, :, None],
        save_needs=np.zeros((2, len(held), 1), dtype=np.int64),
        saved=held[:, None],
        backward_needs=(held + outputs)[:, None],
        beside=outputs,
    )
