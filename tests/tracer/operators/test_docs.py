"""The example of docs/operators.md does what the page says."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import remat_planner
from remat_planner.tracer.costs.measure import undisturbed
from tests.tracer.fake_calls import call_of

_PAGE = (Path(__file__).resolve().parents[3] / "docs" / "operators.md").read_text(encoding="utf-8")


@pytest.mark.slow(on_request=True)
def test_the_example_is_recomputed_has_flops_and_sample_inputs():
    example, *_ = re.findall(r"^```python\n(.*?)^```", _PAGE, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {"__name__": "docs_operators"}
    exec(compile(example, "docs/operators.md", "exec"), names)
    try:
        schedule, model, inputs = names["schedule"], names["model"], names["inputs"]
        ops = [op for op in schedule.graph.ops if "rows_times" in op.name]
        assert [(op.pinned, op.flops) for op in ops] == [(None, 2 * 2048 * 64 * 64)] * 6
        runs = Counter(schedule.graph.ops[step].name for step in schedule.steps)
        assert any(runs[op.name] > 1 for op in ops)
        assert schedule.peak_bytes <= 0.7 * schedule.baseline_peak_bytes
        loss = model(*inputs)
        loss.backward()
        assert all(weight.grad is not None for weight in model.weights)
        call = call_of(names["rows_times"], inputs[0], inputs[1], model.weights[0].detach())
        with undisturbed([]) as samples:
            (_, index, _), _ = samples.make(call)
        assert index.max() > 1000
        remat_planner.register_operator("mylib::rows_times", pure=False)
        pinned = remat_planner.trace(names["Model"](), inputs, costs="h100")
        assert all("not pure" in (op.pinned or "") for op in pinned.ops if "rows_times" in op.name)
        with pytest.raises(remat_planner.InfeasibleBudgetError):
            remat_planner.plan(names["Model"](), inputs, budget=schedule.peak_bytes, costs="h100", solver="greedy")
    finally:
        remat_planner.unregister_operator("mylib::rows_times")
    tried = remat_planner.trace(names["Model"](), inputs, costs="h100")
    assert [op.pinned for op in tried.ops if "rows_times" in op.name] == [None] * 6


def test_every_public_name_of_the_page_exists():
    for name in re.findall(r"remat_planner\.(\w+)", _PAGE):
        assert hasattr(remat_planner, name)
    assert torch.Tag.nondeterministic_seeded in torch.ops.aten.bernoulli.default.tags
