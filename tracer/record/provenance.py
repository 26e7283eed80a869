"""Where an operator comes from: the module whose forward calls it, and the line of code; also in the backward.

Global hooks follow the modules of the forward. An operator of the backward runs inside an autograd node, whose sequence number
tells which operator of the forward created the node.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from remat_planner.tracer.python_state import is_users_file
from remat_planner.tracer.torch_higher_order import compiled_calls_by
from remat_planner.tracer.torch_private import backward_sequence_number, forward_sequence_number

_TORCH = str(Path(torch.__file__).parent) + os.sep
_TORCH_MODULES = os.path.join(_TORCH, "nn", "modules") + os.sep
_CALL_MACHINERY = os.path.join(_TORCH_MODULES, "module.py")
_PROJECT = str(Path(__file__).parents[2]) + os.sep  # the folder of remat_planner, which contains all its packages
_CALLERS = ("run_user_code", "run_backward")  # the recorder's calls: the frames above them are not the model's


@dataclass(frozen=True)
class OperatorOrigin:
    """Module path ("" at the top) and "file:line"."""

    module: str
    source: str


class Provenance:
    """Says where the running operator comes from, while ``following`` is entered.

    Attributes:
        calls: number of calls of each module of the model, by its path.
    """

    def __init__(self, model: nn.Module) -> None:
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._stack: list[str] = []
        self.calls: Counter[str] = Counter()
        self._forward_of: dict[int, OperatorOrigin] = {}
        self._latest = OperatorOrigin("", "")

    @contextmanager
    def following(self) -> Iterator[None]:
        """Follow the calls of modules inside."""
        handles = [
            register_module_forward_pre_hook(lambda module, _: self._enter(module)),
            register_module_forward_hook(lambda _, __, ___: self._leave(), always_call=True),
        ]
        try:
            with compiled_calls_by(_without_global_hooks):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def of_running_operator(self, *, in_backward: bool) -> OperatorOrigin:
        """The origin of the operator that a dispatch mode is handling; call it from the mode."""
        if in_backward and not self._stack:
            number = backward_sequence_number()
            if number is not None:
                self._latest = self._forward_of.get(number, OperatorOrigin("", ""))
            return self._latest
        origin = OperatorOrigin(self._stack[-1] if self._stack else "", user_line(sys._getframe(1)))
        self._forward_of.setdefault(forward_sequence_number(), origin)
        return origin

    def _enter(self, module: nn.Module) -> None:
        caller = self._stack[-1] if self._stack else ""
        path = self._paths.get(id(module))
        if path is not None:
            self.calls[path] += 1
        self._stack.append(caller if path is None else path)

    def _leave(self) -> None:
        self._stack.pop()


def _without_global_hooks(call: Callable[[], Any], _functions: Any) -> Any:
    """Make a call while no hooks of all modules are registered: compiled code would have them in it."""
    registries: tuple[dict[int, Any], ...] = (module._global_forward_pre_hooks, module._global_forward_hooks)
    kept = [dict(registry) for registry in registries]
    for registry in registries:
        registry.clear()
    try:
        return call()
    finally:
        for registry, hooks in zip(registries, kept, strict=True):
            registry.update(hooks)


def user_line(frame: Any) -> str:
    """ "file:line" of the innermost frame of the user's or a library's, else of the innermost in ``torch.nn``, else ""."""
    line = line_of_user(frame)
    return "" if line is None else f"{shortened(line[0])}:{line[1]}"


def line_of_user(frame: Any) -> tuple[str, int] | None:
    """File and line as ``user_line`` says, the whole path of the file."""
    fallback = None
    while frame is not None:
        name = frame.f_code.co_filename
        if is_users(name):
            return name, frame.f_lineno
        if frame.f_code.co_name in _CALLERS and name.startswith(_PROJECT):
            break
        if fallback is None and name.startswith(_TORCH_MODULES) and name != _CALL_MACHINERY:
            fallback = name, frame.f_lineno
        frame = frame.f_back
    return fallback


def raising_line(error: BaseException) -> str:
    """ "file:line" of the innermost frame in the traceback of ``error`` that is the user's or a library's; "" for none."""
    source = ""
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_filename
        if is_users(name):
            source = f"{shortened(name)}:{traceback.tb_lineno}"
        traceback = traceback.tb_next
    return source


def is_users(filename: str) -> bool:
    return is_users_file(filename) and not filename.startswith("<")


_PACKAGE_ROOTS = tuple(dict.fromkeys(sysconfig.get_paths()[key] + os.sep for key in ("purelib", "platlib", "stdlib")))


def shortened(filename: str) -> str:
    """The path of a file relative to the packages' folder or the working directory, if it lies in one of them."""
    for root in (*_PACKAGE_ROOTS, os.getcwd() + os.sep):
        if filename.startswith(root):
            return filename[len(root) :]
    return filename
