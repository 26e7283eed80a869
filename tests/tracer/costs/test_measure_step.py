"""A whole step measured: progress, failures, and results whose fakes are wrong."""

import gc

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils import _pytree as pytree

from remat_planner.schedules import simulate
from remat_planner.tracer import capture, lower
from remat_planner.tracer.costs.cpu_allocations import record_memory
from remat_planner.tracer.costs.errors import MeasurementError, MeasurementWarning
from remat_planner.tracer.costs.rounds import ROUNDS
from remat_planner.tracer.costs.sources import op_costs
from remat_planner.tracer.errors import UnsupportedOperatorError
from tests.tracer.cases import Written, linear, mean_square, noise
from tests.tracer.fake_calls import nodes_of
from tests.zoo import ZOO


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@torch.library.custom_op("test_costs::needs_a_handle", mutates_args=())
def needs_a_handle(x: torch.Tensor) -> torch.Tensor:
    raise OSError("no such handle\nand a second line")


@needs_a_handle.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_interrupt_comes_through_and_leaves_nothing_behind():
    nodes = nodes_of(lambda x: torch.rand_like(x.sin()).cos(), torch.randn(29))
    state = torch.get_rng_state()

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        op_costs(nodes, progress=interrupt)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    assert gc.isenabled()


def test_progress_counts_every_node():
    nodes = nodes_of(lambda x: (x + 1).view(-1) * 2, torch.randn(4, 4))
    seen = []
    op_costs(nodes, progress=lambda done, total: seen.append((done, total)))
    total = 3 * (1 + ROUNDS)
    assert seen == [*((done, total) for done in (1, 2, 3)), *((3 * (2 + k), total) for k in range(ROUNDS))]


def test_what_cannot_be_run_alone_is_named_and_the_rest_is_known(monkeypatch):
    nodes = nodes_of(lambda x: (needs_a_handle(x), torch.exp(x)), torch.randn(6, 61))
    with pytest.raises(MeasurementError, match=r"needs_a_handle.*OSError: no such handle\n.*h100") as caught:
        op_costs(nodes[:1])
    (call,) = caught.value.calls
    assert call.startswith("test_costs.needs_a_handle")
    with pytest.warns(MeasurementWarning, match=r"needs_a_handle.*OSError: no such handle\n.*sample_inputs"):
        costs = op_costs(nodes)
    estimated, measured = costs[nodes[0]], costs[nodes[1]]
    assert estimated.seconds == pytest.approx(measured.seconds)
    assert estimated.workspace == 2 * 6 * 61 * 4
    assert estimated.allocates == measured.allocates
    monkeypatch.setattr("remat_planner.tracer.costs.measure._run_on_cpu", None)
    assert op_costs(nodes[1:])


def test_results_that_fakes_get_wrong_reach_their_readers_as_they_are():
    def step(x, w, b):
        result = F.layer_norm(x, (64,), w, b)
        return torch.autograd.grad(result, (x, w, b), torch.ones_like(result))

    x = torch.randn(4, 64, dtype=torch.bfloat16).requires_grad_()
    w, b = torch.randn(64).requires_grad_(), torch.randn(64).requires_grad_()
    nodes = nodes_of(step, x, w, b)
    costs = op_costs(nodes)  # the backward insists on float32 statistics, for which the fakes are bfloat16
    norm = next(node for node in nodes if "native_layer_norm.default" in str(node.target))
    assert costs[norm].allocates == (4 * 64 * 2, 4 * 4, 4 * 4)
    assert all(cost.seconds == 0 for node, cost in costs.items() if "getitem" in str(node.target))


@torch.library.custom_op("test_costs::in_rows", mutates_args=())
def in_rows(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous() * 2


@in_rows.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)  # which lies as x does


def _double(_context: object, gradient: torch.Tensor) -> torch.Tensor:
    return gradient * 2


in_rows.register_autograd(_double)


def test_a_view_of_a_result_that_lies_otherwise_than_its_fake_is_refused():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x).transpose(1, 2)
        apart = in_rows(h)
        return mean_square(m.a(apart.transpose(1, 2)))

    joint = capture(Written(forward, a=linear()), (noise(2, 8, 16),))
    with pytest.raises(
        UnsupportedOperatorError, match=r"measure_step\.py:\d+: .*view.* of what .*in_rows.* strides \["
    ) as refused:
        op_costs(joint.ops)
    assert "in_rows" in refused.value.operator


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "gpt2", "autocast", "batch_norm_and_counter", "channels_last"])
def test_measured_alone_is_what_each_operator_takes_in_the_step(name):
    torch.manual_seed(0)
    case = ZOO[name]()
    joint = capture(case.model, case.args, case.kwargs, loss=case.loss)
    lowering = lower(joint)
    costs = op_costs([*joint.ops, *lowering.loss_nodes])
    graph = lowering.with_costs(costs)
    assert simulate(graph, range(len(graph.ops))).peak_bytes > graph.constant_bytes
    different = {}

    def run(node, args, kwargs):
        result, memory = record_memory(lambda: node.target(*args, **kwargs))
        given = {t.untyped_storage()._cdata for t in _tensors((args, kwargs))}
        made = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in _tensors(result)}
        held = sum(size for key, size in made.items() if key not in given)
        if (memory.peak - held, held) != (costs[node].workspace, sum(costs[node].allocates)):
            different[node.meta["name"]] = (memory, costs[node])
        return result

    tensors = dict(case.model.named_parameters(remove_duplicate=False)) | dict(case.model.named_buffers())
    leaves = pytree.tree_leaves((case.args, case.kwargs))
    values = {
        node: tensors[slot.name].detach()
        for node, slot in zip((*joint.parameter_nodes, *joint.buffer_nodes), (*joint.parameters, *joint.buffers), strict=True)
    }
    values |= {node: leaves[place] for node, place in zip(joint.input_nodes, joint.input_leaves, strict=True)}
    values |= {n: getattr(joint.graph, n.target) for n in joint.graph.graph.nodes if n.op == "get_attr"}
    for node in joint.tangent_nodes:
        fake = node.meta["val"]
        values[node] = torch.empty_strided(fake.shape, fake.stride(), dtype=fake.dtype).fill_(0.01)
    with torch.no_grad():
        for node in joint.ops:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = run(node, args, kwargs)
    assert different == {}


def _tensors(tree):
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
