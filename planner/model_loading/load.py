"""Loading what ``plan`` is given (``model.py``, ``model.py:name``, ``package.module:name``): a model, its inputs and its loss.

The function named (``build`` unless said otherwise) takes nothing and returns ``(model, inputs)`` or ``(model, inputs, loss)``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch
from torch import nn

DEFAULT_NAME = "build"
_EXPECTED = "return (model, inputs) or (model, inputs, loss): inputs a tensor, a tuple or a dict, loss a function of the output"


@dataclass(frozen=True)
class LoadedModel:
    """What to plan: ``model(*args, **kwargs)``, trained on ``loss(output)`` or on the loss that the output carries."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Callable[[Any], torch.Tensor] | None
    name: str


class ModelNotLoadedError(Exception):
    """There is no such file, module or function, or the function returned something else.

    Attributes:
        candidates: what could be named instead, in the form that the command takes.
    """

    def __init__(self, message: str, *, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.candidates = candidates


class ModelCodeError(Exception):
    """The user's own code raised while its file was imported or its function ran; that exception is the ``__cause__``.

    Attributes:
        traceback: of that exception, from the first frame that is the user's.
    """

    def __init__(self, message: str, *, traceback: TracebackType | None) -> None:
        super().__init__(message)
        self.traceback = traceback


def load_model(spec: str) -> LoadedModel:
    """Import what ``spec`` names and call it.

    The folder of the file (for a module, the current folder) is put on ``sys.path`` first, and stays there.

    Raises:
        ModelNotLoadedError: nothing there has that name, or it does not return a model and inputs.
        ModelCodeError: the user's code raised.
    """
    place, separator, name = spec.rpartition(":")
    if not separator:
        place, name = spec, DEFAULT_NAME
    module = _import_file(Path(place)) if _is_path(place) else _import_module(place)
    found = _find(module, place, name)
    returned = _run(found, f"{name}()") if callable(found) else found
    return _checked(returned, f"{place}:{name}")


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or "\\" in place


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        near = sorted(path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ModelNotLoadedError(f"{path}: {what}", candidates=tuple(map(str, near)))
    sys.path.insert(0, str(path.parent.resolve()))
    # A file named like a module that is loaded already must not take its place.
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
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = _candidates(module)
            raise ModelNotLoadedError(
                f"{place} has no {name!r}; write a function {name}() there that must {_EXPECTED}"
                if not names
                else f"{place} has no {name!r}, but other functions that take no arguments: name one",
                candidates=tuple(f"{place}:{candidate}" for candidate in names),
            )
        found = getattr(found, part)
    if isinstance(found, nn.Module) or (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ModelNotLoadedError(f"{place}:{name} is a model without inputs; name a function there that must {_EXPECTED}")
    if callable(found) and not _takes_nothing(found):
        raise ModelNotLoadedError(
            f"{place}:{name}{inspect.signature(found)} needs arguments, but it is called with none: give them defaults",
            candidates=tuple(f"{place}:{candidate}" for candidate in _candidates(module)),
        )
    return found


def _candidates(module: ModuleType) -> list[str]:
    """The functions that the module itself defines and that can be called with nothing, those that look like builders first."""
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
    except ValueError:  # a builtin that does not tell its signature
        return True
    return True


def _run(function: Callable[[], Any], doing: str) -> Any:
    """Call the user's code; whatever it raises is theirs, ``sys.exit`` included."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise ModelCodeError(f"{doing} raised {type(error).__name__}", traceback=_users_part(error.__traceback__)) from error


def _users_part(traceback: TracebackType | None) -> TracebackType | None:
    """Without our own frames and the import system's, which come first."""
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if filename != __file__ and not filename.startswith("<frozen importlib") and filename != importlib.__file__:
            return traceback
        traceback = traceback.tb_next
    return None


def _checked(returned: Any, name: str) -> LoadedModel:
    if not isinstance(returned, tuple) or len(returned) not in (2, 3):
        size = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        raise ModelNotLoadedError(f"{name} returned a {type(returned).__name__}{size}; it must {_EXPECTED}")
    model, inputs, loss = returned if len(returned) == 3 else (*returned, None)
    if not isinstance(model, nn.Module):
        raise ModelNotLoadedError(
            f"{name} returned a {type(model).__name__} for the model, not an nn.Module; it must {_EXPECTED}"
        )
    if loss is not None and not callable(loss):
        raise ModelNotLoadedError(f"{name} returned a {type(loss).__name__} for the loss; it must {_EXPECTED}")
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(inputs, Mapping):
        if not all(isinstance(key, str) for key in inputs):
            raise ModelNotLoadedError(
                f"{name} returned a dict of inputs with keys that are no names; its entries are passed by name: "
                "wrap it as ({...},) if the model takes the dict itself"
            )
        kwargs = dict(inputs)
    elif isinstance(inputs, (tuple, list)):
        args = tuple(inputs)
    elif isinstance(inputs, torch.Tensor):
        args = (inputs,)
    else:
        raise ModelNotLoadedError(f"{name} returned a {type(inputs).__name__} for the inputs; it must {_EXPECTED}")
    return LoadedModel(model=model, args=args, kwargs=kwargs, loss=loss, name=name)
