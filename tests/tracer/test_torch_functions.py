"""Each private name of PyTorch around ``autograd.Function``, apart: the test that fails says what a release has moved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from remat_planner.planner import torch_private as planner_private
from remat_planner.tracer import torch_functions as private
from remat_planner.tracer import torch_private
from tests.autograd_functions import Sine


def test_methods_that_return_addresses_can_be_put_above_those_of_the_base_class():
    assert (torch.Tensor, "data_ptr") in private.ADDRESSES
    assert (torch.UntypedStorage, "data_ptr") in private.ADDRESSES
    for holder, name in private.ADDRESSES:
        assert name not in vars(holder)
        setattr(holder, name, lambda _: 7)
        owner = torch.ones(1) if holder is torch.Tensor else torch.ones(1).untyped_storage()
        assert getattr(owner, name)() == 7
        delattr(holder, name)
        assert getattr(owner, name)() > 7


def test_every_method_that_returns_an_address_is_known():
    for holder in (torch.Tensor, torch.UntypedStorage):
        known = {name for owner, name in private.ADDRESSES if owner is holder}
        assert {name for name in dir(holder) if name.endswith("data_ptr") and not name.startswith("_")} <= known


def test_fakes_tell_that_c_code_reads_their_address():
    mode = torch_private.new_fake_mode()
    with torch_private.without_addresses(mode):
        fake = torch_private.to_fake(mode, torch.ones(2))
    with pytest.raises(RuntimeError, match=private.READS_OF_ADDRESSES):
        fake.data_ptr()
    with pytest.raises(RuntimeError, match=private.READS_OF_ADDRESSES):
        torch.utils.dlpack.to_dlpack(fake)


def test_functions_are_applied_by_another():
    bound = Sine.apply
    seen: list[str] = []

    def apply(original: Callable[..., Any], function: Any, *args: Any) -> Any:
        seen.append(f"forward of {function.__name__}")
        return original(*args)

    def backward(original: Callable[..., Any], function: Any, *gradients: Any) -> Any:
        seen.append(f"backward of {function.__name__}")
        return original(*gradients)

    x = torch.ones(2, requires_grad=True)
    with private.functions_applied_by(apply, backward):
        bound(x).sum().backward()
        planner_private.direct_apply(Sine)
    assert seen == ["forward of Sine", "backward of Sine"]
    assert torch.equal(x.grad, x.detach().cos())
    Sine.apply(x).sum().backward()
    assert len(seen) == 2


def test_autograd_can_be_had_where_a_planned_step_runs_without_it():
    values = torch.ones(3)
    with planner_private.below_autograd():
        assert not values.detach().requires_grad_().prod().requires_grad
        with private.with_autograd():
            source = values.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(source.prod(), source)
        with private.autograd_at_hand(), torch.no_grad():
            assert not values.detach().requires_grad_().prod().requires_grad
            with torch.enable_grad():
                assert values.detach().requires_grad_().prod().requires_grad
        assert not values.detach().requires_grad_().prod().requires_grad
    assert torch.equal(gradient, values)


def test_every_name_is_tried():
    source = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in private.__all__ if f"private.{name}" not in source] == []
