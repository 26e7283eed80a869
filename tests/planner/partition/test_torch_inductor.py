"""The private names behind ``planner.torch_inductor`` do what it says."""

from __future__ import annotations

import torch
import torch._inductor.config
import torch._inductor.custom_graph_pass
from torch._dynamo.exc import BackendCompilerFailed
from torch._subclasses.fake_tensor import FakeTensorMode

from remat_planner.planner.torch_inductor import compiled_frame, error_within, outside_tracing, partitioner_missing


def test_this_release_takes_a_partitioner(monkeypatch):
    assert partitioner_missing() == ""
    monkeypatch.delattr(torch._inductor.custom_graph_pass, "CustomPartitionerFn")
    assert "CustomPartitionerFn" in partitioner_missing()


def test_operators_run_while_fakes_are_traced():
    with FakeTensorMode(), outside_tracing():
        assert torch.ones(2).sum().item() == 2.0


def test_the_error_of_a_backend_is_found():
    error = ValueError("ours")
    assert error_within(BackendCompilerFailed(len, error, None)) is error
    assert error_within(error) is error


def test_the_frame_outside_of_a_compilation():
    assert compiled_frame() == (0, 0)
