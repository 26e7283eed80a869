"""Refusals of code that changes state of torch beside the graph: random generators, and the memory of tensors.

``source`` is the "file:line" of the user's code, or "" where no line is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from remat_planner.tracer.errors import RandomStateError, StateReassignedError, UnsupportedOperatorError


def random_state_error(part: str, call: str, source: str) -> RandomStateError:
    """For a call that reads or sets the state of a random generator in the forward or backward."""
    return RandomStateError(
        f"{source or 'the model'}: the {part} calls {call}, which reads or sets the state of a random generator of torch. A "
        "captured step repeats the draws and not that call, so it would draw other numbers than eager. Seed before the step; "
        "make numbers that stay the same once, in a buffer (register_buffer); for a stream of its own, draw with generator= "
        "from a torch.Generator that the model holds and that is seeded outside of the forward. Checkpointing that is not "
        "torch.utils.checkpoint's is turned off: the plan takes its place",
        call=call,
        source=source,
    )


def foreign_generator_error(source: str) -> RandomStateError:
    """For a draw from a generator that was not there before the forward."""
    return RandomStateError(
        f"{source or 'the model'}: the step draws from a torch.Generator that is not found in the model, its arguments or "
        "globals, as where the forward makes it itself. The captured step would draw on from the generator of this call. Make "
        "it once, outside of the forward, and keep it in an attribute of the model",
        call="torch.Generator",
        source=source,
    )


def data_assigned_error(name: str, source: str) -> StateReassignedError:
    """For ``x.data = y``, which gives a tensor another memory behind the back of the graph."""
    return StateReassignedError(
        f"{source or 'the model'}: the code assigns to .data of {name}. That exchanges its memory, and a captured step cannot "
        "carry the new memory to its later readers and to the next step. Write into the tensor instead (with torch.no_grad(): "
        "x.copy_(new)), or bind the new tensor to a name of its own",
        names=(name,),
    )


def converted_error(name: str, source: str) -> StateReassignedError:
    """For a conversion of a module (``to``, ``half``) that makes another tensor of ``name``."""
    return StateReassignedError(
        f"{source or 'the model'}: the code converts a module, and {name} becomes another tensor, of another dtype, device or "
        "layout, which a captured step cannot carry to the next one. Convert the module before planning, or cast what it "
        "computes with (self.weight.to(x.dtype))",
        names=(name,),
    )


def refuse_moved_state(lines: Mapping[str, str]) -> None:
    """Refuse a step after which parameters, buffers or inputs have another memory or form.

    Args:
        lines: for each the line that changes it, "" where it is not known.

    Raises:
        StateReassignedError: there are such tensors.
    """
    if lines:
        names = ", ".join(f"{name} ({line})" if line else name for name, line in lines.items())
        raise StateReassignedError(
            f"after the step, {names} has another memory, shape or strides than before (set_(), resize_(), unsqueeze_(), "
            "...), and a captured step cannot carry that to the next one. Change its values in place (`x.copy_(new)`), and "
            "its form in a view (`x.unsqueeze(0)`)",
            names=tuple(lines),
        )


def storage_changed_error(part: str, call: str, source: str) -> UnsupportedOperatorError:
    """For a change of memory that passes the dispatcher by."""
    return UnsupportedOperatorError(
        f"{source or 'the model'}: the {part} calls {call}, which changes the memory of a tensor without an operator, so a "
        "captured step would lose it. Use operators on tensors (`x.copy_(new)`, `x.zero_()`)",
        operator=call,
        source=source,
    )
