"""Each private name of PyTorch around sparse tensors does what it is used for."""

from __future__ import annotations

import pytest
import torch

from remat_planner.tracer import torch_sparse as private
from remat_planner.tracer.torch_private import new_fake_mode

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")
MAKERS = {
    "coo": lambda t: t.to_sparse_coo(),
    "csr": lambda t: t.to_sparse_csr(),
    "csc": lambda t: t.to_sparse_csc(),
    "bsr": lambda t: t.to_sparse_bsr((2, 2)),
    "bsc": lambda t: t.to_sparse_bsc((2, 2)),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_sparse_tensor_is_put_together_of_its_parts(make):
    sparse = make(torch.eye(4) * 3)
    form, parts = private.SparseForm.of(sparse), private.parts_of_sparse(sparse)
    assert private.is_sparse(sparse)
    assert not private.is_sparse(parts[-1])
    assert not any(part._is_view() for part in parts)
    assert [getattr(sparse, name)().data_ptr() for name in form.names] == [part.data_ptr() for part in parts]
    again = private.put_together(form, parts)
    assert private.SparseForm.of(again) == form
    assert torch.equal(again.to_dense(), sparse.to_dense())


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_fake_has_the_form(make):
    sparse, mode = make(torch.eye(4)), new_fake_mode()
    parts = [mode.from_tensor(part) for part in private.parts_of_sparse(sparse)]
    fake = private.fake_sparse(mode, private.SparseForm.of(sparse), parts)
    assert (fake.layout, fake.shape, fake.device, fake.fake_mode) == (sparse.layout, sparse.shape, sparse.device, mode)
