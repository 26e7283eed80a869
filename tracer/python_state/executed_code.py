"""Which Python code a forward runs, outside of PyTorch, the standard library and this project.

The names that this code uses (globals, attributes, constant strings) say which Python state a forward can read, so nothing else
has to be watched. Each code object is announced before its first line runs: what its globals hold then is what the forward
found.
"""

from __future__ import annotations

import gc
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType, FrameType, MappingProxyType
from typing import Any

import torch

from remat_planner.tracer.torch_higher_order import compiled_calls_by

_PROJECT = str(Path(__file__).parents[2]) + os.sep
_STDLIB = tuple({sysconfig.get_paths()[key] + os.sep for key in ("stdlib", "platstdlib")})
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
_TORCH = tuple(str(Path(torch.__file__).parent.with_name(name)) + os.sep for name in ("torch", "functorch", "torchgen"))
_SYMPY = tuple(f"{os.sep}{name}{os.sep}" for name in ("sympy", "mpmath"))  # PyTorch's arithmetic of symbolic sizes

# With these a name that is read can be put together at run time, so no name can be left out.
_READS_ANY_NAME = frozenset({"eval", "exec", "globals"})
_READS_ANY_ATTRIBUTE = frozenset({"vars", "__dict__", "attrgetter"})  # in the user's own files; libraries do so for outputs


class ExecutedCode:
    """Collects the code objects that run while ``observed`` is entered.

    Args:
        first_call: called with each code object and its globals, before the code runs for the first time.
        builtins: what the code finds in the place of some of Python's own functions, by name.
    """

    def __init__(
        self,
        first_call: Callable[[CodeType, FrameType], None] | None = None,
        builtins: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self._first_call = first_call or _nothing
        self._own_builtins = builtins
        self._builtins: dict[str, Any] = {}  # while the code is observed
        self._others: list[CodeType] = []
        # By identity: code objects compare by content, which takes long. None is code of others.
        self._calls: dict[int, tuple[CodeType, dict[str, Any]] | None] = {}
        self._asked: set[str] = set()
        self._shadowed: dict[int, tuple[dict[str, Any], set[str]]] = {}  # globals, and their names of builtins, by identity
        self._hidden = False
        self._watched_names: frozenset[str] = frozenset()
        self._watch: Callable[[Any, FrameType], None] = _nothing

    @contextmanager
    def calls_watched(self, names: frozenset[str], called: Callable[[Any, FrameType], None]) -> Iterator[None]:
        """Have ``called(function, frame)`` called at calls of functions with these names, by the frame that calls them.

        Of functions in C all calls count. Of code of PyTorch, the standard library and this project, the first call does; then
        ``function`` is the code and ``frame`` its own. What ``called`` raises, the call raises.
        """
        self._watched_names, self._watch = names, called
        try:
            yield
        finally:
            self._watched_names, self._watch = frozenset(), _nothing

    @property
    def calls(self) -> list[tuple[CodeType, dict[str, Any]]]:
        """The code objects that ran, with their globals, in the order of their first calls."""
        return [call for call in self._calls.values() if call is not None]

    @property
    def names(self) -> frozenset[str] | None:
        """Names that the code uses: globals, attributes and constant strings; None where it may read any name.

        So are names that were put together and given to ``getattr``.
        """
        if self._hidden:
            return None
        names = set(self._asked)
        for code, _ in self.calls:
            own = () if is_installed(code.co_filename) else _READS_ANY_ATTRIBUTE
            if not (_READS_ANY_NAME | frozenset(own)).isdisjoint(code.co_names):
                return None
            names.update(code.co_names)
            names.update(code.co_freevars)
            for constant in code.co_consts:
                if isinstance(constant, str):
                    names.add(constant)
                elif isinstance(constant, tuple):
                    names.update(item for item in constant if isinstance(item, str))
        return frozenset(names)

    def include(self, other: ExecutedCode) -> None:
        """Count what ``other`` has seen as seen here, too."""
        for code, namespace in other.calls:
            self._calls[id(code)] = (code, namespace)
        self._asked |= other._asked
        self._hidden |= other._hidden

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Observe the calls that this thread makes.

        A profiler is set aside meanwhile, and so are the callbacks of the garbage collector, which are no part of the forward.
        """
        profiler, callbacks = sys.getprofile(), gc.callbacks[:]
        gc.callbacks.clear()
        of_sizes = _OF_SIZES if _sizes_are_symbolic.get() else {}
        self._builtins = {**of_sizes, **self._own_builtins, "getattr": self._noted}
        sys.setprofile(self._profile)
        try:
            with compiled_calls_by(self._compiled):
                yield
        finally:
            _profile_on(profiler)
            self._uncover()
            self._shadowed.clear()
            self._builtins = {}  # a method of this object is among them
            gc.callbacks[:0] = callbacks
            self._first_call = _nothing  # it may hold what holds this object

    def _compiled(self, call: Callable[[], Any], functions: Sequence[Any]) -> Any:
        """Make a call in which PyTorch compiles ``functions`` without running them.

        It would take what observes for code of theirs. What they call is not seen, so that they may read any name.
        """
        self._hidden = True
        frame = sys._getframe(1)
        self._uncover()
        try:
            for function in functions:
                for code in _codes_in(getattr(function, "__code__", None)):
                    if id(code) not in self._calls and is_users_code(code, function.__globals__):
                        self._calls[id(code)] = (code, function.__globals__)
                        self._first_call(code, frame)
            with unobserved():
                return call()
        finally:
            self._cover()

    def _announce(self, code: CodeType, frame: FrameType) -> None:
        namespace = frame.f_globals
        _, names = self._shadowed.get(id(namespace), (namespace, set()))
        for name in names:
            del namespace[name]
        self._first_call(code, frame)
        names |= {name for name in self._builtins if name in code.co_names and name not in namespace}
        if names:
            self._shadowed[id(namespace)] = namespace, names
            namespace.update((name, self._builtins[name]) for name in names)

    def _uncover(self) -> None:
        """Let the code find Python's own functions."""
        for namespace, names in self._shadowed.values():
            for name in names:
                del namespace[name]

    def _cover(self) -> None:
        """Undo ``_uncover``."""
        for namespace, names in self._shadowed.values():
            namespace.update((name, self._builtins[name]) for name in names)

    def _noted(self, *arguments: Any) -> Any:
        """``getattr``, for the code that is observed."""
        if len(arguments) > 1 and type(arguments[1]) is str:
            self._asked.add(arguments[1])
        return getattr(*arguments)

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            if argument.__name__ in self._watched_names:
                self._watch(argument, frame)
            return
        if event != "call":
            return
        code = frame.f_code
        if id(code) not in self._calls:
            if is_users_code(code, frame.f_globals):
                self._calls[id(code)] = (code, frame.f_globals)
                self._announce(code, frame)
            else:
                self._calls[id(code)] = None
                self._others.append(code)  # alive, so that no other code gets its identity
                if code.co_name in self._watched_names:
                    self._watch(code, frame)


_sizes_are_symbolic: ContextVar[bool] = ContextVar("_sizes_are_symbolic", default=False)
_EXAMPLES = {torch.SymInt: 2, torch.SymFloat: 2.5, torch.SymBool: True}
"""What code finds in eager in the place of each type."""


def _is_instance(value: Any, kinds: Any) -> bool:
    """``isinstance``, which answers for a symbolic size as for a number."""
    return isinstance(_EXAMPLES.get(type(value), value), kinds)


class _OfType(type):
    """Makes a class that is called as ``type`` is, and gives the type of a number for a symbolic size."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1:
            return type(_EXAMPLES.get(type(arguments[0]), arguments[0]))
        return type(*arguments, **keywords)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type)


class _Type(type, metaclass=_OfType):
    """``type``, for the code that is observed."""


_OF_SIZES: dict[str, Callable[..., Any]] = {"isinstance": _is_instance, "type": _Type}


@contextmanager
def sizes_seen_as_numbers() -> Iterator[None]:
    """Inside, the code that is observed takes symbolic sizes for numbers where it asks for their type."""
    token = _sizes_are_symbolic.set(True)
    try:
        yield
    finally:
        _sizes_are_symbolic.reset(token)


@contextmanager
def observation_suspended() -> Iterator[None]:
    """Observe nothing inside, and leave globals as the code has them: a capture inside of an observed call looks at them."""
    observer = sys.getprofile()
    outer = getattr(observer, "__self__", None)
    if not isinstance(outer, ExecutedCode):
        yield
        return
    sys.setprofile(None)
    outer._uncover()
    try:
        yield
    finally:
        outer._cover()
        sys.setprofile(observer)


@contextmanager
def unobserved() -> Iterator[None]:
    """Observe no calls inside, where only code of PyTorch runs: that takes as long again as the code itself.

    From Python 3.12 on, to stop and go on takes longer than it saves.
    """
    observer = sys.getprofile()
    if getattr(observer, "__func__", None) is not ExecutedCode._profile or sys.version_info >= (3, 12):
        yield
        return
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(observer)


def _profile_on(profiler: Any) -> None:
    """Go on with a profiler: a function, or an object of ``cProfile``, which only its own method can set."""
    sys.setprofile(profiler if callable(profiler) else None)
    if profiler is not None and not callable(profiler):
        profiler.enable()


def caller_of(frame: FrameType) -> FrameType:
    """``frame``; where it is that of ``getattr`` as observed code sees it, the one that has called that."""
    return frame.f_back if frame.f_code is ExecutedCode._noted.__code__ and frame.f_back else frame


def _codes_in(code: Any) -> Iterator[CodeType]:
    """A code object and those that it defines."""
    if isinstance(code, CodeType):
        yield code
        for constant in code.co_consts:
            yield from _codes_in(constant)


def _nothing(_code: Any, _frame: FrameType) -> None:
    """For a call that nobody asked about."""


def is_users_file(filename: str) -> bool:
    """Whether code of this file can be the model's: no part of PyTorch, the standard library or this project."""
    if filename.startswith((*_TORCH, _PROJECT, "<frozen ")) or any(part in filename for part in _SYMPY):
        return False
    return not filename.startswith(_STDLIB) or is_installed(filename)


def is_users_code(code: CodeType, namespace: dict[str, Any]) -> bool:
    """Whether ``code``, whose globals are ``namespace``, can be the model's.

    Code that was made from a string, as the ``__init__`` of a dataclass is, belongs to the module whose globals it uses.
    """
    if code.co_filename.startswith("<") and not is_users_module(namespace.get("__name__")):
        return False
    return is_users_file(code.co_filename)


def is_installed(filename: str) -> bool:
    """Whether code of this file is an installed package's."""
    return any(part in filename for part in _PACKAGES)


_NOT_USERS = frozenset(sys.stdlib_module_names) | {
    "torch",
    "functorch",
    "torchgen",
    "numpy",
    "remat_planner",
    "builtins",
    "triton",
    "numba",
    "sympy",
    "mpmath",
}


def is_users_module(name: object) -> bool:
    """Whether classes and globals of a module of this name can be the model's.

    ``__module__`` of a class in C may be no text: that of the class of Cython's function types is a descriptor.
    """
    return (name if name and isinstance(name, str) else "builtins").partition(".")[0] not in _NOT_USERS or name == "__main__"
