"""The captured step against eager for each thing that code may do."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from remat_planner.tracer.errors import PythonStateError
from tests.tracer.cases import CASES, Written, linear, mean_square, noise
from tests.tracer.replay import replay
from tests.zoo import Case, loss_of


def build(name: str) -> Case:
    torch.manual_seed(0)
    return CASES[name]()


def fresh(tree: object) -> object:
    return pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone().requires_grad_(t.requires_grad), tree)


def tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


@contextmanager
def left_as_it_was(case: Case) -> Iterator[None]:
    """Asserts that nothing of the model, its inputs and the random generators changes inside."""
    state = {path: (t, t.clone(), t._version, t.requires_grad) for path, t in case.model.state_dict(keep_vars=True).items()}
    attributes = [dict(vars(module)) for module in case.model.modules()]
    modes = [module.training for module in case.model.modules()]
    inputs = copy.deepcopy([t.detach() for t in tensors(case.args)])
    generators = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes())

    yield

    now = case.model.state_dict(keep_vars=True)
    assert list(now) == list(state)
    for path, (tensor, value, version, requires_grad) in state.items():
        assert now[path] is tensor, path
        assert torch.equal(tensor, value), path
        assert (tensor._version, tensor.requires_grad, tensor.grad) == (version, requires_grad, None), path
    for before, module in zip(attributes, case.model.modules(), strict=True):
        assert vars(module).keys() == before.keys()
        assert all(vars(module)[key] is value for key, value in before.items())
    assert [module.training for module in case.model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(inputs, tensors(case.args), strict=True))
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert (random.getstate(), np.random.get_state()[1].tobytes()) == generators[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_capturing_leaves_everything_as_it_was_and_a_replay_has_eagers_bits(name: str):
    case = build(name)
    with left_as_it_was(case):
        joint = capture(case.model, case.args, case.kwargs, loss=case.loss)
    graph = lower(joint).graph
    assert simulate(graph, range(len(graph.ops))).peak_bytes > graph.constant_bytes
    assert [op.name for op in graph.ops if op.outside] == ["loss"]
    # A second one, not a deepcopy: hooks of modules hold on to the first.
    eager, eager_args, eager_kwargs = build(name)[:3]
    args = fresh(case.args)

    torch.manual_seed(1)
    output = eager(*eager_args, **eager_kwargs)
    loss = loss_of(case, output)
    loss.backward()
    after_eager = torch.get_rng_state()
    torch.manual_seed(1)
    ours = replay(joint, args, case.kwargs, lambda out: loss_of(case, out))

    assert torch.equal(torch.get_rng_state(), after_eager)
    assert torch.equal(ours.loss, loss)
    for parameter, theirs in eager.named_parameters():
        mine = ours.parameter_gradients.get(parameter)
        assert (mine is None) == (theirs.grad is None), parameter
        assert mine is None or (torch.equal(mine, theirs.grad) and mine.stride() == theirs.grad.stride()), parameter
    for (path, mine), theirs in zip(case.model.state_dict().items(), eager.state_dict().values(), strict=True):
        # The attribute that a hook sets is no state of the step.
        assert torch.equal(mine, theirs), path
    for mine, theirs in zip(tensors(args), tensors(eager_args), strict=True):
        assert torch.equal(mine, theirs), "an input that the step changes in place"
    wanted = [t.grad for t in tensors(eager_args) if t.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(ours.input_gradients, wanted, strict=True))
    for mine, theirs in zip(tensors(ours.output), tensors(output), strict=True):
        assert torch.equal(mine, theirs)


def test_an_ambient_autocast_is_part_of_the_capture():
    case = build("loss_with_draws_and_in_place_ops")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        joint = capture(case.model, case.args, case.kwargs, loss=lambda output: output.float().mean())
        expected = case.model(*case.args)
    ours = replay(joint, case.args, case.kwargs, lambda output: output.float().mean())
    assert joint.autocast == {"cpu": "bfloat16"}
    assert ours.output.dtype == torch.bfloat16
    assert torch.equal(ours.output, expected)


def test_an_attribute_that_is_filled_at_its_first_use_is_left_behind_and_watched():
    case = build("attribute_filled_at_first_use")
    joint = capture(case.model, case.args, case.kwargs)
    assert [(effect.label, effect.once) for effect in joint.effects.made] == [("positions", True)]
    assert joint.reads.written == {}


def test_lists_and_hooks_that_the_forward_grows_are_put_back():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        m.calls.append(x.shape)
        m.a.register_forward_hook(lambda _, __, output: output * 2)
        m.count += 1
        return mean_square(m.a(x))

    model = Written(forward, a=linear(), calls=["before"], count=3)
    with pytest.raises(PythonStateError) as caught:
        capture(model, (noise(),))
    assert {"count", "calls[1]"} <= set(caught.value.names)
    assert any(name.startswith("a._forward_hooks[") for name in caught.value.names)
    assert model.calls == ["before"]
    assert not model.a._forward_hooks
    assert model.count == 3


@pytest.mark.slow
def test_mixtures_of_experts_multiply_in_groups():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        use_cache=False,
    )
    model = transformers.MixtralForCausalLM(config).train()
    tokens = torch.randint(0, 100, (2, 16))
    kwargs = {"input_ids": tokens, "labels": tokens}
    joint = capture(model, (), kwargs)
    loss = model(**kwargs).loss
    loss.backward()
    ours = replay(joint, (), kwargs, lambda output: output.loss)
    assert torch.equal(ours.loss, loss)
    assert all(torch.equal(ours.parameter_gradients[name], p.grad) for name, p in model.named_parameters())
    routing = [node.meta["pinned"] for node in joint.ops if node.meta["pinned"] and "routing" in node.meta["pinned"]]
    assert routing
