"""The command as it is typed: what it prints where, what it writes, what it exits with."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from tests.planner.command_line import Call, written


@pytest.mark.slow
def test_the_verbatim_form(call: Call, folder: Path) -> None:
    run = call("--budget", "70%", "net.py")
    assert run.code == ExitCode.OK, run.err
    schedule = remat_planner.Schedule.load(folder / "net.schedule.json")
    assert schedule.peak_bytes <= schedule.budget == int(0.7 * schedule.baseline_peak_bytes)
    for needed in (
        "70 % of the peak",
        "MiB",
        "this plan",
        "every-n",
        "Memory at the peak",
        "net.py:",
        "net.schedule.json",
        "loss=loss",
    ):
        assert needed in run.out
    assert "Solving" in run.err
    assert "Solving" not in run.out
    assert "\x1b" not in run.out + run.err
    assert written(folder) == {"net.schedule.json"}


@pytest.mark.slow
def test_options_may_stand_after_the_model(call: Call, folder: Path) -> None:
    (folder / "plans").mkdir()
    run = call("net.py:build", "--budget=1GB", "-o", "plans/mine.json", "--optimizer", "adamw", "--solver", "ilp", "--quiet")
    assert run.code == ExitCode.OK, run.err
    schedule = remat_planner.Schedule.load(folder / "plans" / "mine.json")
    assert schedule.budget == 10**9
    assert schedule.graph.constants["optimizer"] >= 2 * schedule.graph.constants["parameters"]
    assert len(run.out.splitlines()) == 1
    assert run.err == ""
    assert written(folder) == {"plans"}


@pytest.mark.slow
def test_json_is_one_document_whatever_else_prints(call: Call, folder: Path) -> None:
    (folder / "loud.py").write_text(
        "from net import *\n_build = build\ndef build():\n    print('hello')\n    return _build()\n"
    )
    run = call("--budget", "70%", "--json", "--verify", "loud.py")
    assert run.code == ExitCode.OK, run.err
    document = json.loads(run.out)
    assert document["peak_bytes"] <= document["budget_bytes"]
    assert document["verification"]["identical"]
    assert document["verification"]["within_budget"]
    assert document["schedule"] == "loud.schedule.json"
    assert "hello" in run.err


@pytest.mark.slow
def test_verify_prints_predicted_and_measured(call: Call) -> None:
    run = call("--budget", "70%", "--verify", "net.py")
    assert run.code == ExitCode.OK, run.err
    assert "predicted" in run.out
    assert "bit for bit" in run.out


@pytest.mark.slow
def test_the_words(call: Call, folder: Path) -> None:
    assert call("--budget", "70%", "-q", "net.py").code == ExitCode.OK
    file = "net.schedule.json"
    verified = call("verify", file, "net.py")
    assert (verified.code, "bit for bit" in verified.out) == (ExitCode.OK, True), verified.err
    assert json.loads(call("verify", file, "net.py", "--json").out)["identical"]
    shown = call("show", file)
    assert (shown.code, "Ops that run exactly once" in shown.out) == (ExitCode.OK, True), shown.err
    assert json.loads(call("show", file, "--json").out)["fingerprint"] == remat_planner.Schedule.load(folder / file).fingerprint
    explained = call("explain", file, "gelu")
    assert (explained.code, "in memory" in explained.out) == (ExitCode.OK, True), explained.err
    assert call("explain", file, "no such op").code == ExitCode.USAGE
    listed = call("solvers")
    assert listed.code == ExitCode.OK
    assert "every-n" in listed.out
    assert "ilp" in json.loads(call("solvers", "--json").out)


def test_a_device_that_is_not_here(call: Call, folder: Path) -> None:
    # 40 GB of parameters: more than a test could ever allocate.
    (folder / "huge.py").write_text(
        "import torch\nfrom torch import nn\ndef build():\n"
        "    layers = [nn.Linear(50_000, 50_000, bias=False) for _ in range(4)]\n"
        "    return nn.Sequential(*layers).bfloat16(), torch.randn(4096, 50_000, dtype=torch.bfloat16), lambda o: o.mean()\n"
    )
    run = call("--budget", "100%", "--time-limit", "2", "--device", "H200", "huge.py")
    assert run.code == ExitCode.OK, run.err
    assert "predicted, from h200" in run.out
    schedule = remat_planner.Schedule.load(folder / "huge.schedule.json")
    assert schedule.graph.constants["parameters"] == 4 * 2 * 50_000**2
    # Three products a layer (one for the first, whose input needs no gradient) at the card's rate: no faster than that.
    assert schedule.seconds > 11 * 2 * 4096 * 50_000**2 / 989e12
    listed = call("devices")
    assert (listed.code, "h200" in listed.out) == (ExitCode.OK, True)
    assert json.loads(call("devices", "--json").out)["h200"]["memory"] == 141 * 10**9


@pytest.mark.slow
def test_not_proven(call: Call, folder: Path) -> None:
    # A policy proves nothing about a budget that forces it to recompute.
    run = call("--budget", "70%", "--solver", "every-n", "--require-optimal", "net.py")
    assert run.code == ExitCode.NOT_PROVEN
    assert written(folder) == {"net.schedule.json"}
    assert call("--budget", "100%", "--solver", "none", "--require-optimal", "net.py").code == ExitCode.OK


@pytest.mark.slow
def test_infeasible_names_the_least_budget_and_it_works(call: Call, folder: Path) -> None:
    run = call("--budget", "9%", "--json", "--time-limit", "2", "net.py")
    assert run.code == ExitCode.INFEASIBLE, run.err
    error = json.loads(run.out)["error"]
    assert error["bottleneck"]
    assert f"--budget {error['minimum_bytes']}" in run.err
    assert written(folder) == set()
    assert call("--budget", str(error["minimum_bytes"]), "--time-limit", "2", "-q", "net.py").code == ExitCode.OK


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.py",), "--budget"),
        (("--budget", "40XB", "net.py"), "unknown unit"),
        (("--budget", "0", "net.py"), "no memory at all"),
        (("--budget", "-5GB", "net.py"), "no memory at all"),
        (("--budget", "nan", "net.py"), "not a number of bytes"),
        (("--budget", "1GB", "--solver", "magic", "net.py"), "choose one of"),
        (("--budget", "1GB", "--optimizer", "magic", "net.py"), "choose one of"),
        (("--budget", "1GB", "--time-limit", "-1", "net.py"), "time limit is -1"),
        (("--budget", "1GB", "--time-limit", "nan", "net.py"), "time limit is nan"),
        (("--budget", "1GB", "--device", "h1000", "net.py"), "known are h100"),
        (("--budget", "1GB", "--device", "h100", "--verify", "net.py"), "on paper"),
        (("--budget", "1GB", "--device", "h100", "--costs", "a.json", "net.py"), "give one"),
        (("--budget", "1GB", "--costs", "absent.json", "net.py"), "absent.json"),
        (("--budget", "1GB", "--frobnicate", "net.py"), "frobnicate"),
        (("--budget", "1GB", "-o", "nowhere/x.json", "net.py"), "cannot be written"),
        (("--budget", "1GB", "-o", ".", "net.py"), "is a folder"),
        (("--budget", "1GB"), "MODEL"),
        ((), "MODEL"),
        (("verify", "absent.json", "net.py"), "cannot be read"),
    ],
)
def test_usage(call: Call, folder: Path, arguments: tuple[str, ...], message: str) -> None:
    run = call(*arguments)
    assert run.code == ExitCode.USAGE
    assert message.lower() in " ".join(run.err.lower().replace("│", " ").split())
    assert "Traceback" not in run.err
    assert written(folder) == set()


def test_an_output_that_cannot_be_written_is_found_before_the_work(call: Call, folder: Path) -> None:
    (folder / "costly.py").write_text("from pathlib import Path\ndef build():\n    Path('worked.txt').write_text('')\n")
    assert call("--budget", "1GB", "-o", "nowhere/x.json", "costly.py").code == ExitCode.USAGE
    assert written(folder) == set()


BAD_MODELS = {
    "absent": (None, "no such file"),
    "no build": ("def build_net():\n    ...\n", "build_net"),
    "returns nothing": ("def build():\n    ...\n", "it must return"),
    "does not fit": ("from net import *\ndef build():\n    return Net(), torch.randn(512, 31), loss\n", "31"),
    "nothing to train": (
        "from net import *\ndef build():\n    return Net().requires_grad_(False), torch.randn(512, 32), loss\n",
        "requires",
    ),
    "branch on data": (
        """
        from net import *
        class Branch(Net):
            def forward(self, x):
                x = super().forward(x)
                return x if x.sum() > 0 else -x
        def build():
            return Branch(), torch.randn(512, 32), loss
        """,
        "bad.py:6",
    ),
    "buffer reassigned": (
        """
        from net import *
        class Counting(Net):
            def __init__(self):
                super().__init__()
                self.register_buffer("count", torch.zeros(()))
            def forward(self, x):
                self.count = self.count + 1
                return super().forward(x)
        def build():
            return Counting(), torch.randn(512, 32), loss
        """,
        "count",
    ),
    "loss is no scalar": (
        "from net import *\ndef build():\n    return Net(), torch.randn(512, 32), lambda o: o\n",
        "shape [512, 32]",
    ),
    "loss is no tensor": ("from net import *\ndef build():\n    return Net(), torch.randn(512, 32), lambda o: 3\n", "loss"),
    "wrapped": (
        """
        from net import *
        import torch.distributed as dist
        def build():
            if not dist.is_initialized():
                dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            return nn.parallel.DistributedDataParallel(Net()), torch.randn(512, 32), loss
        """,
        "DistributedDataParallel",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(call: Call, folder: Path, kind: str) -> None:
    content, message = BAD_MODELS[kind]
    if content is not None:
        (folder / "bad.py").write_text(textwrap.dedent(content))
    run = call("--budget", "70%", "--whole", "bad.py")
    assert run.code == ExitCode.MODEL, run.err
    assert message in run.err
    assert "Traceback" not in run.err
    assert run.out == ""
    assert written(folder) == set()


def test_code_that_raises_shows_its_own_traceback_only(call: Call, folder: Path) -> None:
    (folder / "bad.py").write_text(
        "def build():\n    return helper()\n\ndef helper():\n    raise RuntimeError('out of ideas')\n"
    )
    run = call("--budget", "1GB", "--json", "bad.py")
    assert run.code == ExitCode.MODEL
    assert run.err.count("File ") == 2
    assert "RuntimeError: out of ideas" in run.err
    assert json.loads(run.out)["error"]["exit_code"] == ExitCode.MODEL


@pytest.mark.slow
def test_bad_schedule_files(call: Call, folder: Path) -> None:
    file = folder / "net.schedule.json"
    assert call("--budget", "70%", "-q", "net.py").code == ExitCode.OK
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    truncated = call("verify", file.name, "net.py")
    assert (truncated.code, "truncated" in truncated.err) == (ExitCode.MODEL, True)
    file.write_text(whole.replace('"format_version":1', '"format_version":99'))
    other_version = call("verify", file.name, "net.py")
    assert (other_version.code, "version 99" in other_version.err) == (ExitCode.MODEL, True)
    file.write_text(whole)
    (folder / "other.py").write_text(
        "from net import *\ndef build():\n    return nn.Linear(32, 3), torch.randn(512, 32), loss\n"
    )
    other_model = call("verify", file.name, "other.py")
    assert other_model.code == ExitCode.VERIFICATION_FAILED, other_model.err
    assert "layers.0.0.weight" in other_model.err
    assert "Traceback" not in truncated.err + other_version.err + other_model.err


@pytest.mark.slow
def test_what_fails_verification_is_not_written(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuted(*_: object, **__: object) -> remat_planner.Verification:
        return remat_planner.Verification(identical=True, measured_peak_bytes=200, predicted_peak_bytes=100, budget_bytes=100)

    monkeypatch.setattr("remat_planner.planner.verified_plan.verify", refuted)
    run = call("--budget", "70%", "--verify", "net.py")
    assert run.code == ExitCode.VERIFICATION_FAILED
    assert "exceeded" in run.out
    assert written(folder) == set()


@pytest.mark.slow
def test_a_plan_is_verified_unless_told_otherwise(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remat_planner.planner.verified_plan.BY_DEFAULT", True)
    verified = call("--budget", "70%", "net.py")
    assert (verified.code, "bit for bit" in verified.out) == (ExitCode.OK, True), verified.err
    told_not_to = call("--budget", "70%", "--no-verify", "net.py")
    assert (told_not_to.code, "bit for bit" in told_not_to.out) == (ExitCode.OK, False), told_not_to.err
    assert "Not verified" in told_not_to.out
    assert call("--budget", "70%", "--no-verify", "--quiet", "net.py").out.strip().endswith("not verified")
    on_paper = call("--budget", "70%", "--device", "h100", "net.py")
    assert (on_paper.code, "Not verified" in on_paper.out, "on paper" in on_paper.out) == (ExitCode.OK, True, True), (
        on_paper.err
    )


def test_what_nobody_expected_is_told_with_a_traceback(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("remat_planner.planner.cli.plan.plan_whole_or_regions", broken)
    run = call("--budget", "70%", "net.py")
    assert run.code == ExitCode.UNEXPECTED
    assert "Traceback" in run.err
    assert "a bug of ours" in run.err
    assert written(folder) == set()


@pytest.mark.slow
def test_a_plan_to_stdout(call: Call, folder: Path) -> None:
    run = call("net.py", "-b", "100%", "--solver", "none", "--no-verify", "-o", "-")
    assert run.code == ExitCode.OK, run.err
    assert json.loads(run.out)["format"] == "activation checkpointing schedule"
    assert "Budget" in run.err
    assert written(folder) == set()


@pytest.mark.slow
def test_a_plan_that_cannot_be_saved_is_not_lost(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = remat_planner.Schedule.save

    def full(schedule: remat_planner.Schedule, path: Path) -> None:
        if Path(path).parent == folder:
            raise OSError(28, "No space left on device")
        save(schedule, path)

    monkeypatch.setattr(remat_planner.Schedule, "save", full)
    run = call("net.py", "-b", "100%", "--solver", "none", "--no-verify")
    assert run.code == ExitCode.USAGE
    place = run.err.rpartition("the plan is in ")[2].strip()
    assert remat_planner.Schedule.load(place).solver == "none"


@pytest.mark.parametrize("budget", ["60", "0.6"])
def test_a_budget_without_its_unit(call: Call, budget: str) -> None:
    run = call("net.py", "--budget", budget)
    assert run.code == ExitCode.USAGE
    assert "did you mean '60%' of the peak" in run.err
