"""Made-up arguments run: indices in range, strides and aliasing as in the graph, nothing that is no number."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils import _pytree as pytree

from remat_planner.tracer.costs.measure import undisturbed
from tests.tracer.fake_calls import calls_of

ROWS, COLUMNS = 5, 3
INDICES = torch.randint(0, 3, (40,))


def gradient(function):
    def both(*tensors):
        inputs = [t.requires_grad_() if t.is_floating_point() else t for t in tensors]
        result = function(*inputs)
        result = result[0] if isinstance(result, tuple) else result
        wanted = [t for t in inputs if t.is_floating_point()]
        return torch.autograd.grad(result, wanted, torch.ones_like(result), allow_unused=True)

    return both


CASES = {
    "embedding": (gradient(lambda w, i: F.embedding(i, w)), torch.randn(3, 4), INDICES),
    "embedding of one row": (gradient(lambda w, i: F.embedding(i, w)), torch.randn(1, 4), INDICES * 0),
    "embedding bag": (gradient(lambda w, i: F.embedding_bag(i, w, torch.tensor([0, 4, 9]))), torch.randn(3, 4), INDICES),
    "gather": (gradient(lambda x, i: x.gather(1, i)), torch.randn(ROWS, COLUMNS), torch.randint(0, 3, (ROWS, 7))),
    "gather along the first": (lambda x, i: x.gather(-2, i), torch.randn(2, COLUMNS), torch.randint(0, 2, (30, COLUMNS))),
    "scatter": (lambda x, i: x.scatter(1, i, 2.0), torch.randn(ROWS, COLUMNS), torch.randint(0, 3, (ROWS, 3))),
    "index select": (gradient(lambda x, i: x.index_select(1, i)), torch.randn(ROWS, COLUMNS), INDICES),
    "advanced indexing": (gradient(lambda x, i: x[:, i, i % 2]), torch.randn(ROWS, COLUMNS, 2), INDICES),
    "masked": (lambda x, m: x.masked_fill(m, 0.0), torch.randn(ROWS, COLUMNS), torch.rand(ROWS, COLUMNS) > 0.5),
    "cross entropy": (gradient(lambda x, t: F.cross_entropy(x, t)), torch.randn(40, COLUMNS), INDICES),
    "cross entropy of pixels": (
        gradient(lambda x, t: F.cross_entropy(x, t)),
        torch.randn(2, COLUMNS, 4, 5),
        torch.randint(0, 3, (2, 4, 5)),
    ),
    "max pool": (gradient(lambda x: F.max_pool2d(x, 2)), torch.randn(2, 3, 6, 6)),
    "adaptive max pool": (gradient(lambda x: F.adaptive_max_pool2d(x, 2)), torch.randn(2, 3, 6, 6)),
    "max along a dimension": (gradient(lambda x: torch.max(x, 1)), torch.randn(ROWS, COLUMNS)),
    "sort": (gradient(lambda x: torch.sort(x, 1)), torch.randn(ROWS, COLUMNS)),
    "take along": (lambda x, i: torch.take(x, i), torch.randn(ROWS, COLUMNS), INDICES),
    "integer division": (lambda a, b: (a // b, a % b), torch.arange(9), torch.arange(1, 10)),
    "variance": (gradient(lambda x: x.var().log().sqrt()), torch.randn(ROWS, COLUMNS)),
    "group norm": (gradient(lambda x: F.group_norm(x, 2)), torch.randn(2, 4, 5)),
    "complex": (gradient(lambda x: torch.fft.rfft(x).abs()), torch.randn(ROWS, 8)),
    "attention": (gradient(lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True)), torch.randn(1, 2, 8, 4)),
    "solving": (gradient(lambda a, b: torch.linalg.solve(a + 3 * torch.eye(4), b)), torch.rand(2, 4, 4), torch.rand(2, 4, 3)),
    "decomposition": (gradient(lambda a: torch.linalg.lu(a)[1]), torch.rand(2, 4, 4)),
    "expanded": (lambda x: x.expand(4, 3) * 2, torch.randn(1, 3)),
    "float8": (lambda x: x.to(torch.float32), torch.zeros(8).to(torch.float8_e4m3fn)),
    "nothing at all": (lambda x: x * 2, torch.randn(0, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_call_runs_on_made_up_arguments(name):
    function, *tensors = CASES[name]
    computed = [call for call in calls_of(function, *tensors) if not call.is_view]
    assert computed
    with undisturbed([]) as samples:
        for call in computed:
            args, kwargs = samples.make(call)
            result = call.target(*args, **kwargs)
            for leaf in pytree.tree_leaves(result):
                if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and "empty" not in call.key:
                    assert not leaf.float().isnan().any(), call.key


def test_form_and_aliasing_are_those_of_the_graph():
    storage = torch.randn(6, 10)
    (call,) = (c for c in calls_of(lambda s: torch.mm(s[:, 2:7], s[:5, :3]), storage) if not c.is_view)
    with undisturbed([]) as samples:
        (a, b), _ = samples.make(call)
    assert (a.shape, a.stride(), a.storage_offset()) == ((6, 5), (10, 1), 2)
    assert (b.shape, b.stride(), b.storage_offset()) == ((5, 3), (10, 1), 0)
    assert a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
    assert a.untyped_storage().nbytes() == 240


def test_indices_are_in_range_and_not_all_alike():
    (call,) = calls_of(lambda w, i: F.embedding(i, w), torch.randn(7, 4), torch.zeros(300, dtype=torch.long))
    with undisturbed([]) as samples:
        (_, indices), _ = samples.make(call)
    assert set(indices.tolist()) == set(range(7))


def test_storages_are_handed_on_but_not_those_that_were_written_to():
    x = torch.randn(64, 64)
    add, multiply, write = calls_of(lambda x: (x + 1, x * 2, x.mul_(2)), x)
    with undisturbed([]) as samples:
        first = samples.make(add)[0][0].data_ptr()
        assert samples.make(multiply)[0][0].data_ptr() == first
        written = samples.make(write)[0][0]
        assert samples.make(add)[0][0].data_ptr() != written.data_ptr()
