"""Each private name of PyTorch around the values of fakes, by itself."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensor

from remat_planner.tracer import torch_values as private
from remat_planner.tracer.torch_private import new_fake_mode

aten = torch.ops.aten


def test_the_result_of_an_operator_is_given_where_its_size_depends_on_values():
    mode = new_fake_mode()
    with mode, private.sized_results_given(mode):
        mask = torch.empty(4, dtype=torch.bool)
        with private.result_given(aten.nonzero.default, lambda: torch.empty(3, 1, dtype=torch.int64)):
            assert mask.nonzero().shape == (3, 1)
        with private.result_given(aten.unique_dim.default, lambda: None), pytest.raises(DynamicOutputShapeException):
            mask.nonzero()
    assert "dispatch" not in vars(mode)
    with mode, pytest.raises(DynamicOutputShapeException):
        mask.nonzero()


def test_a_result_is_given_in_the_place_of_an_index_with_a_mask():
    mode = new_fake_mode()
    with mode, private.sized_results_given(mode):
        x, mask = torch.empty(4, 5), torch.empty(4, dtype=torch.bool)
        with private.result_given(aten.index.Tensor, lambda: private.like(torch.empty_strided((2, 5), (1, 2)))):
            assert x[mask].stride() == (1, 2)


def test_whole_tensors_are_read():
    with new_fake_mode():
        fake = torch.empty(2, 2)
    with private.whole_tensors_read(lambda tensor, *, shared: torch.ones(tensor.shape) * (2 if shared else 1)):
        assert fake.tolist() == [[1, 1], [1, 1]]
        assert fake.numpy().tolist() == [[2, 2], [2, 2]]
        assert not fake.numpy().flags.writeable
        with pytest.raises(RuntimeError, match="requires grad"):
            fake.requires_grad_().numpy()
    assert "numpy" not in vars(FakeTensor)


def test_a_composite_operator_runs_by_its_kernel_in_c():
    x = torch.randn(3)
    assert torch.equal(private.run_composite(aten.square.default, x), x * x)
