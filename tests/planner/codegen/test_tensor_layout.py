"""Incoming gradients in the captured layout."""

from __future__ import annotations

import torch

from remat_planner.planner.codegen.tensor_layout import TensorLayout


def test_a_gradient_that_fits_is_taken_as_it_is():
    gradient = torch.randn(3, 4)
    assert TensorLayout.of(torch.empty(3, 4)).fit(gradient) is gradient


def test_a_gradient_of_another_layout_is_laid_out_as_captured():
    gradient = torch.randn(1).expand(3, 4)
    form = TensorLayout.of(torch.empty(4, 3).t())
    fitted = form.fit(gradient)
    assert fitted.stride() == (1, 3)
    assert torch.equal(fitted, gradient)


def test_a_gradient_captured_as_expanded_may_arrive_dense():
    form = TensorLayout.of(torch.empty(1).expand(3, 4))
    gradient = torch.randn(4, 3).t()
    assert torch.equal(form.fit(gradient), gradient)


def test_a_gradient_captured_as_part_of_a_larger_tensor_may_arrive_dense():
    form = TensorLayout.of(torch.empty(3, 10)[:, :4])
    gradient = torch.randn(3, 4)
    fitted = form.fit(gradient)
    assert fitted.stride() == (10, 1)
    assert torch.equal(fitted, gradient)
