"""Each private name of PyTorch around operators that take functions does what it is used for."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest
import torch

from remat_planner.tracer import torch_higher_order as private
from remat_planner.tracer.torch_private import TorchDispatchMode, new_fake_mode

_COND = torch.ops.higher_order.cond


class Mode(TorchDispatchMode):
    """Runs the kernels of operators that take functions."""

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if private.is_higher_order(func):
            with self:
                return private.run_kernel(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def test_a_dispatch_mode_gets_the_operators_and_runs_their_kernels():
    assert private.is_higher_order(_COND)
    assert private.name_of(_COND) == private.BRANCH
    assert private.runs_as_operators(_COND)
    assert not private.is_higher_order(torch.ops.aten.sin.default)
    with Mode():
        result = _COND(torch.tensor(True), torch.sin, torch.cos, (torch.ones(2),))
    assert torch.equal(result, torch.ones(2).sin())


@pytest.mark.parametrize("name", sorted(private.FLEX_ATTENTION))
def test_flex_attention_has_a_kernel(name: str):
    import_module("torch.nn.attention.flex_attention")
    assert torch._C.DispatchKey.CompositeExplicitAutograd in getattr(torch.ops.higher_order, name).py_kernels


def test_flex_attention_takes_fakes_on_the_cpu_for_a_gpus():
    module = import_module("torch.nn.attention.flex_attention")
    with new_fake_mode():
        fake = torch.empty(1, 1, 2, 2, requires_grad=True)
    with private.flex_attention_as_on_gpu():
        module._validate_device(fake, fake, fake)
    with pytest.raises(NotImplementedError):
        module._validate_device(fake, fake, fake)


def test_the_backward_of_while_loop_is_traced_by_a_name_of_its_module():
    module = import_module("torch._higher_order_ops.while_loop")
    if not hasattr(module, "WhileLoopAutogradOp"):
        pytest.skip("while_loop has no backward in this release")
    assert "materialize_as_graph(" in inspect.getsource(module.WhileLoopAutogradOp.backward)
    before = module.materialize_as_graph
    with private.loops_differentiated(new_fake_mode()):
        assert module.materialize_as_graph is not before
    assert module.materialize_as_graph is before


@pytest.mark.slow
def test_eager_goes_through_torch_compile():
    seen = []

    def around(run, functions):
        seen.extend(functions)
        return run()

    with private.compiled_calls_by(around):
        torch.cond(torch.tensor(True), lambda y: y.sin(), lambda y: y.cos(), (torch.ones(2),))
    assert len(seen) == 2
    assert torch.compile.__module__ == "torch"
