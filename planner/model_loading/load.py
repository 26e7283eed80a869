"""Loading the model, inputs and loss that the command names: ``model.py``, ``model.py:name`` or ``package.module:name``.

The name is that of a function (by default ``build``) that takes no arguments and returns ``(model, inputs)`` or
``(model, inputs, loss)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import nn

from remat_planner.planner.model_loading.fake_build import built_without_memory

DEFAULT_NAME = "build"
_EXPECTED = "return (model, inputs) or (model, inputs, loss): inputs a tensor, a tuple or a dict, loss a function of the output"


@dataclass(frozen=True)
class LoadedModel:
    """The step to plan: ``model(*args, **kwargs)``, trained on ``loss(output)``, or on the output's loss if it is None."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Callable[..., torch.Tensor] | None
    name: str


class ModelNotLoadedError(Exception):
    """The file, module or function does not exist, or the function returned something else.

    Attributes:
        candidates: names to use instead, in the form that the command takes.
    """

    def __init__(self, message: str, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class ModelCodeError(Exception):
    """The user's own code raised while its file was imported or its function ran; that exception is the ``__cause__``.

    Attributes:
        traceback: the exception's traceback from the user's first frame on.
    """

    def __init__(self, message: str, *, traceback: TracebackType | None) -> None:
        super().__init__(message)
        self.traceback = traceback


def load_model(spec: str, device: str | None = None) -> LoadedModel:
    """Import the file or module that ``spec`` names, and call its function.

    Where ``device`` names a device to plan for on paper, its tensors take no memory (``built_without_memory``).

    The folder of the file (for a module, the current folder) goes to the front of ``sys.path`` and stays there.

    Raises:
        ModelNotLoadedError: nothing has that name, or the function does not return a model and inputs.
        ModelCodeError: the user's code raised.
    """
    place, separator, name = spec.rpartition(":")
    if not separator:
        place, name = spec, DEFAULT_NAME
    with nullcontext() if device is None else built_without_memory():
        module = _import_file(Path(place)) if _is_path(place) else _import_module(place)
        target = _find(module, place, name)
        returned = _run(target, f"{name}()") if callable(target) else target
    return _checked(returned, f"{place}:{name}")


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        near = sorted(path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ModelNotLoadedError(f"{path}: {what}", candidates=tuple(map(str, near)))
    sys.path.insert(0, str(path.parent.resolve()))
    # A file must not replace a loaded module of the same name.
    name = path.stem if path.stem not in sys.modules else f"_{path.stem}_to_plan"
    module_spec = importlib.util.spec_from_file_location(name, path)
    if module_spec is None or module_spec.loader is None:
        raise ModelNotLoadedError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    loader = module_spec.loader
    try:
        _run(lambda: loader.exec_module(module), f"importing {path}")
    except ModelCodeError:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise ModelNotLoadedError(f"{name!r} is neither a file that ends in .py nor the name of a module")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return _run(lambda: importlib.import_module(name), f"importing {name}")
    except ModelCodeError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and cause.name is not None and f"{name}.".startswith(f"{cause.name}."):
            file = Path(*name.split(".")).with_suffix(".py")
            raise ModelNotLoadedError(
                f"there is no module named {cause.name!r} here or among the installed packages",
                candidates=(str(file),) if file.is_file() else (),
            ) from None
        raise


def _find(module: ModuleType, place: str, name: str) -> Any:
    """The attribute ``name`` of the module, which may be dotted."""
    target: Any = module
    candidates = tuple(f"{place}:{candidate}" for candidate in _candidates(module))
    for part in name.split("."):
        if not hasattr(target, part):
            raise ModelNotLoadedError(
                f"{place} has no {name!r}, but it has other functions that take no arguments: name one of them"
                if candidates
                else f"{place} has no {name!r}; write a function {name}() there that must {_EXPECTED}",
                candidates=candidates,
            )
        target = getattr(target, part)
    if isinstance(target, nn.Module) or (inspect.isclass(target) and issubclass(target, nn.Module)):
        raise ModelNotLoadedError(f"{place}:{name} is a model without inputs; name a function there that must {_EXPECTED}")
    if callable(target) and not _takes_nothing(target):
        raise ModelNotLoadedError(
            f"{place}:{name}{inspect.signature(target)} needs arguments, but it is called with none: give them defaults",
            candidates=candidates,
        )
    return target


def _candidates(module: ModuleType) -> list[str]:
    """Functions that the module defines itself and that need no arguments; names with "build" come first, private ones last."""
    names = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and _takes_nothing(value)
    ]
    return sorted(names, key=lambda name: (name.startswith("_"), "build" not in name, name))


def _takes_nothing(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True


def _run(function: Callable[[], Any], doing: str) -> Any:
    """Call the user's code; an exception, ``sys.exit`` included, becomes a ``ModelCodeError``."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ModelCodeError(f"{doing} raised {type(error).__name__}", traceback=_users_part(error.__traceback__)) from error


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback without its first frames, which are this file's and the import system's."""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename != __file__ and not filename.startswith("<frozen importlib") and filename != importlib.__file__:
            return traceback
        traceback = traceback.tb_next
    return None


def _checked(returned: Any, name: str) -> LoadedModel:
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        size = f" of {len(returned)} entries" if isinstance(returned, tuple) else ""
        raise ModelNotLoadedError(f"{name} returned {_of_type(returned)}{size}; it must {_EXPECTED}")
    model, inputs, loss = returned if len(returned) == 3 else (*returned, None)
    if not isinstance(model, nn.Module):
        raise ModelNotLoadedError(f"{name} returned {_of_type(model)} for the model, not an nn.Module; it must {_EXPECTED}")
    if loss is not None and not callable(loss):
        raise ModelNotLoadedError(f"{name} returned {_of_type(loss)} for the loss; it must {_EXPECTED}")
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(inputs, Mapping):
        if not all(isinstance(key, str) for key in inputs):
            raise ModelNotLoadedError(
                f"{name} returned a dict of inputs whose keys are not strings; its entries are passed by name. "
                "If the model takes the dict itself, wrap it: ({...},)"
            )
        kwargs = dict(inputs)
    elif isinstance(inputs, (tuple, list)):
        args = tuple(inputs)
    elif isinstance(inputs, torch.Tensor):
        args = (inputs,)
    else:
        raise ModelNotLoadedError(f"{name} returned {_of_type(inputs)} for the inputs; it must {_EXPECTED}")
    return LoadedModel(model=model, args=args, kwargs=kwargs, loss=loss, name=name)


def _of_type(value: Any) -> str:
    """ "an int", "a str": the type of a value with its article."""
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
