"""The ``ctx`` of a Function is kept without its tensors, and put together again."""

from __future__ import annotations

import torch

from remat_planner.tracer.functions.context import Context, KeptContext


def test_a_context_is_taken_apart_and_put_together():
    one, two, three = torch.ones(1), torch.ones(2), torch.ones(3)
    context = Context((True, False))
    context.save_for_backward(one, None)
    context.set_materialize_grads(False)
    context.number, context.tensor, context.several = 3, two, {"list": [three, 4]}
    kept, tensors = KeptContext.of(context)
    assert [tensor.numel() for tensor in tensors] == [1, 2, 3]
    assert not any(isinstance(value, torch.Tensor) for value in (*kept.saved, *kept.attributes.values()))
    assert not kept.holds_objects
    others = [tensor + 1 for tensor in tensors]
    again = kept.context(others)
    assert again.saved_tensors[0] is others[0]
    assert again.saved_tensors[1] is None
    assert again.tensor is others[1]
    assert again.several["list"][0] is others[2]
    assert again.several["list"][1] == 4
    assert (again.number, again.needs_input_grad, again.materialize_grads) == (3, (True, False), False)


def test_two_backwards_do_not_share_what_they_set():
    context = Context((True,))
    context.seen = {"steps": 1}
    kept, _ = KeptContext.of(context)
    first = kept.context([])
    first.seen["steps"] = 2
    first.other = 1
    second = kept.context([])
    assert second.seen == {"steps": 1}
    assert not hasattr(second, "other")


def test_objects_in_a_context_are_seen():
    context = Context((True,))
    context.helper = [object()]
    assert KeptContext.of(context)[0].holds_objects
