"""The private names behind ``planner.torch_inductor`` do what it says."""

from __future__ import annotations

import torch
import torch._inductor.config
import torch._inductor.custom_graph_pass
from torch._dynamo.exc import BackendCompilerFailed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from remat_planner.planner.torch_inductor import (
    compiled_frame,
    convolves_images,
    error_within,
    outside_tracing,
    partitioner_missing,
)


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


def test_convolutions_over_a_line_are_none_over_images():
    for convolve, shape, weight, images in (
        (torch.conv1d, (1, 2, 8), (3, 2, 3), False),
        (torch.conv2d, (1, 2, 8, 8), (3, 2, 3, 3), True),
        (torch.nn.functional.linear, (1, 2), (3, 2), False),
    ):
        module = make_fx(convolve, tracing_mode="fake")(torch.ones(shape), torch.ones(weight))
        assert convolves_images(module) == images
