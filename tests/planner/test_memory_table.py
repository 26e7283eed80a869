"""The table of ``plan memory``: every row is what ``plan`` predicts for that combination, and the model is left alone."""

from __future__ import annotations

import copy
import json
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.cli import main
from remat_planner.planner.errors import OptimizerError
from remat_planner.planner.memory_table import MemoryTable, memory_table


class Net(nn.Module):
    """Numbered blocks with a buffer in them, a tied head, one frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)
        )
        self.head = nn.Linear(32, 50, bias=False)
        self.head.weight = self.words.weight
        self.layers[0][0].bias.requires_grad_(False)

    def forward(self, tokens: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """[batch] and [batch, 1] -> [batch, 50]."""
        x = self.words(tokens) * scale
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x)


def build() -> tuple[Net, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Net(), (torch.randint(0, 50, (64,)), torch.rand(64, 1))


def loss(output: torch.Tensor) -> torch.Tensor:
    return output.float().logsumexp(-1).mean()


def table_of(model: nn.Module, args: tuple[torch.Tensor, ...], costs: str) -> MemoryTable:
    return memory_table(model, args, {}, loss=loss, costs=costs, optimizer="adamw", ranks=4)


@pytest.mark.slow(on_request=True)
def test_every_row_is_what_plan_predicts() -> None:
    model, args = build()
    table = table_of(model, args, "h100")
    names = [row.combination.name for row in table.rows]
    assert len(set(names)) == len(names)
    peaks = set()
    for row in table.rows:
        dtype = row.combination.dtype
        cast = tuple(arg.to(dtype) if arg.is_floating_point() else arg for arg in args)
        options = dict(row.combination.options)
        plan_of = {"budget": "100%", "solver": "none", "costs": "h100", "loss": loss, "optimizer": options.pop("optimizer")}
        plan_of["training"] = remat_planner.TrainingState(**options)
        schedule = remat_planner.plan(copy.deepcopy(model).to(dtype), cast, **plan_of)
        assert isinstance(schedule, remat_planner.Schedule)
        assert row.peak == schedule.baseline_peak_bytes, row.combination.name
        assert row.frees == table.rows[0].peak - row.peak
        assert row.parameters == schedule.graph.constants["parameters"]
        peaks.add(row.peak)
    assert len(peaks) > len(names) // 2
    assert "adamw8bit" in " ".join([*names, *table.left_out])
    stages = {stage: row for row in table.rows for stage in (1, 2, 3) if row.combination.name.endswith(f"ZeRO-{stage} over 4")}
    assert stages[1].optimizer == stages[2].optimizer == stages[3].optimizer < table.rows[0].optimizer
    assert stages[1].gradients > stages[2].gradients == stages[3].gradients
    assert stages[2].parameters > stages[3].parameters


@pytest.mark.slow
def test_the_model_is_left_as_it_was() -> None:
    model, args = build()
    before = {name: (tensor, tensor.dtype, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()}
    table_of(model, args, "h100")
    for name, tensor in model.state_dict(keep_vars=True).items():
        kept, dtype, content = before[name]
        assert tensor is kept
        assert tensor.dtype == dtype
        assert torch.equal(tensor, content)
    assert all(p.grad is None for p in model.parameters())


def test_what_cannot_be_had_is_left_out_and_said() -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != torch.float32:
                raise TypeError("float32 only")
            return self.inner(x)

    table = memory_table(Stubborn(), (torch.randn(4, 8),), {}, costs="h100")
    assert [row.combination.name for row in table.rows] == ["float32", "float32, accumulating"]
    assert "bfloat16" in table.left_out
    assert all("cannot be captured in torch.bfloat16" in reason for reason in table.left_out.values())


@pytest.mark.slow
def test_what_means_nothing_is_an_error() -> None:
    model, args = build()
    with pytest.raises(OptimizerError, match="adamw9"):
        memory_table(model, args, {}, loss=loss, costs="h100", optimizer="adamw9")
    with pytest.raises(remat_planner.TrainingStateError, match="1 or more"):
        memory_table(model, args, {}, loss=loss, costs="h100", ranks=0)


@pytest.fixture
def model_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model for the command, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "combined_net.py").write_text(
        textwrap.dedent("""
            import torch
            from torch import nn

            def build():
                model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)).bfloat16()
                return model, torch.randn(16, 32).bfloat16(), lambda output: output.square().mean()
        """)
    )
    return "combined_net.py"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command prints; it succeeds."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


@pytest.mark.slow
def test_the_command(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run(capsys, "memory", model_file, "--device", "h100", "--shard", "4")
    for needed in ("float32", "ZeRO-3 over 4", "master weights", "optimizer on the host", "step peak", "frees", "kB"):
        assert needed in printed
    document = json.loads(run(capsys, "memory", model_file, "--shard", "1", "--json"))  # on this CPU
    assert document["combinations"][0]["name"] == "float32"
    assert document["combinations"][0]["frees_bytes"] == 0
    on_the_host = [name for name in document["left_out"] if name.endswith("on the host")]
    assert on_the_host
    assert "same memory" in document["left_out"][on_the_host[0]]
    assert not any("ZeRO" in row["name"] for row in document["combinations"])


@pytest.mark.slow
def test_the_options_of_plan_make_the_rows(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = json.loads(run(capsys, "memory", model_file, "--device", "h100", "--shard", "4", "--json"))
    peaks = {row["name"]: row["peak_bytes"] for row in table["combinations"]}
    options = {
        "optimizer on the host": ("--offload-optimizer",),
        "accumulating": ("--accumulate",),
        "ZeRO-1 over 4": ("--shard", "4", "--zero", "1"),
        "ZeRO-3 over 4, accumulating": ("--shard", "4", "--accumulate"),
    }
    mixed = ("--budget", "110%", "--device", "h100", "--solver", "none", "--optimizer", "adamw", "--master-weights", "--json")
    for name, given in options.items():
        document = json.loads(run(capsys, *mixed, *given, model_file))
        assert document["baseline_peak_bytes"] == peaks[f"bfloat16, master weights, {name}"], name
    assert document["accumulate"]
    assert document["memory_at_peak"]["accumulated gradients"] > 0


@pytest.mark.slow
def test_gradient_buckets(model_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--budget", "110%", "--device", "h100", "--solver", "none", "--gradient-buckets")
    document = json.loads(run(capsys, *given, "views", "--json", model_file))
    assert document["gradient_buckets"] == "views"
    assert document["memory_at_peak"]["gradient buckets"] > 0
    with pytest.raises(SystemExit) as caught:
        main([*given, "flat", model_file])
    assert caught.value.code == 2
    assert "'flat' is not a kind of gradient buckets" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        main(["--budget", "110%", "--gradient-buckets", "views", "--verify", model_file])
    assert caught.value.code == 2
    assert "leave out --shard, --gradient-dtype and --gradient-buckets views" in " ".join(capsys.readouterr().err.split())
