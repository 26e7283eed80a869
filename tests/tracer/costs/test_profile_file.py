"""Profiles: written, read elsewhere, and honest about what they do not know."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from remat_planner.tracer.costs.errors import ProfileError, ProfileWarning
from remat_planner.tracer.costs.sources import op_costs, save_profile
from tests.tracer.fake_calls import nodes_of


def block(a, b):
    return torch.relu(torch.mm(a, b)).t() + 1


A, B = torch.randn(40, 30), torch.randn(30, 20)


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "costs.json"
    save_profile(nodes_of(block, A, B), target)
    return target


def change(path, **fields):
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_the_same_costs_come_back_without_a_warning(path):
    nodes = nodes_of(block, A, B)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = op_costs(nodes, costs=str(path))
    assert found == {node: replace(cost, scatter=0.0) for node, cost in op_costs(nodes).items()}


def test_other_conditions_are_said(path):
    change(path, device="NVIDIA H100", torch="2.0.0")
    with pytest.warns(ProfileWarning, match=r"device 'NVIDIA H100' there.*torch '2.0.0' there"):
        op_costs(nodes_of(block, A, B), costs=path)


def test_calls_that_it_lacks_are_estimated_from_the_rates_of_the_others(path):
    content = json.loads(path.read_text())
    for key, entry in content["calls"].items():
        entry.update({"seconds": 1e-3, "flops": 48_000 if "mm" in key else 0, "bytes_moved": 16_000})
    path.write_text(json.dumps(content))
    nodes = nodes_of(lambda a, b: torch.mm(a, b).exp(), torch.randn(400, 300), torch.randn(300, 200))
    with pytest.warns(ProfileWarning, match=r"lacks 2 of 2 .*aten\.mm.*estimated"):
        product, exponential = op_costs(nodes, costs=path).values()
    assert product.seconds == pytest.approx(2 * 400 * 300 * 200 / 48e6)
    assert exponential.seconds == pytest.approx(2 * 400 * 200 * 4 / 16e6)


def test_nothing_is_made_up_from_nothing(path):
    nodes = nodes_of(torch.mm, A.double(), B.double())
    with pytest.raises(ProfileError, match=r"lacks 1 of 1.*aten\.mm.*float64") as caught:
        op_costs(nodes, costs=path)
    assert len(caught.value.missing) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.write_text(p.read_text()[:100]), "not a complete JSON document"),
        (lambda p: p.write_text("[]"), "not a cost profile"),
        (lambda p: change(p, format_version=99), "format version 99"),
        (lambda p: change(p, threads=-1), "threads"),
        (lambda p: change(p, calls={"x": {"seconds": float("nan")}}), "calls.x"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), "cannot be read"),
        (lambda p: p.unlink(), "cannot be read"),
    ],
    ids=["truncated", "other JSON", "other version", "negative", "no number", "no text", "absent"],
)
def test_a_bad_file_is_refused_and_said_why(path, spoil, message):
    spoil(path)
    with pytest.raises(ProfileError, match=message) as caught:
        op_costs(nodes_of(block, A, B), costs=path)
    assert caught.value.path == str(path)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError):
        save_profile(nodes_of(block, A, B), tmp_path / "absent" / "costs.json")
    assert list(tmp_path.iterdir()) == []
