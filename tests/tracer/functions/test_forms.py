"""Where tensors lie is found out once, and checked later."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer.functions.forms import Place, TensorForm, UnlikePlannedError, copied, located, own_tensors


def test_tensors_are_located_by_their_memory():
    argument = torch.zeros(4, 6)
    fresh = torch.ones(3)
    places, own = located([argument, argument[1:, ::2], None, fresh, fresh[1:]], [torch.ones(1), argument])
    assert places == [
        Place(False, 1),
        Place(False, 1, ((3, 3), (6, 2), 6)),
        None,
        Place(True, 0),
        Place(True, 0, ((2,), (1,), 1)),
    ]
    assert own == [fresh]


def test_a_place_is_found_in_other_memory():
    base = torch.arange(30.0)
    moved = base[6:].view(4, 6)  # starts later in its storage than the tensor that was located
    assert torch.equal(Place(False, 0, ((3, 3), (6, 2), 6)).of([moved], []), moved[1:, ::2])


@pytest.mark.parametrize(
    "tensors",
    [
        [torch.ones(4, 6), torch.ones(5)],  # another size
        [torch.ones(4, 6), None],
        [torch.ones(4, 6), torch.ones(4, 6)[:, :3].t()],
    ],
)
def test_tensors_elsewhere_than_planned_are_noticed(tensors: list[torch.Tensor | None]):
    argument = torch.zeros(4, 6)
    forms = [TensorForm.of(torch.ones(3))]
    assert own_tensors([argument, planned := torch.ones(3)], [Place(False, 0), Place(True, 0)], [argument], forms) == [planned]
    tensors[0] = argument
    with pytest.raises(UnlikePlannedError):
        own_tensors(tensors, [Place(False, 0), Place(True, 0)], [argument], forms)


def test_a_copy_where_a_view_was_planned_is_noticed():
    argument = torch.zeros(4)
    with pytest.raises(UnlikePlannedError, match="other memory"):
        own_tensors([argument.clone()], [Place(False, 0)], [argument], [])


def test_another_dtype_of_an_arguments_memory_has_no_place():
    argument = torch.zeros(4)
    with pytest.raises(UnlikePlannedError, match="dtype"):
        located([argument.view(torch.int32)], [argument])


def test_copies_keep_strides_and_shared_elements():
    expanded = torch.arange(3.0).expand(2, 3)
    copy = copied(expanded)
    assert copy.stride() == (0, 1)
    assert torch.equal(copy, expanded)
    gaps = torch.arange(24.0).view(4, 6)[1:, ::2]
    copy = copied(gaps)
    assert copy.stride() == gaps.stride()
    assert torch.equal(copy, gaps)
    copy.zero_()
    assert gaps.any()


def test_a_form_makes_tensors_like_it():
    for tensor in (torch.ones(4, 6)[1:, ::2], torch.ones(2, 3).t(), torch.ones(3).expand(2, 3), torch.ones(0, 2)):
        made = TensorForm.of(tensor).empty()
        assert (made.shape, made.stride(), made.storage_offset()) == (tensor.shape, tensor.stride(), tensor.storage_offset())
        assert made.untyped_storage().nbytes() == tensor.untyped_storage().nbytes()
