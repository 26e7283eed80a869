"""The forms in which a model can be named, and the errors when it cannot be loaded."""

from __future__ import annotations

import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from remat_planner.planner.model_loading.load import ModelCodeError, ModelNotLoadedError, load_model

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a model file into an empty current folder; the process is restored afterwards."""
    monkeypatch.chdir(tmp_path)
    path, modules = list(sys.path), set(sys.modules)

    def write_file(content: str, name: str = "model.py") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("import torch\nfrom torch import nn\n" + textwrap.dedent(content))
        return file

    yield write_file
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("inputs", "n_args", "names"),
    [
        ("torch.ones(2, 4)", 1, set()),
        ("(torch.ones(2, 4),)", 1, set()),
        ("[torch.ones(2, 4)]", 1, set()),
        ("{'input': torch.ones(2, 4)}", 0, {"input"}),
    ],
)
def test_inputs(write: Write, inputs: str, n_args: int, names: set[str]) -> None:
    file = write(f"def build():\n    return nn.Linear(4, 4), {inputs}\n")
    loaded = load_model(str(file))
    assert isinstance(loaded.model, nn.Linear)
    assert len(loaded.args) == n_args
    assert set(loaded.kwargs) == names
    assert loaded.loss is None
    assert loaded.model(*loaded.args, **loaded.kwargs).shape == (2, 4)


def test_loss_and_another_name(write: Write) -> None:
    write("def small():\n    return nn.Linear(4, 4), torch.ones(2, 4), lambda output: output.sum()\n")
    loaded = load_model("model.py:small")
    assert loaded.loss is not None
    assert loaded.loss(torch.ones(3)) == 3
    assert loaded.name == "model.py:small"


def test_a_module_by_its_dotted_name(write: Write) -> None:
    write("def build():\n    return nn.Linear(4, 4), torch.ones(2, 4)\n", "pack/age/net.py")
    assert isinstance(load_model("pack.age.net:build").model, nn.Linear)
    assert isinstance(load_model("pack.age.net").model, nn.Linear)


def test_a_file_imports_its_neighbours(write: Write) -> None:
    write("WIDTH = 7\n", "elsewhere/neighbour_of_model.py")
    file = write(
        "from neighbour_of_model import WIDTH\ndef build():\n    return nn.Linear(WIDTH, 1), torch.ones(1, WIDTH)\n",
        "elsewhere/model.py",
    )
    assert load_model(str(file)).args[0].shape == (1, 7)


def test_a_file_named_like_an_installed_module_does_not_replace_it(write: Write) -> None:
    file = write("def build():\n    return nn.Linear(4, 4), torch.ones(2, 4)\n", "torch.py")
    assert isinstance(load_model(str(file)).model, nn.Linear)
    assert sys.modules["torch"] is torch


def test_no_such_file_lists_its_neighbours(write: Write) -> None:
    write("", "net.py")
    with pytest.raises(ModelNotLoadedError, match="no such file") as caught:
        load_model("model.py")
    assert caught.value.candidates == ("net.py",)


def test_no_such_module_offers_the_file(write: Write) -> None:
    with pytest.raises(ModelNotLoadedError, match="no module named 'nowhere'"):
        load_model("nowhere.at.all:build")
    write("", "net.txt")
    with pytest.raises(ModelNotLoadedError, match="neither a file"):
        load_model("net txt")


def test_no_build_lists_the_candidates(write: Write) -> None:
    write(
        """
        def build_small():
            ...

        def helper(width):
            ...

        def large():
            ...
        """
    )
    with pytest.raises(ModelNotLoadedError, match="no 'build'") as caught:
        load_model("model.py")
    assert caught.value.candidates == ("model.py:build_small", "model.py:large")


def test_no_build_and_no_candidates(write: Write) -> None:
    write("from os.path import join\n")
    with pytest.raises(ModelNotLoadedError, match=r"write a function build\(\)") as caught:
        load_model("model.py")
    assert caught.value.candidates == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def build(width):\n    ...\n", r"build\(width\) needs arguments"),
        ("def build():\n    return nn.Linear(4, 4)\n", "returned a Linear; it must return"),
        ("def build():\n    return nn.Linear(4, 4), 3\n", "returned an int for the inputs"),
        ("def build():\n    return 'net', torch.ones(1)\n", "returned a str for the model"),
        ("def build():\n    return nn.Linear(4, 4), torch.ones(1), 3\n", "returned an int for the loss"),
        ("def build():\n    return nn.Linear(4, 4), torch.ones(1), None, None\n", "returned a tuple of 4 entries"),
        ("def build():\n    return nn.Linear(4, 4), {1: torch.ones(1)}\n", "whose keys are not strings"),
        ("build = nn.Linear(4, 4)\n", "a model without inputs"),
        ("class build(nn.Module):\n    ...\n", "a model without inputs"),
    ],
)
def test_a_wrong_result_says_what_it_is(write: Write, content: str, message: str) -> None:
    write(content)
    with pytest.raises(ModelNotLoadedError, match=message):
        load_model("model.py")


def test_code_that_raises_keeps_its_own_traceback_without_our_frames(write: Write) -> None:
    write(
        """
        def build():
            return make()

        def make():
            raise RuntimeError("out of ideas")
        """
    )
    with pytest.raises(ModelCodeError) as caught:
        load_model("model.py")
    assert isinstance(caught.value.__cause__, RuntimeError)
    frames = [frame.name for frame in traceback.extract_tb(caught.value.traceback)]
    assert frames == ["build", "make"]


@pytest.mark.parametrize("content", ["def build(:\n", "import sys\nsys.exit(3)\n", "import not_installed_anywhere\n"])
def test_a_file_that_cannot_be_imported(write: Write, content: str) -> None:
    write(content)
    with pytest.raises(ModelCodeError, match=r"importing model.py raised (SyntaxError|SystemExit|ModuleNotFoundError)"):
        load_model("model.py")
    assert "model" not in sys.modules
