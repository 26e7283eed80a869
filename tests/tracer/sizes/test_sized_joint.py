"""A step captured once, written for other sizes: the same as captures of these sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.errors import UnsupportedOperatorError
from remat_planner.tracer.sizes import NotSizedError, SizedJoint, capture_sized, is_same_joint
from tests.tracer.cases import Written, mean_square


class Encoder(nn.Module):
    """Embedding, attention, dropout and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Embedding(20, 8), nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, 20)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        h = self.norm((h + self.attend(h, h, h, need_weights=False)[0]).transpose(1, 2)).transpose(1, 2)
        return F.cross_entropy(self.head(h).flatten(0, 1), labels.flatten())


def inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels."""
    return torch.zeros(batch, length, dtype=torch.long), torch.ones(batch, length, dtype=torch.long)


def captured(model: nn.Module, batch: int, length: int) -> SizedJoint:
    """The step for all batches and lengths."""
    return capture_sized(model, inputs(batch, length), {}, dims=[(0, 0), (0, 1), (1, 0), (1, 1)])


@pytest.mark.slow
def test_it_is_the_capture_of_each_size():
    model = Encoder()
    sized = captured(model, 3, 11)
    for batch, length in ((3, 11), (5, 19), (7, 6)):
        sizes = (batch, length, batch, length)
        joint, expected = sized.at(sizes), capture(model, inputs(batch, length))
        assert sized.holds(sizes)
        assert is_same_joint(joint, expected)
        assert joint.constants == expected.constants
        assert joint.forward.differences(expected.forward) == expected.forward.differences(joint.forward) == ()


@pytest.mark.slow
def test_its_conditions_are_those_of_the_operators():
    sized = captured(Encoder(), 3, 11)
    assert not sized.holds((3, 11, 3, 12))  # the loss needs a label for each token
    assert not sized.holds((1, 11, 1, 11))
    assert not sized.holds((3, 1, 3, 1))


@pytest.mark.slow
def test_smaller_sizes_take_no_more_bytes():
    sized = captured(Encoder(), 3, 11)
    small, large = (sized.storage_bytes(sized.numbers((batch, 9, batch, 9))) for batch in (2, 5))
    assert all(one <= other for one, other in zip(small, large, strict=True))
    assert sum(small) < sum(large)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((torch.zeros(3, 22, dtype=torch.long)[:, ::2], torch.ones(3, 11, dtype=torch.long)), "memory of its own"),
        ((torch.zeros(1, 11, dtype=torch.long), torch.ones(1, 11, dtype=torch.long)), "0 or 1"),
        ((torch.zeros(3, 11, dtype=torch.long), torch.eye(3).to_sparse()), "sparse or jagged"),
        ((ids := torch.zeros(3, 11, dtype=torch.long), ids), "share memory"),
    ],
)
def test_inputs_whose_sizes_are_no_symbols_are_refused(given, why):
    with pytest.raises(NotSizedError, match=why):
        capture_sized(Encoder(), given, {}, dims=[(0, 0)])


@pytest.mark.parametrize(
    "between",
    [
        lambda x: torch.eye(8).to_sparse() @ x.T,
        lambda x: torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (x.shape[0],) * 2) @ x,
    ],
)
def test_operators_that_are_recorded_for_known_sizes_are_refused(between):
    model = Written(lambda m, x: mean_square(between(m.a(x))), a=nn.Linear(8, 8))
    with pytest.raises(UnsupportedOperatorError, match="known sizes alone"):
        capture_sized(model, (torch.randn(6, 8),), {}, dims=[(0, 0)])
