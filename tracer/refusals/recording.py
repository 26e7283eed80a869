"""Refusals that only the recording can discover: one function for each, which the recorder calls at the point of discovery.

A function named ``..._error`` returns the error, for callers that raise it with a cause of their own. ``source`` is the
"file:line" of the user's code, or "" where no line is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from remat_planner.tracer.errors import (
    DataDependentError,
    InputsDoNotFitError,
    LostHookError,
    NothingToTrainError,
    PythonDrawError,
    PythonStateError,
    StateReassignedError,
    UnsupportedOperatorError,
)
from remat_planner.tracer.joint import ModuleState

_WITHOUT_READING = (
    "Rewrite the branch without reading the value (torch.where), move it out of the forward, or plan the blocks around it and "
    "leave the rest as it is (remat_planner.plan(model, ..., regions=...))"
)
_HANDED_ON = (
    ". A number that is only handed on (logged, returned) may be read by .item(); float(x) and int(x) are taken for a use"
)


def data_dependent_error(operator: Any, source: str, why: str, *, is_number: bool = False) -> DataDependentError:
    """For a read of a value that the capture does not know; ``why`` says what the value depends on.

    ``is_number`` where it is one number, which a forward may read to hand it on.
    """
    return DataDependentError(
        f"{source or 'the model'}: the code reads a value from a tensor ({operator}), and the value is unknown while the step "
        f"is captured: {why}. {_WITHOUT_READING}{_HANDED_ON if is_number else ''}",
        source=source,
        operator=str(operator),
    )


def text_error(source: str) -> DataDependentError:
    """For the text of a tensor that has an autograd history, which eager names in it."""
    return data_dependent_error("its text", source, "it depends on parameters, or on inputs that require a gradient")


def copied_error(what: str, source: str) -> UnsupportedOperatorError:
    """For a copy of a tensor that Python makes, ``what`` in words, and that no operator makes as it does."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the code {what}, and while a step is captured the tensor has no memory to copy. Copy it by "
        "x.detach().clone() (x.detach() for copy.copy); copy modules and parameters outside of the forward",
        operator="copy",
        source=source,
    )


def gradient_attribute_error(what: str, source: str) -> UnsupportedOperatorError:
    """For a forward that reads or sets the gradient of a parameter or input, ``what`` in a word."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the forward {what} .grad of a parameter, buffer or input. Gradients are no part of a "
        "captured forward: what it does with them would not be done again. Do it in the training loop, before or after a step",
        operator="grad",
        source=source,
    )


def changed_flag_error(name: str, requires_grad: bool, source: str) -> UnsupportedOperatorError:
    """For a forward that lets the tensor ``name``, which is there before it, begin or cease to require a gradient."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the forward lets {name} {'' if requires_grad else 'no longer '}require a gradient, which a "
        "planned step would not do again. Do it before the call (x.requires_grad_()), or on a copy in the forward "
        "(x = x.detach().requires_grad_())",
        operator="requires_grad_",
        source=source,
    )


def input_history_error(what: str, source: str) -> UnsupportedOperatorError:
    """For a forward that asks an input for ``what``, an attribute that tells whether autograd has computed it."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the forward reads .{what} of an input that requires a gradient. A captured step does not "
        "know how its inputs were computed. Ask for requires_grad, or pass the answer as an argument",
        operator=what,
        source=source,
    )


def retained_gradient_error(source: str) -> UnsupportedOperatorError:
    """For a forward that asks autograd to keep the gradient of an activation."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the forward calls retain_grad() of an activation. The backward of a captured step computes "
        "the gradients of parameters and inputs, and keeps no others. Train without it, and look at such gradients in a step "
        "of the model without the plan",
        operator="retain_grad",
        source=source,
    )


def forward_varies_error() -> DataDependentError:
    """For a forward that runs other operators when it is recorded a second time on the same inputs."""
    return DataDependentError(
        "recorded twice on the same inputs, the forward runs other operators the second time, so a captured step would not be "
        "the next one: it depends on something outside of the model and its inputs (the clock, an own generator). "
        f"{_WITHOUT_READING}",
        source="",
        operator="the forward",
    )


def python_draw_error(part: Literal["forward", "backward"] = "forward", source: str = "") -> PythonDrawError:
    """For a forward or backward that draws from a generator whose draws a graph cannot repeat."""
    return PythonDrawError(
        f"{source or 'the model'}: the {part} draws from the random generator of Python or NumPy, and the captured step would "
        "repeat this one draw in every step. Draw with torch, and use the draw in tensors, not in a branch. "
        f"{_WITHOUT_READING}",
        source=source,
        part=part,
    )


def collective_error(operator: Any, source: str) -> UnsupportedOperatorError:
    """For a collective of ``torch.distributed``, which writes to its arguments."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} communicates in place, and a captured step cannot hold that. Use the functions "
        "of torch.distributed._functional_collectives, or plan by regions that leave out the module that calls it",
        operator=str(operator),
        source=source,
    )


def no_functional_form_error(operator: Any, source: str, error: Exception) -> UnsupportedOperatorError:
    """For a write in place, or a read of what was written, that PyTorch cannot express without writing; ``error`` says why."""
    reason = str(error).partition("\n")[0].partition(". ")[0]
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} writes in place or reads what was written so, and PyTorch cannot express "
        f"that without writing, as a captured step needs it ({type(error).__name__}: {reason}). Write to a clone of the "
        "tensor, or call the operator out of place",
        operator=str(operator),
        source=source,
    )


def storage_view_error(operator: Any, source: str) -> UnsupportedOperatorError:
    """For a view of a storage, which no tensor of the graph names; cuDNN's recurrent layers view their weights this way."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} views a storage rather than a tensor, and a captured step cannot hold that. "
        "nn.LSTM, nn.GRU and nn.RNN on a GPU do it for cuDNN: plan the blocks around them and leave them to eager "
        "(remat_planner.plan(model, ..., regions=...)), or run them without cuDNN (torch.backends.cudnn.flags(enabled=False))",
        operator=str(operator),
        source=source,
    )


def backward_state_error(names: Sequence[str]) -> PythonStateError:
    """For code of the user's in the backward that changes Python state, or reads numbers that the forward counts."""
    return PythonStateError(
        "code that runs in the backward (a hook, a torch.autograd.Function) changes Python state, or reads a number that the "
        f"forward counts: {', '.join(names)}. A planned step runs none of it: the change would be lost, and what depends on it "
        "would not follow. Make it in the training loop, or in a hook on a parameter or on the planned module, which run in "
        "every step; or keep the state in a buffer that is updated in place (register_buffer). By regions, hooks of the blocks "
        "themselves run around them",
        names=tuple(names),
    )


def used_up_error(name: str, kind: type, source: str) -> PythonStateError:
    """For a forward that takes items from an iterator or a queue in Python state, or puts some in."""
    return PythonStateError(
        f"{source or 'the model'}: the forward takes items from {name} or puts some in, which is a {kind.__module__}."
        f"{kind.__qualname__}. A captured step would go on with the items that it had when planned. Do so outside of the "
        "forward, and give the items to it: as tensors, or in an attribute",
        names=(name,),
    )


def changed_constant_error(operator: Any, source: str) -> UnsupportedOperatorError:
    """For a change in place of a tensor that is a constant of the captured step."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: {operator} changes a tensor in place that is no input, parameter or buffer, and a captured "
        "step cannot: it is of a subclass, sparse or quantized, or it lies in no attribute, list, dictionary, global or "
        "variable of a function. Keep it in a buffer (register_buffer), or clone it first",
        operator=str(operator),
        source=source,
    )


def changed_view_error(source: str) -> UnsupportedOperatorError:
    """For a tensor that is changed in place in memory that another tensor has too which the step reads."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: a buffer, or a tensor in Python state, is changed in place, and the forward also reads a "
        "tensor that has the same memory, as a view that was made before the forward. A captured step would not follow the "
        "change there. Make the view in the forward, or clone one of the two first",
        operator="",
        source=source,
    )


def without_fake_error(error: BaseException, source: str, why: str = "") -> UnsupportedOperatorError:
    """For an operator that has kernels for real tensors alone; ``error`` names it, ``why`` says why real ones do not help."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: an operator has no fake kernel, which gives the shapes of its results, so it cannot be "
        f"captured ({_first_line(error)}{why and f'; {why}'}). Register one (torch.library.register_fake), call the operator "
        "in the forward of a torch.autograd.Function, which then runs as it is, or leave out its module, by regions",
        operator=_first_line(error),
        source=source,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0].partition(". ")[0]


def higher_order_error(name: str, source: str, why: str = "") -> UnsupportedOperatorError:
    """For an operator that takes functions and cannot be captured; ``why`` goes on from "for"."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the code calls the higher-order operator {name}, which cannot be captured"
        f"{why and f', for {why}'}. Write the loop or branch in Python, choose between both results (torch.where), or leave "
        "out the module at that line, by regions",
        operator=name,
        source=source,
    )


def absent_gpu_error(source: str) -> UnsupportedOperatorError:
    """For ``torch.autocast("cuda")`` on a machine without a GPU, where it only warns."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: torch.autocast('cuda') does nothing on a machine without a GPU, so the plan would be for "
        "another step, in float32. Plan on the machine with the GPU, or convert the model and its inputs to lower precision "
        "(model.to(torch.bfloat16)) and leave autocast out",
        operator="autocast",
        source=source,
    )


def model_raised_error(error: Exception, source: str) -> InputsDoNotFitError:
    """For an exception of the model's own code."""
    return InputsDoNotFitError(
        f"{source or 'the model'}: the model's own code raised {type(error).__name__} when called on these inputs: "
        f"{str(error).rstrip('.')}. Check that a plain call of the model on them works",
        source=source,
    )


def backward_raised_error(error: Exception, source: str) -> UnsupportedOperatorError:
    """For an exception of the backward."""
    return UnsupportedOperatorError(
        f"{source or 'the backward'}: the backward raised {type(error).__name__} while it was captured: "
        f"{str(error).rstrip('.')}. Check that a plain step of the model on these inputs works; if it does, leave out the "
        "module at that line, by regions",
        operator="",
        source=source,
    )


def lost_hooks_error(names: Sequence[str]) -> LostHookError:
    """For hooks that change nothing the step computes."""
    return LostHookError(
        f"these hooks only observe, and would run during capture and never again: {', '.join(names)}. Remove them "
        "(handle.remove()), put them on the planned module itself or on parameters, where they run in every step, or plan "
        "by regions: hooks of the blocks themselves run around them",
        names=tuple(names),
    )


def parameter_hook_error(source: str) -> LostHookError:
    """For a forward that registers a hook on a parameter."""
    return LostHookError(
        f"{source or 'the model'}: the forward registers a hook on a parameter. Eager would register one more in each step, "
        "and a planned step runs none of the forward's code. Register it once, outside of the forward: it runs in every "
        "planned step",
        names=(source,),
    )


def reassigned_error(names: Sequence[str]) -> StateReassignedError:
    """For parameters, buffers or tensor attributes that the forward replaces instead of updating."""
    return StateReassignedError(
        f"the forward assigns a new tensor to {', '.join(names)}, and a captured step cannot carry a reassigned tensor to the "
        "next step. Detach what is kept (`self.x = new.detach()`), or update it in place (`self.x.copy_(new)` on a registered "
        "buffer)",
        names=tuple(names),
    )


def history_error(names: Sequence[str]) -> PythonStateError:
    """For tensors that an earlier step has left in Python state, and through which the backward would run into that step."""
    return PythonStateError(
        f"the forward reads {', '.join(names)}, which an earlier step has left with its history, so the backward would run "
        "through that step too. Detach it where it is kept (`self.state = state.detach()`), where it is read, or between the "
        "steps. Calls that one backward is to run through belong into one forward, of a module that makes them all",
        names=tuple(names),
    )


def refuse_outputs(leaves: Sequence[Any]) -> None:
    """Refuse a forward that returns nothing to differentiate.

    Raises:
        NothingToTrainError: no output requires a gradient.
    """
    if any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves):
        return
    kinds = ", ".join(sorted({type(leaf).__name__ for leaf in leaves})) or "nothing"
    raise NothingToTrainError(
        f"no output of the model depends on a parameter that requires a gradient: it returns {kinds}. "
        "Return the tensors that the loss is made from, not detached, and call the model in a mode in which it trains"
    )


def cached_function_error(function: Any) -> PythonStateError:
    """For a function under ``functools.lru_cache`` whose first call with some arguments was recorded."""
    name = f"{function.__module__}.{function.__qualname__}"
    return PythonStateError(
        f"the forward calls {name} for the first time with these arguments, which keeps its results (functools.lru_cache): "
        "eager makes the tensors once, and a captured step would make them in each call. Call the model once on these inputs "
        "before, under torch.no_grad() or in a step without the plan, so that they are there",
        names=(name,),
    )


def tensor_keys_error(name: str) -> PythonStateError:
    """For the dictionary ``name``, whose keys are parameters or buffers."""
    return PythonStateError(
        f"the forward can look up parameters or buffers in {name}, whose keys they are: while a step is captured, other "
        "tensors stand for them, and are not found. Use their names as keys, or id(tensor)",
        names=(name,),
    )


def tensors_inside_error(kind: type, name: str) -> PythonStateError:
    """For an output of this kind that holds tensors, the first of them under ``name``."""
    return PythonStateError(
        f"the forward returns a {kind.__name__} that holds tensors which it has computed ({name}): a captured step cannot give "
        "it those of each call. Return the tensors, and make what uses them outside of the forward",
        names=(name,),
    )


def refuse_no_gradients(gradients: Sequence[torch.Tensor | None]) -> None:
    """Refuse a step whose backward runs and reaches no parameter and no input.

    Raises:
        NothingToTrainError: all of ``gradients`` are None.
    """
    if all(gradient is None for gradient in gradients):
        raise NothingToTrainError(
            "the backward gives no parameter and no input a gradient: what the loss is made of has none by its formula (a "
            "count, as norm(p=0) is, or a function that returns None in its backward), so there is nothing to train"
        )


def refuse_written_activations(state: ModuleState, buffers: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
    """Refuse a forward that has written activations with a gradient into ``buffers`` (of ``state``) or ``inputs``.

    Raises:
        UnsupportedOperatorError: it has.
    """
    for slot, buffer in zip(state.buffer_slots, buffers, strict=True):
        if buffer.grad_fn is not None:
            raise UnsupportedOperatorError(
                f"the forward writes activations with a gradient into {slot.kind} {slot.name}, so the next step's backward "
                f"would run through this step's. Detach what is written ({slot.name}.copy_(new.detach()))",
                operator="aten::copy_",
                source="",
            )
    for i, tensor in enumerate(inputs):
        if tensor.grad_fn is not None:
            raise UnsupportedOperatorError(
                f"the forward changes tensor input {i} in place, and the change has a gradient. Clone the input first",
                operator="aten::copy_",
                source="",
            )


def refuse_sparse_gradients(gradients: Sequence[torch.Tensor | None]) -> None:
    """Refuse gradients that are not strided tensors.

    Raises:
        UnsupportedOperatorError: one is not.
    """
    for gradient in gradients:
        if gradient is not None and gradient.layout is not torch.strided:
            raise UnsupportedOperatorError(
                f"a parameter's gradient is sparse ({gradient.layout}), and only dense gradients can be planned. "
                "Build the embedding with sparse=False",
                operator=str(gradient.layout),
                source="",
            )
