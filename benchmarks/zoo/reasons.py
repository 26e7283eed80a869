"""Why a step is refused, in classes, and what to do instead."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """A class of refusals.

    Attributes:
        title: what is refused.
        message: a pattern that the message of such a refusal contains.
        instead: what the user can do.
    """

    title: str
    message: str
    instead: str


_REGIONS = '`regions="auto"` plans the blocks that do not do it'

REASONS = (
    Reason(
        "a size that depends on activations or on random draws",
        "the size of the result depends on",
        f"{_REGIONS}; or compute on all elements and multiply by a mask",
    ),
    Reason(
        "a branch on a draw of Python or NumPy",
        "random generator of Python or NumPy",
        "set the rate of the random path (`layerdrop`, SpecAugment's `mask_time_prob`) to 0, or draw with torch and use "
        f"`torch.where`; {_REGIONS}",
    ),
    Reason(
        "a value of parameters, activations or random draws that Python reads",
        "reads a value from a tensor|loss reads a value",
        f"{_REGIONS}; set the rate of a random path (`layerdrop`) to 0; `torch.where` in the place of a branch; "
        "a loss that matches predictions with targets (detection): outside of the model, which is called without labels",
    ),
    Reason(
        "a forward that runs other operators each time",
        "runs other operators the second time|changes from run to run|same order in every run",
        "remove what depends on the clock, on a counter or on a generator of its own",
    ),
    Reason(
        "Python state that each step changes",
        "changes Python state from step to step",
        "keep it in a buffer that is updated in place, or change it outside of the forward",
    ),
    Reason(
        "a parameter or buffer that is replaced",
        "assigns a new tensor to|assigns to .data|has another memory, shape or strides",
        "`self.x.copy_(new)` on a registered buffer",
    ),
    Reason(
        "a tensor that is reached through a closure, a global or a container",
        "not through the module but through|no parameter of the model, which finds none",
        "register it as a parameter or buffer",
    ),
    Reason(
        "the state of a random generator, read or set in the forward",
        "state of a random generator|torch.Generator that is not found",
        "seed before the step; make numbers that stay the same once, in a buffer",
    ),
    Reason(
        "an operator without a fake kernel",
        "no fake kernel",
        "`torch.library.register_fake`, or the forward of a `torch.autograd.Function`, which runs as it is",
    ),
    Reason(
        "a kernel that is launched by address, or code that needs real memory",
        "address of a tensor|tensors without memory|memory of a tensor without an operator",
        "launch it in the forward of a `torch.autograd.Function`, which runs as it is",
    ),
    Reason("sparse gradients", "gradient is sparse", "`nn.Embedding(sparse=False)`"),
    Reason(
        "a tensor that is not strided, as an output or in a place where it cannot be planned",
        "sparse|nested|jagged",
        "its values and indices or offsets; `layout=torch.jagged`",
    ),
    Reason(
        "a write in place that has no other form",
        "writes in place",
        "write to a clone of the tensor, or call the operator out of place",
    ),
    Reason(
        "blocks that are called with inputs of many forms",
        r"inputs of more than \d+ forms|no repeated blocks",
        'name regions that are called alike, `regions="encoder.*"`',
    ),
    Reason(
        "code that fails on tensors without memory",
        "the model's own code raised|the backward raised",
        f"{_REGIONS}; call what fails in the forward of a `torch.autograd.Function`",
    ),
    Reason(
        "an operator that cannot be measured by itself",
        "^MeasurementError",
        "`costs` of a device's data sheet, or `register_operator` with sample inputs",
    ),
)

_OTHER = "^{}: "


def reason_of(refusal: str) -> Reason:
    """The class of a refusal, "Class: message"; one of its own, by the error's class, where none fits."""
    for reason in REASONS:
        if re.search(reason.message, refusal):
            return reason
    name = refusal.partition(":")[0]
    return Reason(f"other ({name})", _OTHER.format(re.escape(name)), "what the message says")
