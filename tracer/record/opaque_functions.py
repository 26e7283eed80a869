"""autograd.Functions that fakes cannot run: found while a step is recorded, and recorded again as one operator each.

Fakes have no address and no values. Code outside of a Function that asks for an address is refused. A Function whose forward or
backward does so, or fails on fakes for another reason, ends the recording; then each of its calls is sampled on real tensors
(``tracer.functions``), and the step is recorded again with these calls as operators.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch

from remat_planner.tracer.errors import CaptureError, DataDependentError
from remat_planner.tracer.functions import Call, ForwardCall, MissingExampleError, SampleError, ScriptCall, applied, sample
from remat_planner.tracer.record.module_attributes import swapped
from remat_planner.tracer.record.provenance import raising_line, user_line
from remat_planner.tracer.record.recording import CapturedCall
from remat_planner.tracer.refusals import address_error, drawing_function_error, function_error, without_fake_error
from remat_planner.tracer.torch_functions import ADDRESSES, functions_applied_by
from remat_planner.tracer.torch_private import FakeTensorMode, in_checkpoint_replaying_draws, is_fake, to_fake, without_modes
from remat_planner.tracer.torch_script import call_script, qualified_name, scripts_called_by

Result = TypeVar("Result")
Function = type[torch.autograd.Function]

_OURS = ("torch", "remat_planner")
_RECURRENT_LAYERS = torch.nn.modules.rnn.__file__
"""``flatten_parameters`` compares addresses of weights, and does nothing where they are all 0."""
_LAUNCHERS = tuple(
    os.path.join(sysconfig.get_paths()[key], package) + os.sep
    for key in ("purelib", "platlib")
    for package in ("triton", "numba", "numba_cuda", "cupy")
)
"""Packages that launch kernels for the code which calls them."""
_MOST_SAMPLES = 4
"""Samples of calls in one place of a step. Two recordings need two where Python state changes in between."""
_CHECKPOINT = "torch.utils.checkpoint"
"""Module whose exceptions end a recomputation early."""


@dataclass(frozen=True)
class _Cause:
    """Why a Function does not run on fakes: the error, in words, and the "file:line"."""

    error: Exception
    words: str
    source: str


class _FoundError(BaseException):
    """Ends a recording: ``function`` cannot run on fakes. No code of the user's may catch this."""

    def __init__(self, function: Function, cause: _Cause) -> None:
        super().__init__(function.__qualname__)
        self.function = function
        self.cause = cause


class _NotSampledError(BaseException):
    """Ends a recording: ``call`` has no sample yet. No code of the user's may catch this."""

    def __init__(self, call: Call) -> None:
        super().__init__(call.name)
        self.call = call


@dataclass(frozen=True)
class FoundFunctions:
    """The Functions that do not run on fakes.

    Attributes:
        causes: of those that become one operator, and why.
        fail_in_eager: those whose failure is eager's too.
    """

    causes: Mapping[Function, _Cause]
    fail_in_eager: frozenset[Function]


class OpaqueFunctions:
    """Finds, over all recordings of ``call``, the Functions that become one operator.

    Args:
        call: the call.
        mode: of its fakes.
        found: what is found already. Then no other call is sampled, so no code runs on real tensors.
    """

    def __init__(self, call: CapturedCall, mode: FakeTensorMode, found: FoundFunctions | None = None) -> None:
        self._captured = call
        self._mode = mode
        self._causes: dict[Function, _Cause] = dict(found.causes) if found is not None else {}
        self._fail_in_eager: set[Function] = set(found.fail_in_eager) if found is not None else set()
        self._may_sample = found is None
        self._samples: Counter[int] = Counter()  # by the place of the call among the opaque ones of a recording
        self._calls = 0
        self._running: list[Function] = []
        self._refused: CaptureError | None = None

    @property
    def found(self) -> FoundFunctions:
        """The Functions found so far."""
        return FoundFunctions(dict(self._causes), frozenset(self._fail_in_eager))

    def recorded(self, record: Callable[[], Result]) -> Result:
        """What ``record`` returns, which is called until every call that it meets is known.

        Raises:
            UnsupportedOperatorError: code asks for an address outside of a Function, or a Function cannot be one operator.
        """
        while True:
            self._running, self._refused, self._calls = [], None, 0
            try:
                with self._watched():
                    result = record()
            except _FoundError as found:
                if not self._may_sample:
                    raise _other_function_error(found.function, found.cause) from None
                self._causes[found.function] = found.cause
                self._samples.clear()
            except _NotSampledError as found:
                self._sample(found.call)
            except MissingExampleError as missing:
                self._make_example(missing)
            else:
                if self._refused is not None:  # the code has caught it
                    raise self._refused
                return result
            torch.clear_autocast_cache()  # it may hold fakes of this recording

    @contextmanager
    def _watched(self) -> Iterator[None]:
        with (
            functions_applied_by(self._apply, self._run_backward),
            scripts_called_by(self._run_script),
            _addresses_watched(self._refuse_address),
        ):
            yield

    def _apply(self, original: Callable[..., Any], function: Function, *args: Any, **kwargs: Any) -> Any:
        if self._is_left_alone(function):
            return original(*args, **kwargs)
        if function not in self._causes:
            return self._followed(function, lambda: original(*args, **kwargs))
        return self._as_one_operator(function, args, kwargs)

    def _as_one_operator(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._refuse_forms(function, args, kwargs)
        call, tensors = ForwardCall.of(function, args)
        self._ensure_sampled(call)
        if call.sampled.draws and in_checkpoint_replaying_draws():
            raise drawing_function_error(call.name, user_line(sys._getframe(1)))
        return applied(call, args, tensors, self._ensure_sampled)

    def _run_script(self, script: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a script as a Function that runs as it is: it rewrites its own code after the first calls."""
        call = ScriptCall.of(script, args, kwargs)
        if not any(map(is_fake, call.tensors)):
            return call_script(script, *args, **kwargs)
        source = user_line(sys._getframe(1))
        name = qualified_name(script)
        self._causes.setdefault(call.function, _Cause(RuntimeError(name), "it is TorchScript", source))
        return call.unflattened(self._as_one_operator(call.function, (call.arguments, *call.tensors), {}))

    def _run_backward(self, original: Callable[..., Any], function: Function, *args: Any) -> Any:
        if self._is_left_alone(function):
            return original(*args)
        return self._followed(function, lambda: original(*args))

    def _is_left_alone(self, function: Function) -> bool:
        return function.__module__.partition(".")[0] in _OURS or function in self._fail_in_eager

    def _followed(self, function: Function, run: Callable[[], Any]) -> Any:
        """Run a Function's code on fakes.

        Raises:
            _FoundError: it fails, for a reason that may not exist on real tensors.
        """
        self._running.append(function)
        try:
            return run()
        except Exception as error:
            if isinstance(error, CaptureError) and not isinstance(error, DataDependentError):
                raise
            if type(error).__module__ == _CHECKPOINT:
                raise
            words = f"{type(error).__name__}: {_first_line(error)}"
            source = getattr(error, "source", "") or raising_line(error)
            raise _FoundError(function, _Cause(error, words, source)) from error
        finally:
            self._running.pop()

    def _refuse_address(self, call: str, frame: FrameType) -> None:
        while frame.f_code.co_filename.startswith(_LAUNCHERS) and frame.f_back is not None:
            frame = frame.f_back
        error = address_error(call, user_line(frame))
        if self._running:
            raise _FoundError(self._running[-1], _Cause(error, f"it asks for an address, by {call}", error.source))
        self._refused = self._refused or error
        raise error

    def _ensure_sampled(self, call: Call) -> None:
        self._calls += 1
        if call.results is None:
            raise _NotSampledError(call)

    def _refuse_forms(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse named arguments, and tensors whose memory does not hold their values in strides."""
        tensors = [argument for argument in args if isinstance(argument, torch.Tensor)]
        why = ""
        if kwargs:
            why = "but it is called with named arguments: pass them by position"
        if any(tensor.layout is not torch.strided or tensor.is_conj() or tensor.is_neg() for tensor in tensors):
            why = "but an argument is sparse, or a view that conjugates or negates: make it a plain tensor (resolve_conj)"
        if why:
            cause = self._causes[function]
            raise function_error(
                f"{function.__module__}.{function.__qualname__}", cause.source, cause.words, why
            ) from cause.error

    def _sample(self, call: Call) -> None:
        cause = self._causes[call.function]
        if not self._may_sample:
            raise _other_function_error(call.function, cause)
        self._samples[self._calls] += 1
        if self._samples[self._calls] > _MOST_SAMPLES:
            why = "but each time the step is recorded it gets other objects"
            raise function_error(call.name, cause.source, cause.words, why) from cause.error
        try:
            with self._fakes_in_model(), without_modes():
                sample(call)
        except SampleError as error:
            raise function_error(call.name, cause.source, cause.words, f"but {error}") from cause.error
        except Exception as error:
            if (type(error), str(error)) == (type(cause.error), str(cause.error)):
                self._fail_in_eager.add(call.function)  # as eager's would, and the model's code may expect that
                del self._causes[call.function]
                self._samples.clear()
                return
            part = "forward" if isinstance(call, ForwardCall) else "backward"
            why = f"but on sample tensors of the same forms its {part} raised {type(error).__name__}: {_first_line(error)}"
            raise function_error(call.name, cause.source, cause.words, why) from error

    def _make_example(self, missing: MissingExampleError) -> None:
        source = raising_line(missing)
        try:
            with self._fakes_in_model():
                missing.make()
        except SampleError as error:
            raise without_fake_error(missing, source, f"it cannot be run as an example, for {error}") from error

    def _fakes_in_model(self) -> AbstractContextManager[None]:
        """As while a step is recorded: a sample may change no parameter or buffer of the model."""
        state = self._captured.state
        fakes = {id(tensor): to_fake(self._mode, tensor) for tensor in (*state.parameters, *state.buffers)}
        replacement = {id(tensor): fakes[id(tensor)] for tensor in state.registered}
        return swapped(self._captured.model, replacement, [(place, fakes[id(tensor)]) for place, tensor in state.places])


def _other_function_error(function: Function, cause: _Cause) -> CaptureError:
    name = f"{function.__module__}.{function.__qualname__}"
    return function_error(name, cause.source, cause.words, "and this call is not among those that were planned")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")


@contextmanager
def _addresses_watched(refuse: Callable[[str, FrameType], None]) -> Iterator[None]:
    """Call ``refuse(call, frame)`` before this thread reads the address of a tensor without memory."""
    thread = threading.get_ident()

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def read(owner: Any, *args: Any) -> Any:
            without_memory = is_fake(owner) if isinstance(owner, torch.Tensor) else owner.device.type == "meta"
            if without_memory and threading.get_ident() == thread:
                frame = sys._getframe(1)
                if frame.f_code.co_filename == _RECURRENT_LAYERS:
                    return 0
                refuse(name, frame)
            return original(owner, *args)

        return read

    for holder, name in ADDRESSES:
        setattr(holder, name, watched(f"{holder.__name__}.{name}", getattr(holder, name)))
    try:
        yield
    finally:
        for holder, name in ADDRESSES:
            delattr(holder, name)  # the one of its base class is in its place again
