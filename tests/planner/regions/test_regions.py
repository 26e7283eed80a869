"""Plans by regions: blocks planned, the rest eager, one budget, eager's bits, and clear refusals."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import remat_planner
from remat_planner.planner import InfeasibleBudgetError, RegionError, RegionSchedule
from remat_planner.planner.apply import is_applied
from remat_planner.planner.cli import main
from remat_planner.planner.errors import AlreadyAppliedError
from remat_planner.planner.planning.repeated_blocks import merged_names
from remat_planner.planner.regions.forward import planned_regions
from remat_planner.planner.regions.select import find_regions
from remat_planner.planner.runtime.autograd import first_and_last_node
from remat_planner.planner.torch_private import function_behind
from remat_planner.schedules import Schedule, ScheduleFileError, StaleScheduleError
from remat_planner.schedules.files import load_schedule
from remat_planner.tracer.errors import CaptureError, DataDependentError
from tests.zoo import ZOO


class Block(nn.Module):
    """Layer norm, a wide middle, dropout, a residual."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.down(F.gelu(self.up(self.norm(x)))))


class Decoder(nn.Module):
    """Blocks with a branch on what they compute between them."""

    def __init__(self, layers: int = 3, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, 50)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
            if x.abs().mean() > 0.8:
                x = x * 0.5
        return F.cross_entropy(self.head(x).flatten(0, 1), tokens.flatten())


def decoder(**sizes: int) -> tuple[Decoder, torch.Tensor]:
    torch.manual_seed(0)
    return Decoder(**sizes).train(), torch.randint(0, 50, (8, 64))


def gradients_after(model: nn.Module, *inputs: torch.Tensor, steps: int = 2) -> list[torch.Tensor]:
    """The loss and the gradients of ``steps`` accumulated steps from one seed."""
    torch.manual_seed(5)
    model.zero_grad()
    for _ in range(steps):
        loss = model(*inputs)
        loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None), torch.get_rng_state()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


# ------------------------------------------------------------------------------------------------ what cannot be captured whole


def test_a_branch_between_blocks_is_refused_whole_and_planned_by_regions():
    model, tokens = decoder()
    with pytest.raises(DataDependentError, match=r'layers\.0-2 can be captured: regions="auto"'):
        remat_planner.plan(model, (tokens,), budget="60%")
    eager = gradients_after(model, tokens)
    for budget in ("100%", "70%", "55%"):
        schedule = remat_planner.plan(model, (tokens,), budget=budget, regions="auto")
        assert list(schedule.regions) == [f"layers.{k}" for k in range(3)]
        assert schedule.peak_bytes <= schedule.budget
        found = remat_planner.verify(model, schedule, (tokens,))
        assert found.identical, found.differences
        assert found.within_budget
        assert found.measured_peak_bytes == found.predicted_peak_bytes == schedule.peak_bytes
        planned = remat_planner.apply_schedule(model, schedule)
        assert planned is model
        assert same(gradients_after(model, tokens), eager)
        assert remat_planner.remove_schedule(model) is model
        assert "forward" not in vars(model.layers[0])
    assert any(len(region.steps) > len(region.graph.ops) for region in schedule.regions.values())


def test_more_budget_never_takes_longer_and_the_least_that_is_named_holds():
    model, tokens = decoder()
    with pytest.raises(InfeasibleBudgetError) as caught:
        remat_planner.plan(model, (tokens,), budget="5%", regions=Block)
    least = remat_planner.plan(model, (tokens,), budget=caught.value.minimum, regions=Block)
    assert least.peak_bytes <= caught.value.minimum
    assert least.seconds >= least.baseline_seconds
    assert remat_planner.verify(model, least, (tokens,)).within_budget


def test_the_optimizer_is_counted():
    model, tokens = decoder()
    plain = remat_planner.plan(model, (tokens,), budget="100%", regions="auto")
    counted = remat_planner.plan(model, (tokens,), budget="100%", regions="auto", optimizer="adamw")
    parameters = sum(p.numel() * 4 for p in model.parameters())
    assert 0 <= counted.constants["optimizer"] - 2 * parameters < 1000
    assert counted.peak_bytes - plain.peak_bytes >= 2 * parameters


# ------------------------------------------------------------------------------------------------ how regions are named


@pytest.mark.parametrize("regions", ["transformer.h.*", "GPT2Block", "auto"])
def test_gpt2(regions: str):
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    kwargs = {**case.kwargs, "use_cache": False}
    schedule = remat_planner.plan(case.model, (), kwargs, budget="75%", regions=regions)
    assert list(schedule.regions) == ["transformer.h.0", "transformer.h.1"]
    graphs = {region.fingerprint for region in schedule.regions.values()}
    assert len(graphs) == 1, "identical blocks have one graph"
    found = remat_planner.verify(case.model, schedule, (), kwargs)
    assert found.identical, found.differences
    assert found.within_budget


def test_a_cache_that_blocks_write_into_is_refused():
    torch.manual_seed(0)
    case = ZOO["gpt2"]()
    with pytest.raises(CaptureError, match=r"region 'transformer\.h\.0': .*DynamicCache.*use_cache=False"):
        remat_planner.plan(case.model, (), case.kwargs, budget="75%", regions="transformer.h.*")


def test_a_name_that_matches_nothing_lists_what_is_near():
    model, _ = decoder()
    with pytest.raises(RegionError, match=r"no module of Decoder .*'layer\.\*'.*near it: layers\.\*") as caught:
        find_regions(model, "layer.*")
    assert "layers.*" in caught.value.names
    with pytest.raises(RegionError, match="near it: Block"):
        find_regions(model, "Blok")
    with pytest.raises(RegionError, match="LSTM"):
        find_regions(model, nn.LSTM)
    with pytest.raises(RegionError, match="no repeated blocks"):
        find_regions(nn.Linear(2, 2), "auto")


def test_a_pattern_matches_part_by_part():
    model, _ = decoder()
    assert list(find_regions(model, "layers.[12]")) == ["layers.1", "layers.2"]
    assert list(find_regions(model, "*.*.up")) == [f"layers.{k}.up" for k in range(3)]
    assert list(find_regions(model, Block)) == [f"layers.{k}" for k in range(3)]
    assert merged_names([*find_regions(model, Block), "head", "x.7"]) == "layers.0-2, head, x.7"


def test_regions_inside_one_another_are_named():
    model, _ = decoder()
    model.layers[1].extra = Block()
    with pytest.raises(RegionError, match=r"'layers\.1\.extra' lies inside of region 'layers\.1'") as caught:
        find_regions(model, Block)
    assert caught.value.names == ("layers.1", "layers.1.extra")


# ------------------------------------------------------------------------------------------------ how they are called


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


def test_a_block_called_with_other_forms_or_not_at_all_is_refused():
    torch.manual_seed(0)
    model, x = Recurrent((64, 32)), torch.randn(64, 32)
    with pytest.raises(RegionError, match=r"'block' several times with inputs of different forms.*32, 32.*64, 32"):
        remat_planner.plan(model, (x,), budget="60%", regions="block")
    with pytest.raises(RegionError, match="does not call the forward of unused") as caught:
        remat_planner.plan(model, (x,), budget="60%", regions="unused")
    assert caught.value.names == ("unused",)


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


def test_hooks_of_the_blocks_run_once_a_step():
    model, tokens = decoder()
    seen: list[str] = []
    model.layers[0].register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.layers[0].register_forward_hook(lambda module, args, output: seen.append("after"))
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    remat_planner.apply_schedule(model, schedule)
    seen.clear()
    model(tokens).backward()
    assert seen == ["before", "after"]


def test_parameters_are_those_that_are_there_when_the_block_is_called():
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    torch.manual_seed(1)
    new = torch.randn_like(model.layers[2].up.weight)

    def gathered(block: nn.Module, args: Any) -> None:
        block.up.weight = nn.Parameter(new)

    for module in (model, eager):
        module.layers[2].register_forward_pre_hook(gathered)
    assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


def test_autocast_around_the_step():
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
        remat_planner.apply_schedule(model, schedule)
        assert same(gradients_after(model, tokens), gradients_after(eager, tokens))


def test_casts_that_a_region_shares_are_refused_unless_autocast_shares_none():
    model, tokens = decoder()
    model.layers[1].up.weight = model.layers[0].up.weight
    eager = copy.deepcopy(model)
    assert remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RegionError, match=r"'layers\.0': its parameter up\.weight is also in layers\.1\.up,") as caught:
            remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
        assert caught.value.names == ("layers.0",)
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="100%", regions="auto"))
        assert list(planned_regions(model)) == ["layers.2"]
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))
        remat_planner.remove_schedule(model)
    with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*"))
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


class ReadsItsBlocks(Decoder):
    """Multiplies with a weight of its first block, which its last one does not share."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        logits = super().forward(tokens)
        return logits + F.linear(self.embedding(tokens), self.layers[0].up.weight).mean()


def test_casts_that_the_models_own_forward_shares_are_refused():
    torch.manual_seed(0)
    model, tokens = ReadsItsBlocks(), torch.randint(0, 50, (4, 64))
    eager = copy.deepcopy(model)
    assert remat_planner.verify(
        model, remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*"), (tokens,)
    ).identical
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(RegionError, match=r"'layers\.0': its parameter up\.weight is also read by what calls"):
            remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*")
        remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="100%", regions="auto"))
        assert list(planned_regions(model)) == ["layers.1", "layers.2"]
        assert same(gradients_after(model, tokens, steps=1), gradients_after(eager, tokens, steps=1))


def test_casts_that_the_loss_shares_are_refused():
    model, tokens = decoder()

    def loss(output: torch.Tensor) -> torch.Tensor:
        return output.mean() + F.linear(model.embedding.weight, model.layers[1].up.weight).mean()

    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RegionError, match=r"'layers\.1': its parameter up\.weight"),
    ):
        remat_planner.plan(model, (tokens,), budget="90%", regions="layers.*", loss=loss)


def test_inputs_of_another_form_are_planned_once_more(caplog: pytest.LogCaptureFixture):
    model, tokens = decoder()
    eager = copy.deepcopy(model)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="50%", regions="layers.*"))
    shorter = tokens[:, :48]
    assert same(gradients_after(model, shorter), gradients_after(eager, shorter))
    assert "planning once" in caplog.text
    assert all(len(forward.planned.programs) == 2 for forward in planned_regions(model).values())


def test_a_process_that_has_not_loaded_fsdp_plans_by_regions():
    code = """
import sys, torch, remat_planner
assert "torch.distributed.fsdp" not in sys.modules
model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU()) for _ in range(3)))
remat_planner.plan(model, (torch.randn(64, 16),), budget="90%", regions="*")
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------ it is still the model


def test_planning_leaves_the_model_as_it_was():
    model, tokens = decoder()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    attributes = [dict(vars(module)) for module in model.modules()]
    random = torch.get_rng_state()
    remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [dict(vars(module)) for module in model.modules()] == attributes
    assert all(p.grad is None for p in model.parameters())


def test_copies_and_pickles_stay_planned():
    model, tokens = decoder()
    eager = gradients_after(model, tokens)
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    model.zero_grad()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert list(planned_regions(other)) == [f"layers.{k}" for k in range(3)]
        assert all(forward.block is other.get_submodule(name) for name, forward in planned_regions(other).items())
        assert same(gradients_after(other, tokens), eager)


def test_two_schedules_on_one_model_are_refused():
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    remat_planner.apply_schedule(model, schedule)
    assert is_applied(model)
    with pytest.raises(AlreadyAppliedError, match="remove_schedule"):
        remat_planner.apply_schedule(model, schedule)
    with pytest.raises(AlreadyAppliedError, match=r"layers\.0-2"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    assert remat_planner.verify(model, schedule, (tokens,)).identical
    assert len(planned_regions(model)) == 3


# ------------------------------------------------------------------------------------------------ files


def test_save_and_load(tmp_path: Path):
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    path = tmp_path / "it.schedule.json"
    schedule.save(path)
    distinct = {region.steps for region in schedule.regions.values()}
    assert len(json.loads(path.read_text())["schedules"]) == len(distinct) <= 3
    loaded = RegionSchedule.load(path)
    assert isinstance(load_schedule(path), RegionSchedule)
    assert loaded.peak_bytes == schedule.peak_bytes
    assert loaded.seconds == pytest.approx(schedule.seconds)
    assert {name: region.steps for name, region in loaded.regions.items()} == {
        name: region.steps for name, region in schedule.regions.items()
    }
    found = remat_planner.verify(model, loaded, (tokens,))
    assert found.identical, found.differences
    assert found.measured_peak_bytes <= loaded.budget
    with pytest.raises(ScheduleFileError, match=r"RegionSchedule\.load"):
        Schedule.load(path)
    content = json.loads(path.read_text())
    content["regions"]["layers.0"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(ScheduleFileError, match="damaged"):
        RegionSchedule.load(path)


def test_another_model_is_refused():
    model, tokens = decoder()
    schedule = remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*")
    smaller, _ = decoder(layers=2)
    with pytest.raises(StaleScheduleError, match=r"no module layers\.2"):
        remat_planner.apply_schedule(smaller, schedule)
    assert not is_applied(smaller)
    wider, _ = decoder(width=48)
    with pytest.raises(StaleScheduleError, match=r"layers\.0: .*up\.weight"):
        remat_planner.apply_schedule(wider, schedule)


def test_what_a_run_is_needed_for_is_refused_on_paper():
    model, tokens = decoder()
    with pytest.raises(RegionError, match="on paper"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*", costs="h100")
    with pytest.raises(RegionError, match="shard"):
        remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*", shard=2)


def test_the_ends_of_a_planned_backward_are_found():
    model, tokens = decoder()
    remat_planner.apply_schedule(model, remat_planner.plan(model, (tokens,), budget="60%", regions="layers.*"))
    ends = first_and_last_node([model.layers[0](torch.randn(8, 64, 32, requires_grad=True))])
    assert ends is not None
    assert [function_behind(node).__name__ for node in ends] == ["_Arrive", "_Link"]
    assert first_and_last_node([torch.ones(1, requires_grad=True) * 2]) is None


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    Path("regions_net.py").write_text(
        "from tests.planner.regions.test_regions import decoder\n\n\ndef build():\n    return decoder(layers=2)\n"
    )

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["plan", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return (caught.value.code or 0, *capsys.readouterr())

    code, out, _ = run("regions_net.py", "--budget", "70%", "--regions", "layers.*", "--verify")
    assert code == 0
    assert "2 regions planned" in out
    assert "bit for bit" in out
    assert "RegionSchedule.load('regions_net.schedule.json')" in out
    code, out, _ = run("show", "regions_net.schedule.json", "--json")
    document = json.loads(out)
    assert [name for row in document["regions"] for name in row["regions"]] == ["layers.0", "layers.1"]
    assert document["peak_bytes"] <= document["budget_bytes"]
    assert run("verify", "regions_net.schedule.json", "regions_net.py")[0] == 0
    code, _, error = run("explain", "regions_net.schedule.json", "gelu")
    assert code == 2
    assert "by regions" in error
    code, _, error = run("regions_net.py", "--budget", "70%")
    assert code == 4
    assert "--regions auto" in error
    code, _, error = run("regions_net.py", "--budget", "70%", "--regions", "layer.*")
    assert code == 4
    assert "layers.*" in error
