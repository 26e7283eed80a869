"""Values that the forward reads during a capture are true, and guarded in later steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from remat_planner.tracer import capture
from remat_planner.tracer.errors import DataDependentError
from remat_planner.tracer.joint import ChainCall, Guards
from remat_planner.tracer.joint.graph import Joint
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.tracer.replay import replay


def broken(joint: Joint, *inputs: torch.Tensor, buffers: tuple[torch.Tensor, ...] = ()) -> list[str]:
    """The guards that no longer hold for these inputs."""
    return [reading.guard.source for reading in joint.guards.differing(buffers, inputs)]


def test_a_branch_on_a_mask_is_guarded():
    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(h if mask.all() else h * mask[:, None])

    model = Written(forward, a=linear())
    x, full, partial = noise(), torch.ones(4, dtype=torch.bool), torch.tensor([True, True, False, True])
    assert "aten.mul.Tensor" not in forward_operators(capture(model, (x, full)))
    joint = capture(model, (x, partial))
    assert "aten.mul.Tensor" in forward_operators(joint)
    assert [guard.expected for guard in joint.guards.all] == [False]
    assert joint.guards.all[0].source.startswith("tests/tracer/record/test_value_guards.py:")
    assert broken(joint, x, torch.tensor([False, True, True, True])) == []
    assert broken(joint, x, full) == [joint.guards.all[0].source]


def forward_operators(joint: Joint) -> list[str]:
    return [str(node.target) for node in joint.ops if not node.meta["in_backward"]]


def test_constants_need_no_guard():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[0])
        return mean_square(m.a(x)) if (positions.diff() == 1).all() and torch.tensor(3).item() == 3 else m.a(x).sum()

    assert capture(Written(forward, a=linear()), (noise(),)).guards.all == []


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda h: torch.ones_like(h[:, 0]), id="ones_like"),
        pytest.param(lambda h: ~torch.zeros_like(h, dtype=torch.bool), id="zeros_like"),
        pytest.param(lambda h: torch.full_like(h.t(), 3, dtype=torch.long).t()[:, 1:], id="full_like"),
        pytest.param(lambda h: h.new_ones(2, 3), id="new_ones"),
        pytest.param(lambda h: 1 - h.new_zeros(3), id="new_zeros"),
        pytest.param(lambda h: h.new_full((2,), True, dtype=torch.bool), id="new_full"),
        pytest.param(lambda h: torch.empty_like(h).fill_(2.0), id="empty_like"),
        pytest.param(lambda h: h.new_empty(3).copy_(torch.arange(1, 4)), id="new_empty"),
    ],
)
def test_a_tensor_that_takes_its_form_alone_from_an_activation_is_known(made: Callable[[torch.Tensor], torch.Tensor]):
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        mask = made(h)
        return mean_square(h * 2 if mask.all() and not (mask == 0).any() else h)

    joint = capture(Written(forward, a=linear()), (noise(),))
    assert forward_operators(joint).count("aten.mul.Tensor") == 1
    assert joint.guards.all == []


def test_a_size_that_such_a_tensor_decides_is_known_until_an_activation_is_written_to_it():
    def chosen(h: torch.Tensor, places: torch.Tensor, written: bool) -> torch.Tensor:
        mask = torch.full_like(h[:, 0], True).bool()
        mask[places] = False
        if written:
            mask[0] = h[0, 0] > 0
        return mean_square(h[mask])

    x, places = noise(), torch.tensor([1, 2])
    joint = capture(Written(lambda m, x, places: chosen(m.a(x), places, False), a=linear()), (x, places))
    assert broken(joint, x, torch.tensor([2, 3])) == []  # as many rows
    assert len(broken(joint, x, torch.tensor([2, 2]))) == 1
    with pytest.raises(DataDependentError, match="depends on parameters or on random draws"):
        capture(Written(lambda m, x, places: chosen(m.a(x), places, True), a=linear()), (x, places))


def answered(asked: Callable[[torch.Tensor], Any]) -> Written:
    """A forward that branches on what is asked of an activation or a draw, and draws a mask after it."""
    return Written(lambda m, x: mean_square(F.dropout(m.a(x) * 2 if asked(m.a(x)) else m.a(x), 0.5)), a=linear())


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        pytest.param(lambda h: torch.rand([]) < 0.0, False, id="rate of 0"),
        pytest.param(lambda h: torch.rand_like(h).max() > -1.0, None, id="of several"),
        pytest.param(lambda h: (torch.rand_like(h)[0] >= 0).all(), True, id="view"),
        pytest.param(lambda h: torch.rand(1).detach().clone() < 1, True, id="copy"),
        pytest.param(lambda h: torch.empty(2).uniform_(1, 3)[1] > 3, False, id="uniform_"),
        pytest.param(lambda h: torch.rand(1).item() < 0.0, False, id="number"),
        pytest.param(lambda h: torch.rand(1).item() >= 1.0, False, id="number at the end"),
        pytest.param(lambda h: [True][int(torch.empty(1).uniform_(0.0, 1.0).item())], True, id="choice out of one"),
        pytest.param(lambda h: torch.rand([]) < 0.1, None, id="rate above 0"),
        pytest.param(lambda h: torch.rand([]) > 0, None, id="0 may be drawn"),
        pytest.param(lambda h: torch.rand([]) > -1e-50, None, id="0 in the type of the tensor"),
        pytest.param(lambda h: torch.empty(2)[:1].uniform_() < 0, None, id="part of a storage"),
        pytest.param(lambda h: torch.rand(2).index_put_((torch.tensor(0),), h[0, 0].detach())[1] < 0, None, id="written to"),
        pytest.param(lambda h: [1, 0][int(torch.empty(1).uniform_(0.0, 2.0).item())], None, id="choice out of two"),
        pytest.param(lambda h: torch.rand(1).item() < 0.5, None, id="number in the middle"),
        pytest.param(lambda h: float(torch.rand(1).item()) < 0, None, id="another use of the number"),
    ],
)
def test_a_comparison_that_no_draw_changes_is_known(asked: Callable[[torch.Tensor], Any], answer: bool | None):
    if answer is None:
        with pytest.raises(DataDependentError, match="random draws"):
            capture(answered(asked), (noise(),))
    else:
        joint = capture(answered(asked), (noise(),))
        assert forward_operators(joint).count("aten.mul.Tensor") == answered_products(answer)
        assert joint.guards.all == []


def answered_products(answer: bool) -> int:
    return forward_operators(capture(answered(lambda _: answer), (noise(),))).count("aten.mul.Tensor")


def test_a_number_that_is_read_and_forgotten_is_no_reason_to_refuse():
    capture(Written(lambda m, x: (m.a(x).sum().item(), mean_square(m.a(x)))[1], a=linear()), (noise(),))


def test_views_and_in_place_ops_are_followed():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(4, 6, dtype=torch.int64)
        mask[:, :2] = 1
        row = mask[1]
        row += lengths
        mask.t()[0].fill_(7)
        return m.a(x).sum() * int(mask.sum())

    joint = capture(Written(forward, a=linear()), (noise(), torch.arange(6)))
    assert [guard.expected for guard in joint.guards.all] == [28 + 3 + 15 + 1]
    lengths = torch.tensor([0, 1, 2, 3, 4, 6])
    assert broken(joint, noise(), torch.arange(6)) == []
    assert len(broken(joint, noise(), lengths)) == 1
    assert lengths.tolist() == [0, 1, 2, 3, 4, 6]


def test_a_guard_does_not_write_to_an_input_that_the_forward_writes_to():
    def forward(m: Written, x: torch.Tensor, counter: torch.Tensor) -> torch.Tensor:
        counter += 1
        return m.a(x).sum() * int(counter)

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor(4)))
    counter = torch.tensor(4)
    assert broken(joint, noise(), counter) == []
    assert counter.item() == 4
    assert len(broken(joint, noise(), torch.tensor(5))) == 1


def test_buffers_are_known_until_something_unknown_is_written_to_them():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        if m.step < 5:
            h = h * 2
        m.step.add_(1)
        return mean_square(h)

    model = Written(forward, a=linear(), step=torch.tensor(4))
    joint = capture(model, (noise(),))
    assert [guard.expected for guard in joint.guards.all] == [True]
    assert broken(joint, noise(), buffers=(torch.tensor(0),)) == []
    assert len(broken(joint, noise(), buffers=(torch.tensor(5),))) == 1
    assert model.step.item() == 4


@pytest.mark.slow
def test_lists_equality_and_numbers_are_read():
    def forward(m: Written, x: torch.Tensor, sizes: torch.Tensor, scale: torch.Tensor) -> Any:
        parts = m.a(x).split(sizes.tolist())
        same = torch.equal(sizes, torch.tensor([1, 3]))
        return sum((mean_square(p) for p in parts), torch.zeros(())) * float(scale) * (2 if same else 1)

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 3]), torch.tensor(0.5)))
    assert [guard.expected for guard in joint.guards.all] == [[1, 3], True, 0.5]
    assert [type(guard.expected) for guard in joint.guards.all] == [list, bool, float]
    assert len(broken(joint, noise(), torch.tensor([2, 2]), torch.tensor(0.5))) == 1
    assert len(broken(joint, noise(), torch.tensor([1, 3]), torch.tensor(-0.5))) == 1


@pytest.mark.slow
def test_zeros_of_either_sign_differ_and_what_is_not_a_number_does_not():
    joint = capture(Written(lambda m, x, s: m.a(x).sum() * float(s), a=linear()), (noise(), torch.tensor(0.0)))
    assert broken(joint, noise(), torch.tensor(0.0)) == []
    assert len(broken(joint, noise(), torch.tensor(-0.0))) == 1
    joint = capture(Written(lambda m, x, s: m.a(x).sum() * s.tolist()[0], a=linear()), (noise(), torch.tensor([torch.nan])))
    assert broken(joint, noise(), torch.tensor([torch.nan])) == []


def test_a_read_made_twice_is_one_guard_and_one_made_after_a_write_another():
    def forward(m: Written, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        h = m.a(x) * int(n) * int(n)
        n += 1
        return mean_square(h * int(n))

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor(2)))
    assert [guard.expected for guard in joint.guards.all] == [2, 3]
    assert joint.guards.hold((), (noise(), torch.tensor(2)))
    assert not joint.guards.hold((), (noise(), torch.tensor(3)))


def test_the_values_of_an_earlier_time_are_read_later():
    def forward(m: Written, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        before = n * 10
        n += 1
        assert int(n) == 3
        return mean_square(m.a(x) * int(before))

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor(2)))
    assert [guard.expected for guard in joint.guards.all] == [3, 20]
    assert joint.guards.hold((), (noise(), torch.tensor(2)))


def test_a_difference_is_found_before_the_operators_that_it_makes_impossible():
    def forward(m: Written, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        table = torch.zeros(int(ids.max()) + 1)
        table[ids] = 1
        return mean_square(m.a(x)) * int(table.sum())

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([0, 2, 2])))
    assert [guard.expected for guard in joint.guards.all] == [2, 2]
    assert not joint.guards.hold((), (noise(), torch.tensor([0, 9, 2])))
    assert len(broken(joint, noise(), torch.tensor([0, 9, 2]))) == 1


def test_inputs_that_are_as_before_are_not_computed_with_again():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        ends = lengths.cumsum(0)
        for _ in range(5):
            ends = ends * 2 - ends
        return mean_square(m.a(x)[: int(ends[-1])])

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 2])))
    (group,) = joint.guards.groups
    assert joint.guards.hold((), (noise(), torch.tensor([1, 2])))
    assert [seen.tolist() for seen in group._seen] == [[1, 2]]
    assert joint.guards.hold((), (noise(), torch.tensor([2, 1])))
    assert [seen.tolist() for seen in group._seen] == [[2, 1]]
    assert not joint.guards.hold((), (noise(), torch.tensor([2, 2])))


@pytest.mark.parametrize(
    "rows",
    [
        lambda h, mask: h[mask],
        lambda h, mask: h[mask.nonzero().squeeze(1)],
        lambda h, mask: h[torch.where(mask)],
        lambda h, mask: h[torch.argwhere(mask)[:, 0]],
        lambda h, mask: h.masked_select(mask[:, None]),
        lambda h, mask: h.repeat_interleave(mask.long(), 0),
        lambda h, mask: h[: len(torch.unique(torch.arange(4) * mask)) - 1],
        lambda h, mask: h[: torch.bincount(torch.arange(4)[mask]).shape[0]],
    ],
)
def test_a_size_that_depends_on_an_input_is_known_and_guarded(rows: Any):
    model = Written(lambda m, x, mask: mean_square(rows(m.a(x), mask)), a=linear())
    mask = torch.tensor([True, False, True, True])
    joint = capture(model, (noise(), mask))
    assert {guard.kind for guard in joint.guards.all} <= {"size", "value"}
    assert joint.guards.hold((), (noise(), mask))
    assert not joint.guards.hold((), (noise(), torch.tensor([True, False, False, False])))


def test_a_size_that_depends_on_constants_needs_no_guard():
    joint = capture(Written(lambda m, x: mean_square(m.a(x)[torch.arange(4) % 2 == 0]), a=linear()), (noise(),))
    assert joint.guards.all == []


@pytest.mark.slow
def test_values_are_read_through_numpy():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)[: int(lengths.numpy().sum())]) * float(lengths.float().numpy()[0])

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 2])))
    assert [guard.expected for guard in joint.guards.all] == [[1, 2], [1.0, 2.0]]
    assert broken(joint, noise(), torch.tensor([1, 2])) == []


def test_an_array_that_would_change_with_its_tensor_is_refused():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        array = lengths.numpy()
        lengths += 1
        return mean_square(m.a(x)) * int(array[0])

    with pytest.raises(DataDependentError, match="NumPy"):
        capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 2])))


@pytest.mark.slow
def test_numbers_put_together_to_a_tensor_are_read():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        return mean_square(m.a(x)[torch.tensor([n for n in lengths])])  # noqa: C416

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 2])))
    assert [guard.expected for guard in joint.guards.all] == [1, 2]


@pytest.mark.slow
def test_packed_sequences_have_their_batch_sizes():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
        padded, found = pad_packed_sequence(m.rnn(packed)[0])
        assert found.tolist() == [1, 3]
        return mean_square(padded) * packed.data.shape[0]

    joint = capture(Written(forward, rnn=torch.nn.LSTM(4, 4)), (torch.randn(3, 2, 4), torch.tensor([1, 3])))
    assert joint.guards.hold((), (torch.randn(3, 2, 4), torch.tensor([1, 3])))
    assert not joint.guards.hold((), (torch.randn(3, 2, 4), torch.tensor([2, 2])))


def test_guards_on_the_host_hold_for_the_same_values():
    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        padded = torch.zeros(4, dtype=torch.long, device=mask.device)
        padded[mask] = lengths
        return mean_square(m.a(x)[mask]) * int(padded.sum()) * int(lengths.max())

    mask, lengths = torch.tensor([True, False, True, True]), torch.tensor([2, 3, 4])
    groups = capture(Written(forward, a=linear()), (noise(), mask, lengths)).guards.groups
    guards = Guards(tuple(group.moved_to_host() for group in groups))
    assert all(group.on_host for group in guards.groups)
    assert guards.hold((), (noise(), mask, lengths))
    assert guards.hold((), (noise(), mask.flip(0), lengths))
    assert not guards.hold((), (noise(), mask, lengths + 1))


def test_a_call_on_the_host_makes_its_tensors_there():
    call = ChainCall(torch.ops.aten.arange.default, (3,), {"device": torch.device("cuda", 0)})
    assert call.on_host().on({}).tolist() == [0, 1, 2]
    nested = ChainCall(torch.ops.aten.cat.default, ([torch.ones(1), torch.zeros(1)],), {})
    assert nested.on_host().on({}).tolist() == [1, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "use",
    [
        lambda h, n: h[:, : n[0]],
        lambda h, n: h[..., n[0] :: n[1]],
        lambda h, n: h[..., : (n[1] // 2)] * (7 // n).sum(),
        lambda h, n: h[:, : torch.div(n[1], 2, rounding_mode="floor")],
        lambda h, n: h * (torch.arange(n.sum()) % 3 // 2).sum() * (n.repeat_interleave(n) // 2).sum(),
        lambda h, n: h * (h.detach() // 0.1) * (0.1 // h.detach().abs()),
        lambda h, n: h[n[0]] + h[:, [n[0], n[1]]].sum(),
        lambda h, n: h[n[0] == 2] * sum(range(n[0])) * [1.0, 2.0, 3.0][n[0]],
        lambda h, n: h.view(n[0], -1),
        lambda h, n: h.reshape(n.prod().item(), -1).sum() + h[None].expand(n[0], -1, -1).sum(),
        lambda h, n: h.repeat(n[0], 1).split([n[1], n[0] * 2])[0],
        lambda h, n: torch.cat([h, torch.zeros(n[0], 16), h.new_full((n[1], 16), n[1])]),
        lambda h, n: h * max(n[0], 1) if 1 < n[0] < n[1] else h,
        lambda h, n: h.narrow(1, n[0], 1) * int(n[0]) * float(n[1]),
        lambda h, n: h.roll(n[0], 0)[:, : n.tolist()[1]],
        lambda h, n: h[:, : n.numpy()[1]] * np.int64(3) * (n // np.int64(2)).sum(),
        lambda h, n: h.view(n.numpy()[0], -1) * np.prod(n.tolist()),
        lambda h, n: h * n.new_tensor([n[0], 3]).sum() * torch.tensor(data=[[n[0]], [n[1]]]).sum(),
        lambda h, n: h * int(f"{n[0]:d}") * float(f"{n[1].float():.2f}"),
    ],
)
def test_a_known_number_is_used_as_eager_uses_it(use: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]):
    model = Written(lambda m, x, n: mean_square(use(m.a(x), n)), a=linear())
    x, n = noise(), torch.tensor([2, 4])
    joint = capture(model, (x, n))
    eager = model(x, n)
    assert torch.equal(replay(joint, (x, n), {}, lambda output: output).loss, eager)
    assert joint.guards.hold((), (x, n))


def test_a_number_that_is_not_known_is_refused_where_it_is_written_as_text():
    with pytest.raises(DataDependentError, match=r"test_value_guards.py:\d+: .*parameters"):
        capture(Written(lambda m, x: m.a(x).sum() * float(f"{m.a(x).sum():.2f}"), a=linear()), (noise(),))


def test_a_legacy_constructor_that_looks_into_memory_is_refused_by_name():
    with pytest.raises(DataDependentError, match=r"test_value_guards.py:\d+: .*its memory"):
        capture(Written(lambda m, x, n: m.a(x).sum() * torch.LongTensor([n[0]]), a=linear()), (noise(), torch.tensor([2])))
