"""Running the command ``plan`` in a test: an empty folder with a small model in it, and how each call ended."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from remat_planner.planner.cli import main

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
