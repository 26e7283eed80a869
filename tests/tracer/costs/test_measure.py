"""Measured costs: bytes exactly, seconds by order only, and nothing left behind."""

import gc
import os

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from remat_planner.tracer.costs.cpu_allocations import record_memory
from remat_planner.tracer.costs.errors import DeviceNotAtHandError
from remat_planner.tracer.costs.measure import Measured, run_once, undisturbed, with_seconds
from remat_planner.tracer.costs.rounds import MOST_OTHER_BYTES, OTHER_CALLS, ROUNDS
from remat_planner.tracer.costs.sources import op_costs
from remat_planner.tracer.costs.timing import Stopwatch
from tests.tracer.fake_calls import call_of, calls_of, nodes_of


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def measured(function, *tensors, operator="") -> Measured:
    with undisturbed([]) as samples:
        call = call_of(function, *tensors, operator=operator)
        return with_seconds([(call, run_once(call, samples))], samples)[0]


def test_a_recording_leaves_the_environment_as_it_was(capfd: pytest.CaptureFixture[str]):
    before = dict(os.environ)
    inside, _ = record_memory(lambda: dict(os.environ))  # a planned step inside looks at it too
    assert inside == before
    assert dict(os.environ) == before
    assert capfd.readouterr().err == ""


def test_a_product_takes_no_workspace():
    found = measured(torch.mm, torch.randn(64, 32), torch.randn(32, 16))
    assert (found.workspace, found.allocates) == (0, (64 * 16 * 4,))
    assert 0 < found.seconds < 1


def test_workspace_is_what_comes_and_goes_beyond_the_results():
    x = torch.randn(3, 8, 40, 40)
    w = torch.randn(16, 8, 3, 3)
    found = measured(lambda x, w: F.conv2d(x, w), x, w)
    result, trace = record_memory(lambda: F.conv2d(x, w))
    assert found.workspace == trace.peak - result.untyped_storage().nbytes() > 0


def test_an_operator_in_place_allocates_nothing():
    found = measured(lambda x, y: x.add_(y), torch.randn(1000), torch.randn(1000))
    assert (found.workspace, found.allocates) == (0, ())


def test_a_larger_operator_takes_longer():
    small = measured(torch.mm, torch.randn(8, 8), torch.randn(8, 8))
    large = measured(torch.mm, torch.randn(700, 700), torch.randn(700, 700))
    assert large.seconds > 5 * small.seconds


def test_equal_calls_are_measured_once_in_a_process(monkeypatch):
    calls = []
    nodes = nodes_of(lambda x: torch.tanh(torch.tanh(x) + x), torch.randn(77, 13))
    first = op_costs(nodes)
    monkeypatch.setattr("remat_planner.tracer.costs.measure._run_on_cpu", lambda *_: calls.append(1))
    assert op_costs(nodes) == first
    assert calls == []
    seconds = [cost.seconds for cost in first.values()]
    assert seconds[0] == seconds[2]


def test_a_burst_of_other_work_in_one_round_is_no_cost_of_what_ran_then(monkeypatch):
    rounds, seconds = [], Stopwatch.seconds

    def disturbed(stopwatch: Stopwatch) -> float:
        return seconds(stopwatch) + (0.5 if len(rounds) == 2 else 0.0)

    monkeypatch.setattr(Stopwatch, "seconds", disturbed)
    monkeypatch.setattr("remat_planner.tracer.costs.rounds.ENOUGH", 1.0)
    calls = calls_of(lambda x: (x.tan(), x.sinh()), torch.randn(83, 7))
    with undisturbed([]) as samples:
        once = [(call, run_once(call, samples)) for call in calls]
        found = with_seconds(once, samples, rounds.append)
    assert len(rounds) == ROUNDS
    assert all(cost.seconds + cost.scatter < 0.5 for cost in found)


def test_a_call_is_timed_apart_from_what_it_left_in_the_caches(monkeypatch):
    """The memory that is written in between is a multiple of the call's own, within limits."""
    written, other = [], torch.Tensor.add_

    def note(tensor, *args):
        written.append(tensor.nbytes)
        return other(tensor, *args)

    monkeypatch.setattr(torch.Tensor, "add_", note)
    monkeypatch.setattr("remat_planner.tracer.costs.rounds.ENOUGH", 1.0)
    measured(torch.cosh, torch.randn(1000, 3))
    assert written == [OTHER_CALLS * 2 * 12_000] * ROUNDS
    written.clear()
    measured(torch.cosh, torch.randn(1000, 1000))
    assert set(written) == {MOST_OTHER_BYTES}


def test_other_conditions_are_measured_anew():
    nodes = nodes_of(torch.exp, torch.randn(3, 11))
    (one,) = op_costs(nodes).values()
    torch.set_num_threads(2)
    (two,) = op_costs(nodes).values()
    assert one.seconds != two.seconds


def test_nothing_is_left_behind():
    nodes = nodes_of(lambda x: torch.bernoulli(x.sigmoid(), 0.3), torch.randn(31))
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    op_costs(nodes)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
    assert gc.isenabled()


def test_a_device_that_is_not_here_is_refused():
    nodes = nodes_of(torch.exp, torch.empty(3, device="meta"))
    with pytest.raises(DeviceNotAtHandError, match="meta") as caught:
        op_costs(nodes)
    assert caught.value.device == "meta"
