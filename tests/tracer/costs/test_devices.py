"""The table of devices."""

import pytest
import torch

from remat_planner.tracer.costs.devices import DEVICES, device_named
from remat_planner.tracer.costs.errors import UnknownDeviceError


def test_half_precision_that_a_device_lacks_runs_as_32_bit():
    t4 = device_named("T4")
    assert t4.rate(torch.bfloat16) == t4.rate(torch.float32) == 8.1e12
    assert t4.rate(torch.float16) == 65e12


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_every_device_is_plausible(device):
    assert device.source
    assert 10e9 <= device.memory <= 300e9
    assert 200e9 <= device.bandwidth <= 10e12
    assert device.rate(torch.float64) <= device.rate(torch.float32) <= device.rate(torch.float16) < 1e16


def test_an_unknown_device_names_the_known_ones():
    with pytest.raises(UnknownDeviceError, match=r"'h1000'.*h100, .*mi300x") as caught:
        device_named("h1000")
    assert caught.value.name == "h1000"
    assert set(caught.value.known) == set(DEVICES)
