"""Backwards that read a form in the place of a tensor, and a ReLU's before its pooling's: eager's bits in less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.planning import Settings, remember_capture, trace_step
from remat_planner.planner.planning.step import leaner
from remat_planner.schedules import Schedule, simulate
from remat_planner.tracer import capture
from remat_planner.tracer.lower import in_less_memory, lower, variant_as
from remat_planner.tracer.lower.form_only import form_readers, has_same_bits_by_form, with_forms
from remat_planner.tracer.lower.pooled_relu import has_same_bits_exchanged, pooled_relus, with_exchanged

_FLAT = (nn.ReflectionPad1d(1), nn.ReplicationPad1d(1))
_PLANE = (
    *(nn.Conv2d(4, 4, 1), nn.ReflectionPad2d(1), nn.MaxPool2d(3, 2, 1), nn.ReplicationPad2d(1), nn.AvgPool2d(2)),
    *(nn.AdaptiveMaxPool2d(4), nn.FractionalMaxPool2d(2, 3), nn.AdaptiveAvgPool2d(2)),
)
_VOLUME = (
    *(nn.Conv3d(4, 4, 1), nn.ReflectionPad3d(1), nn.MaxPool3d(3, 2, 1), nn.ReplicationPad3d(1), nn.AvgPool3d(2)),
    *(nn.AdaptiveMaxPool3d(4), nn.FractionalMaxPool3d(2, 2), nn.AdaptiveAvgPool3d(2)),
)
_CASES = {
    "flat": (_FLAT, (9,), torch.contiguous_format, 2),
    "plane": (_PLANE, (9, 9), torch.contiguous_format, 7),
    "plane, channels last": (_PLANE, (9, 9), torch.channels_last, 7),
    "volume": (_VOLUME, (9, 9, 9), torch.contiguous_format, 7),
    "volume, channels last": (_VOLUME, (9, 9, 9), torch.channels_last_3d, 7),
}


def _loss(output: torch.Tensor) -> torch.Tensor:
    return output.square().mean()


@pytest.mark.parametrize("case", _CASES)
def test_a_form_is_enough(case: str) -> None:
    modules, size, layout, count = _CASES[case]
    x = torch.randn(2, 4, *size).to(memory_format=layout).requires_grad_()
    joint = capture(nn.Sequential(*modules), (x,), loss=_loss)
    readers = form_readers(joint)
    assert len(readers) == count
    for node in readers:
        assert has_same_bits_by_form(node), node
    changed = {node.meta["name"]: node for node in with_forms(joint, [node.meta["name"] for node in readers]).ops}
    for node in readers:
        by_form = changed[node.meta["name"] + ":form"]
        assert len(by_form.all_input_nodes) == len(set(node.all_input_nodes) - {node.args[1]})


class Stem(nn.Module):
    """Two convolutions with a ReLU and a pooling each; the second ReLU's result is read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.second, self.pool = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()), nn.AdaptiveMaxPool2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x))
        return self.pool(x).sum() + x.square().mean()


def test_a_relus_backward_comes_first_where_only_the_pooling_read_it() -> None:
    torch.manual_seed(0)
    model, x = Stem(), torch.randn(4, 3, 32, 32)
    joint = capture(model, (x,))
    (pair,) = pooled_relus(joint)
    assert pair.relu.meta["module"].startswith("first")
    assert has_same_bits_exchanged(pair)
    graph = lower(with_exchanged(joint, [pair.name])).graph
    relu = graph.ops[graph.by_name[pair.relu.meta["name"]]]
    assert graph.by_name[relu.name] < graph.by_name[pair.name]
    assert [graph.values[value].shape for value in relu.writes] == [(4, 8, 16, 16)]


@pytest.mark.slow
def test_the_step_has_eagers_bits_and_the_predicted_peak() -> None:
    torch.manual_seed(0)
    model, x = Stem(), torch.randn(4, 3, 32, 32)
    step = trace_step(model, (x,), settings=Settings())
    lean = leaner(step, overwriting=False)
    steps = tuple(range(len(lean.graph.ops)))
    peak = simulate(lean.graph, steps).peak_bytes
    schedule = Schedule(lean.graph, steps, peak, "none", "feasible", lean.graph.seconds, "", origin=step.origin)
    remember_capture(schedule, step)
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical
    assert found.measured_peak_bytes == pytest.approx(peak, rel=0.01)
    joint = capture(model, (x,))
    form = in_less_memory(joint, at_hand=True, overwriting=False)
    assert [node.meta["name"] for node in variant_as(joint, lean.graph).ops] == [node.meta["name"] for node in form.ops]
