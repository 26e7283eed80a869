"""Modules that torch.compile has taken over: what they run is not what a capture would see, so they are refused."""

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


def calls_compiled_function(source: str) -> ModelNotSupportedError:
    """The error for a forward that calls a function that torch.compile has taken over, at the line ``source``."""
    return ModelNotSupportedError(
        f"{source or 'the model'}: the forward calls a function compiled with torch.compile, whose operators a capture does "
        f"not see. Call the function itself while planning and training, {_INSTEAD}",
        kind="torch.compile",
    )


def _refuse(path: str, module: nn.Module) -> None:
    how = compiled_by(module)
    if how is not None:
        where = f"module {path!r} is" if path else f"the model, a {type(module).__name__}, is"
        raise ModelNotSupportedError(f"{where} compiled already ({how}): {_ADVICE[how]}", kind="torch.compile")
