"""Each private name of PyTorch around jagged tensors does what it is used for."""

from __future__ import annotations

import torch

from remat_planner.tracer import torch_nested as private
from remat_planner.tracer.torch_private import new_fake_mode


def _jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)


def test_a_jagged_tensor_is_put_together_of_its_parts():
    jagged = _jagged()
    form, parts = private.JaggedForm.of(jagged), private.parts_of_jagged(jagged)
    assert private.is_jagged(jagged)
    assert private.has_jagged([type(jagged)])
    assert not private.is_jagged(parts[0])
    assert [getattr(jagged, name)().data_ptr() for name in form.names] == [part.data_ptr() for part in parts]
    again = private.jagged_of(form, parts)
    assert private.JaggedForm.of(again) == form
    assert torch.equal((again + jagged).values(), jagged.values() * 2)  # the offsets are one tensor


def test_jagged_tensors_consist_of_fakes():
    mode = new_fake_mode()
    with private.jagged_of_fakes(mode), mode:
        made = torch.nested.nested_tensor_from_jagged(torch.ones(6, 3), torch.tensor([0, 2, 6]))
        assert private.consists_of_fakes(made.sin())
    real = _jagged()
    assert not private.consists_of_fakes(real)
    assert torch.equal(torch.nested.nested_tensor_from_jagged(real.values(), real.offsets()).values(), real.values())
