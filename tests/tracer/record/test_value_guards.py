"""Values that the forward reads during a capture are true, and guarded in later steps."""

from __future__ import annotations

from typing import Any

import torch

from remat_planner.tracer import capture
from remat_planner.tracer.joint.graph import Joint
from tests.tracer.cases import Written, linear, mean_square, noise


def broken(joint: Joint, *inputs: torch.Tensor, buffers: tuple[torch.Tensor, ...] = ()) -> list[str]:
    """The guards that no longer hold for these inputs."""
    return [guard.source for guard in joint.guards if guard.evaluate(buffers, inputs) != guard.expected]


def test_a_branch_on_a_mask_is_guarded():
    def forward(m: Written, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        return mean_square(h if mask.all() else h * mask[:, None])

    model = Written(forward, a=linear())
    x, full, partial = noise(), torch.ones(4, dtype=torch.bool), torch.tensor([True, True, False, True])
    assert "aten.mul.Tensor" not in forward_operators(capture(model, (x, full)))
    joint = capture(model, (x, partial))
    assert "aten.mul.Tensor" in forward_operators(joint)
    assert [guard.expected for guard in joint.guards] == [False]
    assert joint.guards[0].source.startswith("tests/tracer/record/test_value_guards.py:")
    assert broken(joint, x, torch.tensor([False, True, True, True])) == []
    assert broken(joint, x, full) == [joint.guards[0].source]


def forward_operators(joint: Joint) -> list[str]:
    return [str(node.target) for node in joint.ops if not node.meta["in_backward"]]


def test_constants_need_no_guard():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(x.shape[0])
        return mean_square(m.a(x)) if (positions.diff() == 1).all() and torch.tensor(3).item() == 3 else m.a(x).sum()

    assert capture(Written(forward, a=linear()), (noise(),)).guards == ()


def test_views_and_in_place_ops_are_followed():
    def forward(m: Written, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(4, 6, dtype=torch.int64)
        mask[:, :2] = 1
        row = mask[1]
        row += lengths
        mask.t()[0].fill_(7)
        return m.a(x).sum() * int(mask.sum())

    joint = capture(Written(forward, a=linear()), (noise(), torch.arange(6)))
    assert [guard.expected for guard in joint.guards] == [28 + 3 + 15 + 1]
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
    assert [guard.expected for guard in joint.guards] == [True]
    assert broken(joint, noise(), buffers=(torch.tensor(0),)) == []
    assert len(broken(joint, noise(), buffers=(torch.tensor(5),))) == 1
    assert model.step.item() == 4


def test_lists_equality_and_numbers_are_read():
    def forward(m: Written, x: torch.Tensor, sizes: torch.Tensor, scale: torch.Tensor) -> Any:
        parts = m.a(x).split(sizes.tolist())
        same = torch.equal(sizes, torch.tensor([1, 3]))
        return sum((mean_square(p) for p in parts), torch.zeros(())) * float(scale) * (2 if same else 1)

    joint = capture(Written(forward, a=linear()), (noise(), torch.tensor([1, 3]), torch.tensor(0.5)))
    assert [guard.expected for guard in joint.guards] == [1, 3, True, 0.5]
    assert [type(guard.expected) for guard in joint.guards] == [int, int, bool, float]
    assert len(broken(joint, noise(), torch.tensor([2, 2]), torch.tensor(0.5))) == 3
