"""Refusals of modules and functions that torch.compile has taken over, whose operators a capture does not see."""

from __future__ import annotations

from torch import nn

from remat_planner.tracer.errors import ModelNotSupportedError
from remat_planner.tracer.torch_private import compiled_by

_INSTEAD = 'then have its parts compiled with remat_planner.apply_schedule(..., compiler="inductor")'
_ADVICE = {
    "torch.compile(module)": f"plan and apply the module inside (`compiled._orig_mod`), {_INSTEAD}",
    "module.compile()": f"leave that call out: plan and apply the module as it was before, {_INSTEAD}",
    "a compiled forward": f"leave the forward uncompiled: plan and apply the module, {_INSTEAD}",
}


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a module that is compiled or has a compiled module in it.

    Raises:
        ModelNotSupportedError: of the kind "torch.compile"; it names the module.
    """
    for path, module in model.named_modules():
        _refuse(path, module)


def refuse_compiled_around(model: nn.Module, region: str) -> None:
    """Refuse a region of ``model`` that lies in a compiled module, or has one in it.

    Raises:
        ModelNotSupportedError: of the kind "torch.compile"; it names the module.
    """
    for path, module in model.named_modules():
        if path == "" or f"{region}.".startswith(f"{path}.") or path.startswith(f"{region}."):
            _refuse(path, module)


def compiled_function_error(source: str) -> ModelNotSupportedError:
    """For a forward that calls a compiled function at the line ``source`` ("" where no line is known)."""
    return ModelNotSupportedError(
        f"{source or 'the model'}: the forward calls a function compiled with torch.compile, and a capture does not see its "
        f"operators. Call the function itself while planning and training, {_INSTEAD}",
        kind="torch.compile",
    )


def _refuse(path: str, module: nn.Module) -> None:
    how = compiled_by(module)
    if how is not None:
        subject = f"module {path!r} is" if path else f"the model, a {type(module).__name__}, is"
        raise ModelNotSupportedError(f"{subject} compiled already ({how}): {_ADVICE[how]}", kind="torch.compile")
