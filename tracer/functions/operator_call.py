"""A call of an operator that takes or returns sparse tensors, as a function of the dense tensors that these consist of.

The graph of a step holds dense tensors alone. So each call puts its sparse arguments together, which copies nothing, runs the
operator as eager does, and takes its results apart.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any

import torch
from torch.utils import _pytree as pytree

from remat_planner.tracer.functions.call import Call, Results
from remat_planner.tracer.functions.context import PLAIN_VALUES
from remat_planner.tracer.functions.errors import FunctionVariesError, SampleError
from remat_planner.tracer.functions.forms import TensorForm, UnlikePlannedError, located, own_tensors
from remat_planner.tracer.functions.sparse_samples import PATTERNS, Part, Pattern
from remat_planner.tracer.functions.surroundings import Autocast, as_in_eager, current_autocast
from remat_planner.tracer.operators import OpCall, OperatorFacts, Roofline, TensorSpec, Values, is_random
from remat_planner.tracer.torch_private import is_symbolic, without_modes
from remat_planner.tracer.torch_sparse import SparseForm, is_sparse, parts_of_sparse, put_together


class _Dense:
    """Stands for a dense tensor among arguments or results."""

    def __repr__(self) -> str:
        return "a tensor"


_DENSE = _Dense()
Apart = Callable[[torch.Tensor], tuple[SparseForm, tuple[torch.Tensor, ...]]]
"""The form of a sparse tensor and the dense tensors that it consists of."""


def apart_now(tensor: torch.Tensor) -> tuple[SparseForm, tuple[torch.Tensor, ...]]:
    """Those of a sparse tensor as it is."""
    return SparseForm.of(tensor), parts_of_sparse(tensor)


@dataclass(frozen=True, slots=True)
class OperatorResults:
    """What a run of an operator has returned.

    Attributes:
        spec: how the leaves form what it returns.
        leaves: of that, with a marker for each tensor.
        tensors: the dense tensors of all of them.
    """

    spec: pytree.TreeSpec
    leaves: tuple[Any, ...]
    tensors: tuple[torch.Tensor, ...]


@dataclass(eq=False)
class OperatorCall(Call):
    """A call of an operator on sparse tensors of fixed forms.

    Attributes:
        leaves: of ``(args, kwargs)``, with a marker for a dense tensor and the form of a sparse one.
        spec: how the leaves form them.
        autocast: what autocast does where it is called: kernels may call operators that it casts for.
        sizes: sizes of the results, where these depend on values; else None.
        returned: spec and leaves of what the operator returns, as its sample has shown.
    """

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    autocast: Autocast
    sizes: Any = None
    returned: tuple[pytree.TreeSpec, tuple[Any, ...]] | None = field(init=False, default=None)

    @classmethod
    def of(cls, operator: Callable[..., Any], args: Any, kwargs: Any, apart: Apart) -> tuple[OperatorCall, list[torch.Tensor]]:
        """The call ``operator(*args, **kwargs)``, and the dense tensors in it.

        Raises:
            SampleError: a size is a symbol.
        """
        leaves, spec = pytree.tree_flatten((args, kwargs))
        kept, tensors = marked(leaves, apart)
        forms = tuple(replace(TensorForm.of_argument(tensor), requires_grad=False) for tensor in tensors)
        return cls._like(operator, forms, kept, spec, current_autocast()), tensors

    @classmethod
    def _like(cls, operator: Any, forms: Any, leaves: Any, spec: Any, autocast: Autocast, sizes: Any = None) -> OperatorCall:
        sparse = [leaf.size for leaf in leaves if isinstance(leaf, SparseForm)]
        if any(map(is_symbolic, chain(leaves, *sparse, *(form.size for form in forms)))):
            raise SampleError("it is recorded for known sizes alone, and here they are symbols")
        key = (operator, forms, repr(leaves), repr(spec), autocast, repr(sizes))
        call = cls.by_key.get(key)
        if not isinstance(call, OperatorCall):
            call = cls.by_key[key] = cls(operator, forms, leaves, spec, autocast, sizes)
        return call

    @property
    def name(self) -> str:
        """The operator's name."""
        return str(self.function)

    @property
    def short_name(self) -> str:
        """A short name."""
        return self.name.partition(".")[2].rpartition(".")[0]

    @property
    def recorded_name(self) -> str:
        """The name under which cost profiles know the call."""
        return f"sparse {self.description}"

    @property
    def description(self) -> str:
        """The call in one line, the same in every process."""
        parts = ", ".join(
            [*map(_described, self.leaves), *(f"autocast {device} {dtype}" for device, dtype, _ in self.autocast)]
        )
        return f"{self.name}({parts})" + ("" if self.sizes is None else f" -> {self.sizes}")

    @property
    def is_sized_by_values(self) -> bool:
        """Whether the sizes of the results depend on values, as far as the operator tells."""
        sparse = sum(isinstance(leaf, SparseForm) for leaf in self.leaves)
        name = self.short_name
        return name in _SIZED or (sparse > 1 and name in _SIZED_OF_SEVERAL)

    def with_sizes(self, sizes: Any) -> OperatorCall:
        """The same call whose results have these sizes, as ``sizes_on`` returns them."""
        return self._like(self.function, self.arguments, self.leaves, self.spec, self.autocast, sizes)

    def deciding(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """Those of its ``tensors`` on whose values the sizes of its results depend: of sparse ones, where the entries are."""
        if not any(part.is_index for part in self._parts):
            return list(tensors)
        return [tensor if part.is_index else None for tensor, part in zip(tensors, self._parts, strict=True)]

    def sizes_on(self, tensors: Sequence[torch.Tensor | None]) -> list[list[int]]:
        """The size of each dense tensor among the results, with these values of what is ``deciding``.

        ``with_sizes`` of it has a sample then.
        """
        forms = zip(tensors, self.arguments, self._parts, strict=True)
        given = [_sample(form, part, PATTERNS[0]) if tensor is None else tensor for tensor, form, part in forms]
        results = self._run(given)
        sizes = [list(tensor.shape) for tensor in results.tensors]
        sized = self.with_sizes(sizes)
        if sized.results is None:
            sized.results, sized.returned = sized._located(results, given)
        _remember_example(sized, [None if tensor is None else tensor.detach() for tensor in tensors])
        return sizes

    def ensure_sampled(self) -> bool:
        """Run it on samples and set ``results``. False where these depend on values, of which nothing is known.

        The values of the samples are not random: a forward may be under way, whose draws must not shift.
        """
        if self.results is not None:
            return True
        with without_modes(), torch.no_grad():
            samples = [self._located(*self._sampled(pattern)) for pattern in PATTERNS]
        if any(sample != samples[0] for sample in samples):
            return False
        self.results, self.returned = samples[0]
        return True

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors among the results that lie in memory of their own."""
        results = self._run(tensors)
        sampled = self.sampled
        try:
            if (results.spec, results.leaves) != self.returned:
                raise UnlikePlannedError("tensors in other layouts, or other numbers")
            return own_tensors(results.tensors, sampled.places, tensors, sampled.own)
        except UnlikePlannedError as error:
            raise FunctionVariesError(
                f"{self.name} returned others than when the step was planned ({error}), so what it returns "
                "depends on values. Leave the module that calls it out of the plan, by regions",
                function=self.name,
            ) from None

    def unflattened(
        self,
        tensors: Sequence[torch.Tensor],
        sparse: Callable[[SparseForm, tuple[torch.Tensor, ...]], torch.Tensor] = put_together,
    ) -> Any:
        """What the operator returns, of the dense tensors among its results, with ``sparse`` for sparse ones."""
        assert self.returned is not None
        spec, leaves = self.returned
        return pytree.tree_unflatten(_filled(leaves, tensors, sparse), spec)

    @cached_property
    def facts(self) -> OperatorFacts:
        """What is known about the call."""
        return OperatorFacts(
            draws=is_random(self.function, (), {}),
            flops=self._flops,
            roofline=Roofline(bytes_moved=self._bytes_moved),
            sample_inputs=self._fills,
        )

    def _run(self, tensors: Sequence[torch.Tensor]) -> OperatorResults:
        filled = _filled(self.leaves, tensors, put_together)
        args, kwargs = pytree.tree_unflatten(list(map(self._filled_leaf, filled)), self.spec)
        with as_in_eager(
            self.autocast
        ):  # some kernels fill their results through autograd's layer, and leave them empty below it
            leaves, spec = pytree.tree_flatten(self._called(args, kwargs))
        kept, parts = marked(leaves)
        return OperatorResults(spec, kept, tuple(parts))

    def _called(self, args: Any, kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def _filled_leaf(self, leaf: Any) -> Any:
        return leaf

    def _sampled(self, pattern: Pattern) -> tuple[OperatorResults, list[torch.Tensor]]:
        samples = [_sample(form, part, pattern) for form, part in zip(self.arguments, self._parts, strict=True)]
        return self._run(samples), samples

    def _located(
        self, results: OperatorResults, arguments: Sequence[torch.Tensor]
    ) -> tuple[Results, tuple[pytree.TreeSpec, tuple[Any, ...]]]:
        places, own = located(results.tensors, arguments)
        device = next((form.device for form in self.arguments if form.device.type != "cpu"), None)
        forms = tuple(TensorForm.of(tensor) for tensor in own)
        if device is not None:
            forms = tuple(replace(form, device=device) for form in forms)
        return Results((), forms, tuple(places), draws=False), (results.spec, results.leaves)

    def _fills(self, call: OpCall) -> Mapping[str | TensorSpec, Values]:
        """What fills the arguments that are indices, when the call is measured alone."""

        examples = _examples.get(self.number, [None] * len(self.arguments))

        def fill(spec: TensorSpec, part: Part, example: torch.Tensor | None) -> Callable[[torch.Tensor], object]:
            def filled(flat: torch.Tensor) -> None:
                tensor = flat.as_strided(spec.shape, spec.stride, spec.offset)
                part.fill(tensor, PATTERNS[0]) if example is None else tensor.copy_(example)

            return filled

        arguments = zip(call.args, self._parts, examples, strict=True)
        return {spec: fill(spec, part, example) for spec, part, example in arguments if part.is_index or example is not None}

    def _entries(self) -> int:
        """Number of stored values of the sparse arguments together."""
        values = (form for form, part in zip(self.arguments, self._parts, strict=True) if part.is_values)
        return sum(math.prod(form.size) for form in values)

    def _columns(self) -> int:
        """Columns of the last dense matrix, if this is a product; else 0."""
        dense = [form for form, part in zip(self.arguments, self._parts, strict=True) if part.form is None]
        return dense[-1].size[-1] if self.short_name in _PRODUCTS and dense and dense[-1].size else 0

    @cached_property
    def _parts(self) -> tuple[Part, ...]:
        """What each of the arguments is a part of."""
        parts: list[Part] = []
        for leaf in self.leaves:
            if leaf is _DENSE:
                parts.append(Part())
            elif isinstance(leaf, SparseForm):
                first, values = self.arguments[len(parts)], self.arguments[len(parts) + leaf.number_of_parts - 1]
                parts += [Part(leaf, k, values.size[0], first.size[-1] - 1) for k in range(leaf.number_of_parts)]
        return tuple(parts)

    def _flops(self, _call: OpCall) -> int:
        return 2 * self._entries() * self._columns()

    def _bytes_moved(self, call: OpCall) -> int:
        """Each argument and result once; in a product, a row of the dense matrix for each entry."""
        gathered = self._entries() * self._columns() * self.arguments[-1].dtype.itemsize
        return gathered + sum(storage.bytes for storage in call.storages) + sum(call.allocates)


_PRODUCTS = frozenset({"mm", "_sparse_addmm", "_sparse_mm", "addmm", "bmm", "mv", "addmv", "sspaddmm", "hspmm"})
_SIZED = frozenset(
    {"_coalesce", "_sparse_sum", "nonzero"}
    | {f"{prefix}to_sparse{kind}" for prefix in ("", "_") for kind in ("", "_csr", "_csc", "_bsr", "_bsc")}
)
"""Operators whose results have as many entries as their values say."""
_SIZED_OF_SEVERAL = frozenset({"mm", "addmm", "_sparse_addmm", "_sparse_sparse_matmul", "add", "sub", "mul"})
"""Those of which this holds where several arguments are sparse."""


_MOST_EXAMPLES = 32
_examples: OrderedDict[int, list[torch.Tensor | None]] = OrderedDict()
"""By the number of a call with ``sizes``, the newest last: values that lead to them, with which it can be measured alone."""


def _remember_example(call: OperatorCall, tensors: list[torch.Tensor | None]) -> None:
    _examples[call.number] = tensors
    _examples.move_to_end(call.number)
    if len(_examples) > _MOST_EXAMPLES:
        _examples.popitem(last=False)


def marked(leaves: Sequence[Any], apart: Apart = apart_now) -> tuple[tuple[Any, ...], list[torch.Tensor]]:
    """The leaves with a marker for each dense tensor and its form for each sparse one, and the dense tensors of both."""
    kept: list[Any] = []
    tensors: list[torch.Tensor] = []
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            kept.append(leaf)
        elif is_sparse(leaf):
            form, parts = apart(leaf)
            kept.append(form)
            tensors += parts
        else:
            kept.append(_DENSE)
            tensors.append(leaf)
    return tuple(kept), tensors


def _filled(
    leaves: Sequence[Any],
    tensors: Sequence[torch.Tensor],
    sparse: Callable[[SparseForm, tuple[torch.Tensor, ...]], torch.Tensor],
) -> list[Any]:
    rest = iter(tensors)
    return [
        next(rest)
        if leaf is _DENSE
        else sparse(leaf, tuple(islice(rest, leaf.number_of_parts)))
        if isinstance(leaf, SparseForm)
        else leaf
        for leaf in leaves
    ]


def _sample(form: TensorForm, part: Part, pattern: Pattern) -> torch.Tensor:
    """A tensor of this form with values; on the CPU where its device is not at hand."""
    absent = form.device.type == "cuda" and not torch.cuda.is_available()
    tensor = (replace(form, device=torch.device("cpu")) if absent else form).empty()
    part.fill(tensor, pattern)
    return tensor


def _described(leaf: Any) -> str:
    return repr(leaf) if isinstance(leaf, (*PLAIN_VALUES, list, tuple, _Dense, SparseForm)) else type(leaf).__name__
