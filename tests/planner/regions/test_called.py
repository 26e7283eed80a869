"""Which of the selected regions are planned, by how the step calls them, and how the others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner import RegionError
from remat_planner.tracer.errors import CaptureError
from tests.planner.regions.helpers import Block, decoder, gradients_after, same
from tests.zoo import ZOO


@pytest.mark.slow(on_request=True)
def test_a_cache_that_blocks_write_into_is_refused():
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    with pytest.raises(CaptureError, match=r"region 'transformer\.h\.0': .*DynamicCache.*use_cache=False"):
        remat_planner.plan(case.model, (), case.kwargs, budget="75%", regions="transformer.h.*")


class Recurrent(nn.Module):
    """One block called several times."""

    def __init__(self, forms: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(32, 32)
        self.block = Block()
        self.unused = Block()
        self.forms = forms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for rows in self.forms:
            x = torch.cat([self.block(x[:rows]), x[rows:]])
        return x.square().mean()


@pytest.mark.slow
def test_a_block_called_several_times_in_a_step_counts_each_time():
    torch.manual_seed(0)
    model, x = Recurrent((64, 64, 64)), torch.randn(64, 32)
    eager = gradients_after(model, x)
    schedule = remat_planner.plan(model, (x,), budget="75%", regions="block")
    assert schedule.calls == {"block": 3}
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences
    assert found.within_budget
    assert same(gradients_after(remat_planner.apply_schedule(model, schedule), x), eager)


class _WithSizes(Block):
    def forward(self, x: torch.Tensor, size: torch.Size) -> tuple[torch.Tensor, torch.Size]:
        return super().forward(x) / size.numel(), size


class _Sized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_WithSizes() for _ in range(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        size = x.shape
        for block in self.blocks:
            x, size = block(x, size)
        return x.square().mean(), size


@pytest.mark.slow
@pytest.mark.parametrize("regions", [None, "blocks.*"])
def test_sizes_that_are_arguments_or_outputs_stay_sizes(regions: str | None):
    torch.manual_seed(0)
    model, x = _Sized(), torch.randn(16, 32)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions=regions, loss=lambda output: output[0])
    planned = remat_planner.apply_schedule(model, schedule)
    assert type(planned(x)[1]) is torch.Size


@pytest.mark.slow
def test_a_block_called_with_too_many_forms_or_not_at_all_is_refused():
    torch.manual_seed(0)
    model, x = Recurrent(tuple(range(1, 10))), torch.randn(64, 32)
    with pytest.raises(RegionError, match=r"region 'block': the step calls it with inputs of more than 8 forms.*1, 32.*9, 32"):
        remat_planner.plan(model, (x,), budget="60%", regions="block")
    with pytest.raises(RegionError, match="does not call the forward of unused") as caught:
        remat_planner.plan(model, (x,), budget="60%", regions="unused")
    assert caught.value.names == ("unused",)


@pytest.mark.slow
def test_a_region_that_cannot_be_captured_is_named_and_left_out_of_auto():
    class Branching(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = super().forward(x)
            return y if y.sum() > 1e9 else y * 0.5

    torch.manual_seed(0)
    model, tokens = decoder(layers=4)
    model.layers[1], model.layers[2] = Branching(), Branching()
    with pytest.raises(CaptureError, match=r"region 'layers\.1': "):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    schedule = remat_planner.plan(model, (tokens,), budget="100%", regions="auto")
    assert list(schedule.regions) == ["layers.0", "layers.3"]
    assert remat_planner.verify(model, schedule, (tokens,)).identical


class Detector(nn.Module):
    """A backbone without repeated blocks, layers after it that get smaller pictures, and a size made of values."""

    def __init__(self) -> None:
        super().__init__()
        sizes = zip((3, 8, 8), (8, 8, 16), strict=True)
        layers = [layer for narrow, wide in sizes for layer in (nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU(), nn.Tanh())]
        self.backbone = nn.Sequential(*layers[:-1])
        self.extra = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, stride=2), nn.ReLU()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.backbone(x)
        for layer in self.extra:
            x = layer(x)
        return x[x > 0].square().mean()


def test_auto_plans_the_parts_of_a_model_whose_repeated_blocks_cannot_be_planned():
    torch.manual_seed(0)
    model, x = Detector(), torch.rand(2, 3, 24, 24)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions="auto")
    assert list(schedule.regions) == ["backbone"]
    assert remat_planner.verify(model, schedule, (x,)).identical
    model.backbone = nn.Tanh()
    with pytest.raises(RegionError, match=r"can be planned: extra\.0-1: it gets inputs of other sizes"):
        remat_planner.plan(model, (torch.rand(2, 16, 24, 24),), budget="100%", regions="auto")


class SharedHead(nn.Module):
    """Its heads run on feature maps of two sizes, as in a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(2))
        self.head = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.backbone:
            x = block(x)
        maps = [x, F.avg_pool2d(x, 2)]
        for head in self.head:
            maps = [head(m) for m in maps]
        return sum(m.mean() for m in maps)


@pytest.mark.slow
def test_blocks_that_are_called_with_several_forms_are_planned_for_each(tmp_path: Path):
    torch.manual_seed(0)
    model, x = SharedHead(), torch.randn(2, 4, 8, 8)
    eager = gradients_after(model, x)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions="auto")
    assert list(schedule.regions) == ["backbone.0", "backbone.1", "head.0", "head.1"]
    assert schedule.calls == {"backbone.0": 1, "backbone.1": 1, "head.0": 2, "head.1": 2}
    assert schedule.form_calls == {"head.0": (1, 1), "head.1": (1, 1)}
    sizes = [form.origin.inputs["[0]"] for form in schedule.regions["head.0"].forms]
    assert sizes == ["float32[2, 4, 8, 8]", "float32[2, 4, 4, 4]"]  # the larger one first
    found = remat_planner.verify(model, schedule, (x,))
    assert found.identical, found.differences
    assert found.measured_peak_bytes == found.predicted_peak_bytes
    schedule.save(tmp_path / "plan.json")
    loaded = remat_planner.RegionSchedule.load(tmp_path / "plan.json")
    assert (loaded.form_calls, loaded.seconds) == (schedule.form_calls, schedule.seconds)
    for plan in (schedule, loaded):
        assert same(gradients_after(remat_planner.apply_schedule(model, plan), x), eager)
        remat_planner.remove_schedule(model)


@pytest.mark.slow(on_request=True)
def test_auto_leaves_out_compiled_blocks():
    model, tokens = decoder()
    model.layers[1].compile(backend="eager")
    schedule = remat_planner.plan(model, (tokens,), budget="100%", regions="auto")
    assert list(schedule.regions) == ["layers.0", "layers.2"]
    with pytest.raises(CaptureError, match=r"region 'layers\.1': module 'layers\.1' is compiled already"):
        remat_planner.plan(model, (tokens,), budget="100%", regions="layers.*")


@pytest.mark.slow
def test_frozen_blocks_are_planned_where_a_gradient_passes_them():
    model, tokens = decoder()
    model.layers[1].requires_grad_(False)
    eager = gradients_after(model, tokens)
    schedule = remat_planner.plan(model, (tokens,), budget="70%", regions="layers.*")
    assert list(schedule.regions) == ["layers.0", "layers.1", "layers.2"]
    assert same(gradients_after(remat_planner.apply_schedule(model, schedule), tokens), eager)


@pytest.mark.slow
def test_frozen_blocks_are_left_out_where_no_gradient_passes_them():
    model, tokens = decoder()
    model.embedding.requires_grad_(False)
    model.layers[0].requires_grad_(False)
    schedule = remat_planner.plan(model, (tokens,), budget="100%", regions="layers.*")
    assert list(schedule.regions) == ["layers.1", "layers.2"]
    assert remat_planner.verify(model, schedule, (tokens,)).identical
    with pytest.raises(CaptureError, match=r"region 'layers\.0': .* requires a gradient, so there is no backward to plan"):
        remat_planner.plan(model, (tokens,), budget="100%", regions="layers.0")


class ReadsAValue(Block):
    """The size of what it selects depends on data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(x)[self.up(x) > 0].sum()  # the refused line


@pytest.mark.slow
def test_refusals_and_sources_name_the_models_own_line():
    model, tokens = decoder()
    here = Path(__file__).name
    line = 1 + next(k for k, text in enumerate(Path(__file__).read_text().splitlines()) if text.endswith("# the refused line"))
    model.layers[1] = ReadsAValue()
    with pytest.raises(CaptureError, match=rf"region 'layers\.1': \S*{here}:{line}: "):
        remat_planner.plan(model, (tokens,), budget="100%", regions="layers.*")
    schedule = remat_planner.plan(model, (tokens,), budget="100%", regions="layers.0")
    sources = {op.source.rpartition(":")[0].rpartition("/")[2] for op in schedule.regions["layers.0"].graph.ops if op.source}
    assert sources == {"helpers.py"}


def test_a_reason_that_holds_for_many_blocks_is_given_once():
    model, x = decoder()
    model.layers = nn.ModuleList(ReadsAValue() for _ in range(6))
    with pytest.raises(RegionError, match=r"can be planned: layers\.0-5: .*reads a value") as caught:
        remat_planner.plan(model, (x,), budget="75%", regions="auto")
    assert str(caught.value).count("reads a value") == 1
    assert "layers.5" in caught.value.names
