"""Operators that are not PyTorch's own: without a kernel for fakes, writing to their arguments, or unknown to the planner.

*Without a fake kernel*: an operator is run once on real tensors of the arguments' forms, and its fake results have the forms of
the real ones. Each later run must give results of these forms.

*Writing*: functionalization knows PyTorch's own operators alone. A call becomes one that works on copies of what it writes to,
and returns them.

*Unknown*: an operator whose schema says that it only computes its results may run again if two runs on the same arguments give
the same bits and draw nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, ClassVar

import torch
from torch import fx
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions.errors import FunctionVariesError, SampleError
from remat_planner.tracer.functions.forms import TensorForm, copied
from remat_planner.tracer.functions.samples import draws_seen, sample_arguments
from remat_planner.tracer.operators import OperatorFacts, facts_of, graph_function, is_collective, pin_reason, with_facts
from remat_planner.tracer.torch_private import is_fake, storage_key, without_modes

_NAMESPACE = "remat_planner"
_NAME = "writing_operator"
_LIBRARY: Any = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(f"{_NAME}(Tensor[] arguments, int number) -> Tensor[]")

_MOST_TRIED = 1 << 30
"""Bytes of arguments with which a call is tried; a capture on paper may be of tensors that no machine has room for."""
_by_example: dict[Any, Any] = {}  # forms of the results, by the operator and the forms of its arguments
_repeats: dict[Any, bool] = {}  # whether a second run gives the first one's bits, likewise


def is_custom(target: Any) -> bool:
    """Whether ``target`` is an operator of somebody else than PyTorch."""
    return isinstance(target, torch._ops.OpOverload) and not is_collective(target) and not _is_pytorchs(target)


def _is_pytorchs(target: torch._ops.OpOverload) -> bool:
    return target.namespace in _PYTORCHS or target.namespace == _NAMESPACE


_PYTORCHS = frozenset(
    (
        "aten",
        "prims",
        "prim",
        "quantized",
        "quantized_decomposed",
        "mkldnn",
        "mkl",
        "onednn",
        "inductor",
        "_quantized",
        "profiler",
    )
)


class MissingExampleError(BaseException):
    """A call of an operator without a fake kernel that no example has been made of. No code of the user's may catch this."""

    def __init__(self, func: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
        super().__init__(str(func))
        self.func = func
        self.args_and_kwargs = args, kwargs

    def make(self) -> None:
        """Make the example.

        Raises:
            SampleError: the forms of the results cannot be learnt so.
        """
        first = _real_result(self.func, *self.args_and_kwargs)
        try:
            of_zeros = _real_result(self.func, *self.args_and_kwargs, zeros=True)
        except SampleError:  # zeros may be no values for it; others are
            of_zeros = _real_result(self.func, *self.args_and_kwargs)
        if first != of_zeros:
            raise SampleError("the form of its results depends on values")
        _by_example[_key(self.func, *self.args_and_kwargs)] = first


def result_by_example(func: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
    """Fake results of a call on fakes, of the forms that real ones have; to be called in their mode.

    Raises:
        MissingExampleError: there is no example of such a call.
    """
    key = _key(func, args, kwargs)
    if key not in _by_example:
        raise MissingExampleError(func, args, kwargs)
    return pytree.tree_map_only(TensorForm, lambda form: form.empty(), _by_example[key])


def _real_result(func: torch._ops.OpOverload, args: Any, kwargs: Any, *, zeros: bool = False) -> Any:
    real_args, real_kwargs = _real((args, kwargs), zeros=zeros)
    given = {storage_key(t) for t in pytree.tree_leaves((real_args, real_kwargs)) if isinstance(t, torch.Tensor)}
    try:
        with without_modes(), torch.no_grad():
            result = func(*real_args, **real_kwargs)
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        raise SampleError(f"on sample tensors of the same forms it raised {type(error).__name__}: {text}") from error
    for leaf in pytree.tree_leaves(result):
        if isinstance(leaf, torch.Tensor) and (leaf.layout is not torch.strided or storage_key(leaf) in given):
            raise SampleError("it returns a sparse tensor, or a view of an argument")
    return pytree.tree_map_only(torch.Tensor, TensorForm.of, result)


def _real(arguments: Any, *, zeros: bool = False) -> Any:
    """The arguments with real tensors of the same forms, filled with arbitrary values or zeros, in the place of fakes."""
    fakes = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor) and is_fake(leaf)]
    with without_modes():
        samples = sample_arguments([_form(fake) for fake in fakes])
        for sample in samples if zeros else ():
            sample.zero_()
        reals = dict(zip(map(id, fakes), samples, strict=True))
    return pytree.tree_map_only(torch.Tensor, lambda t: reals.get(id(t), t), arguments)


def _key(func: Any, args: Any, kwargs: Any) -> Any:
    leaves, spec = pytree.tree_flatten((args, kwargs))
    forms = (_form(leaf) if isinstance(leaf, torch.Tensor) else (type(leaf), repr(leaf)) for leaf in leaves)
    return func, repr(spec), tuple(forms)


def _form(tensor: torch.Tensor) -> TensorForm:
    return replace(TensorForm.of_argument(tensor), requires_grad=False)


@dataclass(eq=False)
class WritingCall:
    """A call of an operator that writes to its arguments.

    Attributes:
        operator: the operator.
        leaves: of its arguments, None for tensors.
        spec: how the leaves form ``(args, kwargs)``.
        tensors: which of the leaves are tensors.
        written: which of the tensors it writes to.
        number: by which the recorded operator finds the call.
    """

    operator: torch._ops.OpOverload
    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    tensors: tuple[int, ...]
    written: tuple[int, ...]
    number: int = field(init=False)

    known: ClassVar[list[WritingCall]] = []
    by_key: ClassVar[dict[Any, WritingCall]] = {}

    def __post_init__(self) -> None:
        self.number = len(self.known)
        self.known.append(self)

    @classmethod
    def of(
        cls, operator: torch._ops.OpOverload, args: Any, kwargs: Any, written: Sequence[torch.Tensor]
    ) -> tuple[WritingCall, list[torch.Tensor]]:
        """The call ``operator(*args, **kwargs)``, which writes to ``written``, and its tensors."""
        leaves, spec = pytree.tree_flatten((args, kwargs))
        places = tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor))
        tensors = [leaves[i] for i in places]
        constants = tuple(None if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves)
        changed = tuple(i for i, tensor in enumerate(tensors) if any(tensor is t for t in written))
        key = (operator, repr(constants), repr(spec), places, changed)
        if key not in cls.by_key:
            cls.by_key[key] = cls(operator, constants, spec, places, changed)
        return cls.by_key[key], tensors

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The new values of what the operator writes to, then the other tensors that it returns."""
        given = [copied(tensor) if i in self.written else tensor for i, tensor in enumerate(tensors)]
        leaves = list(self.leaves)
        for i, tensor in zip(self.tensors, given, strict=True):
            leaves[i] = tensor
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        returned = [leaf for leaf in pytree.tree_leaves(self.operator(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        fresh = [leaf for leaf in returned if not any(leaf is tensor for tensor in given)]
        return [*(given[i] for i in self.written), *fresh]


def _run_writing(arguments: Sequence[torch.Tensor], number: int) -> list[torch.Tensor]:
    return WritingCall.known[number].run(arguments)


_LIBRARY.impl(_NAME, _run_writing, "CompositeExplicitAutograd")
torch.library.register_fake(f"{_NAMESPACE}::{_NAME}", _run_writing, lib=_LIBRARY)
_OPERATOR: torch._ops.OpOverload = getattr(getattr(torch.ops, _NAMESPACE), _NAME).default


def run_on_copies(operator: torch._ops.OpOverload, args: Any, kwargs: Any, written: Sequence[torch.Tensor]) -> Any:
    """Call ``operator`` on copies of what it writes to, under a trace, and write their new values back."""
    call, tensors = WritingCall.of(operator, args, kwargs, written)
    results: list[torch.Tensor] = _OPERATOR(tensors, call.number)
    for i, new in zip(call.written, results, strict=False):
        tensors[i].copy_(new)
    fresh = iter(results[len(call.written) :])
    returns = operator._schema.returns
    out = [
        next(fresh) if declared.alias_info is None else _written_as(operator, args, kwargs, declared) for declared in returns
    ]
    return None if not out else out[0] if len(out) == 1 else tuple(out)


def _written_as(operator: torch._ops.OpOverload, args: Any, kwargs: Any, returned: Any) -> Any:
    """The argument that a result of the schema's alias set ``returned.alias_info`` is."""
    for position, declared in enumerate(operator._schema.arguments):
        if declared.alias_info is not None and declared.alias_info.before_set == returned.alias_info.before_set:
            return args[position] if position < len(args) else kwargs[declared.name]
    raise NotImplementedError(f"a result of {operator} is an alias of none of its arguments")


def use_custom_operators(graph: fx.Graph) -> None:
    """Put graph functions in the place of operators that write, and of those whose fakes have the forms of an example."""
    sampled = {key[0] for key in _by_example}
    for node in graph.nodes:
        if node.target is _OPERATOR:
            arguments, number = node.args
            node.target = _writing_function(WritingCall.known[number])
            node.args = tuple(arguments)
        elif node.target in sampled:
            node.target = _checked_function(node.target, tuple(_forms_of(node.meta["val"])))
        if may_repeat(node):
            node.meta["repeats"] = True


def may_repeat(node: fx.Node) -> bool:
    """Whether a call of an operator of somebody else, of which nothing is known, gives the same when it runs again."""
    target: Any = node.target
    operator = getattr(target, "custom_operator", target)
    if not is_custom(operator) or not node.users or torch.Tag.nondeterministic_seeded in operator.tags:
        return False
    facts = facts_of(operator)
    if facts.pure is not None or facts.pinned is not None:
        return False
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta["val"])
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if any(t.layout is not torch.strided or (t.is_cuda and not torch.cuda.is_available()) for t in tensors):
        return False
    if sum(t.nbytes for t in tensors) > _MOST_TRIED:
        return False
    key = _key(target, args, kwargs)
    if key not in _repeats:
        _repeats[key] = _gives_the_same_twice(target, _real((args, kwargs)))
    return _repeats[key]


def _gives_the_same_twice(target: Callable[..., Any], arguments: tuple[Any, Any]) -> bool:
    args, kwargs = arguments
    tensors = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    before = [copied(tensor) for tensor in tensors]
    try:
        with without_modes(), torch.no_grad(), draws_seen(tensors) as draws:
            first, second = (pytree.tree_leaves(target(*args, **kwargs)) for _ in range(2))
    except Exception:  # whatever it raises on arbitrary values
        return False
    same = len(first) == len(second) and all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(first, second, strict=True)
    )
    return same and not draws() and all(map(torch.equal, before, tensors))


def _forms_of(value: Any) -> list[TensorForm]:
    return [TensorForm.of(leaf) for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _facts(operator: torch._ops.OpOverload) -> OperatorFacts:
    pinned = pin_reason(operator)
    return OperatorFacts(pure=pinned is None, pinned=pinned, draws=torch.Tag.nondeterministic_seeded in operator.tags)


@cache
def _writing_function(call: WritingCall) -> Callable[..., Any]:
    constants = [repr(leaf) for i, leaf in enumerate(call.leaves) if i not in call.tensors]
    described = f"{call.operator} on copies of {list(call.written)}({', '.join(constants)})"

    @graph_function(described)
    @with_facts(_facts(call.operator))
    def run(*arguments: torch.Tensor) -> list[torch.Tensor]:
        return call.run(arguments)

    return _named(run, call.operator)


@cache
def _checked_function(operator: torch._ops.OpOverload, forms: tuple[TensorForm, ...]) -> Callable[..., Any]:
    @graph_function(f"{operator} with results of planned forms")
    @with_facts(_facts(operator))
    def run(*args: Any, **kwargs: Any) -> Any:
        result = operator(*args, **kwargs)
        tensors = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if len(tensors) != len(forms) or not all(form.fits(t) for form, t in zip(forms, tensors, strict=True)):
            raise FunctionVariesError(
                f"{operator} returned tensors of other forms than when the step was planned, so they depend on values. Leave "
                "the module that calls it out of the plan, by regions",
                function=str(operator),
            )
        return result

    return _named(run, operator)


def _named(run: Any, operator: torch._ops.OpOverload) -> Callable[..., Any]:
    run.__name__ = run.__qualname__ = operator._schema.name.partition("::")[2]
    run.__doc__ = f"``{operator}``."
    run.custom_operator = operator
    named: Callable[..., Any] = run
    return named
