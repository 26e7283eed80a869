"""Which calls are the same call, and which compute nothing."""

import pytest
import torch

from remat_planner.tracer.operators.op_call import TensorSpec, op_call
from tests.tracer.fake_calls import call_of, calls_of, nodes_of

aten = torch.ops.aten


def test_equal_layers_share_their_keys():
    w1, w2, x = torch.randn(8, 8), torch.randn(8, 8), torch.randn(4, 8)
    calls = calls_of(lambda x, a, b: torch.tanh(torch.mm(torch.tanh(torch.mm(x, a)), b)), x, w1, w2)
    assert len(calls) == 4
    assert len({call.key for call in calls}) == 2


@pytest.mark.parametrize(
    "changed",
    [
        lambda: (torch.randn(4, 8), torch.randn(8, 9)),
        lambda: (torch.randn(8, 4).t(), torch.randn(8, 8)),
        lambda: (torch.randn(4, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)),
        lambda: (torch.randn(4, 16)[:, 8:], torch.randn(8, 8)),
    ],
    ids=["shape", "strides", "dtype", "part of a storage"],
)
def test_what_decides_the_cost_is_in_the_key(changed):
    plain = call_of(torch.mm, torch.randn(4, 8), torch.randn(8, 8))
    assert call_of(torch.mm, *changed()).key != plain.key


def test_plain_arguments_and_aliasing_are_in_the_key():
    x, y = torch.randn(4, 4), torch.randn(4, 4)
    keys = {
        call_of(lambda x, y: torch.sum(x + y, 0), x, y, operator="sum").key,
        call_of(lambda x, y: torch.sum(x + y, 1), x, y, operator="sum").key,
        call_of(lambda x, y: x * y, x, y).key,
        call_of(lambda x, y: x * x, x, y).key,
    }
    assert len(keys) == 4


def test_the_device_is_not_in_the_key():
    def made_on(device):
        return call_of(lambda x: torch.zeros(3, device=device) if device else x, torch.ones(3), operator="zeros").key

    assert made_on("cpu") == made_on("meta")


def test_views_compute_nothing():
    def views(x):
        a, b = x.split(2)
        return a.t().expand(2, 3, 2).unsqueeze(0), b[0].detach().view(3, 1)

    calls = calls_of(views, torch.randn(4, 3))
    assert calls
    assert all(call.is_view for call in calls), [call.key for call in calls if not call.is_view]


def test_what_copies_or_writes_is_no_view():
    calls = calls_of(lambda x: (x.t().contiguous(), x.add_(1), x.new_empty(3)), torch.randn(4, 3))
    assert [call.is_view for call in calls if "aten.t." not in str(call.target)] == [False, False, False]


def test_bytes_that_results_allocate():
    call = call_of(lambda x: torch.max(x, 1), torch.randn(4, 3), operator="max")
    assert call.allocates == (16, 32)
    assert call_of(lambda x: x.add_(1), torch.randn(4, 3)).allocates == ()


def test_arguments_by_name_whether_positional_named_or_default():
    call = call_of(lambda x: torch.softmax(x, dim=-1), torch.randn(2, 3), operator="softmax")
    assert call.argument("dim") == -1
    assert isinstance(call.argument("self"), TensorSpec)
    assert call_of(torch.mul, torch.randn(2), torch.randn(2)).argument("other").shape == (2,)
    with pytest.raises(KeyError, match="wrong"):
        call.argument("wrong")


def test_a_node_without_a_value_is_refused():
    node = nodes_of(torch.mm, torch.randn(2, 2), torch.randn(2, 2))[0]
    del node.args[0].meta["val"]
    with pytest.raises(ValueError, match="meta"):
        op_call(node)
