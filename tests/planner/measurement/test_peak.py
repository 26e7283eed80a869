"""Peaks of known allocations, by the allocator's events and by storages."""

import gc

import pytest
import torch

from remat_planner.planner.measurement.peak import measure_peak
from remat_planner.planner.measurement.storage_meter import StorageMeter

MB = 250_000  # floats in a megabyte


def test_peak_is_the_highest_moment_and_not_the_sum():
    def fn():
        a = torch.empty(3 * MB)
        del a
        b = torch.empty(1 * MB)
        c = torch.empty(1 * MB)
        return b, c

    assert measure_peak(fn) == 3_000_000


def test_the_result_is_still_held_when_the_next_thing_is_allocated():
    def fn():
        kept = torch.empty(2 * MB)
        torch.empty(3 * MB)
        return kept

    assert measure_peak(fn) == 5_000_000


def test_memory_from_before_that_is_freed_inside_does_not_lower_the_peak():
    class Holder:
        tensor: torch.Tensor | None = None

    holder = Holder()

    def allocate():
        holder.tensor = torch.empty(8 * MB)

    def free_and_allocate():
        holder.tensor = None
        return torch.empty(1 * MB)

    assert measure_peak(allocate) == 8_000_000
    # The profiler has the size of the first recording in its table: it reports a free here, which must count nothing.
    assert measure_peak(free_and_allocate) == 1_000_000


def test_kernel_workspace_is_seen():
    x = torch.randn(MB)

    def fn():
        values, indices = torch.sort(x)
        return values, indices

    outputs = MB * 4 + MB * 8
    assert measure_peak(fn) >= outputs + MB * 4


@pytest.mark.slow
def test_peak_of_a_whole_step_is_the_one_of_its_storages():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64))
    x = torch.randn(32, 64)

    def step():
        loss = model(x).pow(2).mean()
        loss.backward()
        return loss

    gc.collect()
    true = measure_peak(step)
    model.zero_grad()
    with StorageMeter([*model.parameters(), x]) as meter:
        step()
    assert 0 <= true - meter.peak <= 64  # scalars that PyTorch wraps for the length of one kernel


def test_repeated_measurements_agree():
    x = torch.randn(100, 100)
    peaks = {measure_peak(lambda: [x @ x for _ in range(50)]) for _ in range(3)}
    assert peaks == {50 * 40_000}


def test_an_error_inside_passes_through_and_the_next_measurement_works():
    def fails():
        torch.empty(MB)
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        measure_peak(fails)
    assert measure_peak(lambda: torch.empty(MB)) == 1_000_000


def test_a_device_without_a_meter_is_refused():
    with pytest.raises(ValueError, match="meta"):
        measure_peak(lambda: None, "meta")
