"""The command as it is typed: what it prints where, what it writes, what it exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import remat_planner
from remat_planner.planner.cli import main
from remat_planner.planner.cli.exit_codes import ExitCode

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(4))

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x)
            return x

    def loss(output):
        return output.square().mean()

    def build():
        torch.manual_seed(0)
        return Net(), torch.randn(512, 32), loss
"""


@dataclass(frozen=True)
class Run:
    """How a call of ``plan`` ended."""

    code: int
    out: str
    err: str


Call = Callable[..., Run]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder with ``net.py`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    yield tmp_path
    sys.path[:] = path
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(sys.modules) - modules:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def call(folder: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command in ``folder``."""

    def run(*arguments: str) -> Run:
        if any(a.startswith("--budget") for a in arguments) and "--time-limit" not in arguments:
            arguments = ("--time-limit", "5", *arguments)  # what solving finds is not the point here
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capsys.readouterr()
        code = ended.value.code
        assert isinstance(code, int)
        return Run(code, captured.out, captured.err)

    return run


def written(folder: Path) -> set[str]:
    """The files in ``folder`` that a test did not put there itself."""
    return {path.name for path in folder.iterdir() if path.suffix != ".py" and path.name != "__pycache__"}


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


def test_verify_prints_predicted_and_measured(call: Call) -> None:
    run = call("--budget", "70%", "--verify", "net.py")
    assert run.code == ExitCode.OK, run.err
    assert "predicted" in run.out
    assert "bit for bit" in run.out


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


def test_a_schedule_is_exported_as_text_that_runs(call: Call, folder: Path) -> None:
    assert call("--budget", "80%", "--time-limit", "1", "-q", "net.py").code == ExitCode.OK
    file = "net.schedule.json"
    for form in ("sac", "modules"):
        run = call("export", file, "net.py", "--to", form)
        assert run.code == ExitCode.OK, run.err
        assert run.out.startswith("# Budget")
        assert run.out.count("at the peak") == 2
        names: dict[str, Any] = {}
        exec(run.out, names)
        model = sys.modules["net"].Net()
        names["wrap"](model)
        model(torch.randn(512, 32)).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
    document = json.loads(call("export", file, "net.py", "--to", "megatron", "--json").out)
    assert document["within_budget"]
    assert document["schedule_peak_bytes"] == remat_planner.Schedule.load(folder / file).peak_bytes
    assert document["code"].startswith("--recompute-granularity ")
    assert document["loss"] == document["overhead"] - document["schedule_overhead"]


def test_an_export_that_misses_the_budget_says_so(call: Call, folder: Path) -> None:
    # Most of the memory is outside of the blocks, where only the schedule reaches it.
    (folder / "tail.py").write_text(
        "from net import *\nclass Tail(Net):\n    def forward(self, x):\n        x = super().forward(x)\n"
        "        for _ in range(20):\n            x = torch.sin(x)\n        return x\n"
        "def build():\n    return Tail(), torch.randn(512, 32), loss\n"
    )
    assert call("--budget", "50%", "--time-limit", "1", "-q", "tail.py").code == ExitCode.OK
    export = ("export", "tail.schedule.json", "tail.py", "--to")
    run = call(*export, "modules")
    assert run.code == ExitCode.INFEASIBLE
    assert "EXCEEDED" in run.out.splitlines()[0]
    document = json.loads(call(*export, "modules", "--json").out)
    assert document["within_budget"] is False
    assert document["peak_bytes"] > document["budget"] >= document["schedule_peak_bytes"]
    refused = call(*export, "transformers", "--json")
    assert refused.code == ExitCode.MODEL
    assert json.loads(refused.out)["error"]["form"] == "transformers"
    assert call(*export, "magic").code == ExitCode.USAGE
    assert call("export", "absent.json", "tail.py", "--to", "sac").code == ExitCode.USAGE


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


def test_help_tells_of_the_words(call: Call) -> None:
    run = call("--help")
    assert run.code == ExitCode.OK
    for needed in ("--budget", "--verify", "plan verify SCHEDULE MODEL", "plan solvers", "3 infeasible"):
        assert needed in " ".join(run.out.split())
    assert "SCHEDULE" in call("verify", "--help").out


def test_not_proven(call: Call, folder: Path) -> None:
    # A policy proves nothing about a budget that forces it to recompute.
    run = call("--budget", "70%", "--solver", "every-n", "--require-optimal", "net.py")
    assert run.code == ExitCode.NOT_PROVEN
    assert written(folder) == {"net.schedule.json"}
    assert call("--budget", "100%", "--solver", "none", "--require-optimal", "net.py").code == ExitCode.OK


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
        (("--budget", "nan", "net.py"), "no number of bytes"),
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


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(call: Call, folder: Path, kind: str) -> None:
    content, message = BAD_MODELS[kind]
    if content is not None:
        (folder / "bad.py").write_text(textwrap.dedent(content))
    run = call("--budget", "70%", "bad.py")
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


def test_what_fails_verification_is_not_written(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuted(*_: object, **__: object) -> remat_planner.Verification:
        return remat_planner.Verification(identical=True, measured_peak_bytes=200, predicted_peak_bytes=100, budget_bytes=100)

    monkeypatch.setattr("remat_planner.planner.cli.plan.verify", refuted)
    run = call("--budget", "70%", "--verify", "net.py")
    assert run.code == ExitCode.VERIFICATION_FAILED
    assert "exceeded" in run.out
    assert written(folder) == set()


def test_what_nobody_expected_is_told_with_a_traceback(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr("remat_planner.planner.cli.plan.trace_whole", broken)
    run = call("--budget", "70%", "net.py")
    assert run.code == ExitCode.UNEXPECTED
    assert "Traceback" in run.err
    assert "a bug of ours" in run.err
    assert written(folder) == set()


def test_interrupted_while_solving(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("remat_planner.planner.cli.progress.Stages.started", interrupt)
    run = call("--budget", "70%", "net.py")
    assert run.code == ExitCode.INTERRUPTED
    assert "interrupted" in run.err
    assert "Traceback" not in run.err
    assert written(folder) == set()


@pytest.mark.parametrize("during", ["loading", "solving"])
def test_a_real_interrupt_ends_the_process(folder: Path, during: str) -> None:
    (folder / "slow.py").write_text(
        "import time, pathlib\ndef build():\n    pathlib.Path('started.txt').touch()\n    time.sleep(600)\n"
    )
    # As in a mixed-integer program: compiled code that Python does not get a word in.
    solving = "p.schedule_step = lambda *a, **k: (open('started.txt', 'w').close(), ctypes.CDLL(None).sleep(600))"
    # Tests in the background of a script are started with interrupts ignored, and so would their children be.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    imports = "import ctypes, signal, remat_planner.planner.cli as cli, remat_planner.planner.cli.plan as p"
    code = f"{imports}; {heard}; {solving}; cli.main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--budget", "1GB", "slow.py" if during == "loading" else "net.py"],
        env=os.environ | {"PYTHONPATH": str(Path(remat_planner.__file__).resolve().parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (folder / "started.txt").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert "Traceback" not in err
    assert written(folder) == {"started.txt"}
