"""A call of an autograd.Function, forward or backward, as a function of tensors.

A call is *sampled* (``samples``) before it is recorded: it runs once on real tensors of the arguments' forms, which shows where
its results lie. A later run must leave its results in the same places.

The results of a run are listed in this order: the arguments that the code changes, each in a copy with its new value; the
tensors in memory that the call allocates; of a forward whose backward will run, the token (``token``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from remat_planner.tracer.functions.errors import FunctionVariesError
from remat_planner.tracer.functions.forms import Place, TensorForm, UnlikePlannedError, copied, own_tensors, with_flag
from remat_planner.tracer.functions.purity import is_registered_pure
from remat_planner.tracer.operators import OperatorFacts

Function = type[torch.autograd.Function]


@dataclass(frozen=True)
class Results:
    """Where the results of a call lie, as its sample has shown.

    Attributes:
        changed: indices of the arguments that the code changes.
        own: forms of the tensors in memory that the call allocates.
        returned: place of each tensor that the forward or backward returns; None for None.
        draws: whether the code draws from a random generator of torch.
        is_tuple: whether a forward returns a tuple.
        kept: place of each tensor that a forward keeps for its backward.
        dirty: indices of the arguments that a forward marks as changed.
        not_differentiable: which of ``returned`` a forward marks so.
    """

    changed: tuple[int, ...]
    own: tuple[TensorForm, ...]
    returned: tuple[Place | None, ...]
    draws: bool
    is_tuple: bool = True
    kept: tuple[Place, ...] = ()
    dirty: tuple[int, ...] = ()
    not_differentiable: tuple[int, ...] = ()

    @property
    def places(self) -> tuple[Place | None, ...]:
        """The places of all tensors that are returned or kept."""
        return (*self.returned, *self.kept)


@dataclass(eq=False)
class Call:
    """One forward or backward of ``function`` on arguments of fixed forms. Equal calls are one object.

    Attributes:
        function: the autograd.Function, or operator.
        arguments: the forms of its tensors.
        number: of the call, by which the recorded operator finds it.
        results: where its results lie; None until it is sampled.
    """

    function: Any
    arguments: tuple[TensorForm, ...]
    number: int = field(init=False)
    results: Results | None = field(init=False, default=None)

    known: ClassVar[list[Call]] = []
    by_key: ClassVar[dict[Any, Call]] = {}

    def __post_init__(self) -> None:
        self.number = len(self.known)
        self.known.append(self)

    @property
    def sampled(self) -> Results:
        """Where its results lie.

        Raises:
            RuntimeError: it has not been sampled.
        """
        if self.results is None:
            raise RuntimeError(f"{self.name} is called before it is sampled; please report this")
        return self.results

    @property
    def forms(self) -> tuple[TensorForm, ...]:
        """The forms of the results of a run."""
        return (*(self.arguments[i] for i in self.sampled.changed), *self.sampled.own)

    @property
    def name(self) -> str:
        """The function's name with its module."""
        return f"{self.function.__module__}.{self.function.__qualname__}"

    @property
    def short_name(self) -> str:
        """A short name."""
        return self.function.__name__

    @property
    def description(self) -> str:
        """The call in one line, the same in every process."""
        return self.name

    @property
    def recorded_name(self) -> str:
        """The name under which cost profiles know the call."""
        return f"autograd.Function {self.description}"

    @property
    def facts(self) -> OperatorFacts:
        """What is known about the call."""
        pure = is_registered_pure(self.function)
        kind = getattr(self.function, "what", "an autograd.Function")
        pinned = None if pure else f"{kind} that runs as it is ({self.name}): whether it may run twice is unknown"
        return OperatorFacts(pure=pure, pinned=pinned, draws=self.sampled.draws)

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Run the function's own code and list the results.

        Raises:
            FunctionVariesError: they are not those of the sample.
        """
        raise NotImplementedError

    def presented(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The arguments as eager's: changed ones as copies, and those that require a gradient with this flag."""
        changed = self.sampled.changed
        return [
            with_flag(copied(tensor) if i in changed else tensor, form.requires_grad)
            for i, (tensor, form) in enumerate(zip(tensors, self.arguments, strict=True))
        ]

    def listed(self, returned: Any, kept: Sequence[torch.Tensor], arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The results of a run, without a token."""
        results = self.sampled
        try:
            tensors = [*in_tuple(returned), *kept]
            if len(tensors) != len(results.places):
                raise UnlikePlannedError(f"{len(tensors)} tensors where {len(results.places)} were planned")
            own = own_tensors(tensors, results.places, arguments, results.own)
        except UnlikePlannedError as error:
            raise FunctionVariesError(
                f"{self.name} returned or kept other tensors than when the step was planned ({error}), so what it returns "
                "depends on values or Python state. Register its kernels as operators (torch.library.custom_op), or leave the "
                "module that calls it out of the plan, by regions",
                function=self.name,
            ) from None
        return [*(arguments[i].detach() for i in results.changed), *own]


def in_tuple(returned: Any) -> tuple[torch.Tensor | None, ...]:
    """What a forward or backward returned, as a tuple.

    Raises:
        UnlikePlannedError: it is something else than tensors and None.
    """
    values = returned if isinstance(returned, tuple) else (returned,)
    for value in values:
        if value is not None and not isinstance(value, torch.Tensor):
            raise UnlikePlannedError(f"a value of type {type(value).__name__}, which may differ at each call")
    return values
