"""Forms of a step that compute the same bits, or in chunks of rows nearly the same, in less memory.

Gradients of convolutions are computed in two parts, operators read forms in the place of tensors, a ReLU's gradient is computed
before that of the pooling that follows it, and results take the place of what is read last.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType

from remat_planner.schedules import Graph
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower.chunked_head import with_heads_in_chunks
from remat_planner.tracer.lower.chunked_products import with_products_in_chunks
from remat_planner.tracer.lower.form_only import form_readers, forms_as, has_same_bits_by_form, with_forms
from remat_planner.tracer.lower.in_place_chains import chains, chains_as, has_same_bits_in_place, with_chains
from remat_planner.tracer.lower.overwriting import overwriters, overwriting_as, with_overwriting
from remat_planner.tracer.lower.pooled_relu import exchanged_as, has_same_bits_exchanged, pooled_relus, with_exchanged
from remat_planner.tracer.lower.split_gradients import has_same_bits_in_parts, split_as, splittable, with_split_gradients
from remat_planner.tracer.lower.write_over import has_same_bits_written_over

_CHUNKS = re.compile(r":(\d+) chunks$")
"""What the name of an op in chunks ends with."""


def has_variant(joint: Joint) -> bool:
    """Whether ``in_less_memory`` has anything to change."""
    return any(found(joint) for found in (splittable, form_readers, overwriters, chains))


def in_less_memory(
    joint: Joint,
    *,
    at_hand: bool,
    whole: Collection[str] = (),
    overwriting: bool = True,
    chunks: Mapping[str, int] = MappingProxyType({}),
) -> Joint:
    """``joint`` in the form that takes the least memory.

    Args:
        joint: as captured.
        at_hand: its device is here; only what has the same bits there is changed.
        whole: names of ops that stay in one.
        overwriting: operators of the backward write over the gradient that they read, which must then be computed once.
        chunks: number of chunks of loss heads and of backwards between linear layers, by their name; these round otherwise
            than eager.
    """
    joint = with_products_in_chunks(with_heads_in_chunks(joint, chunks), chunks)
    joint = with_exchanged(joint, [p.name for p in pooled_relus(joint) if not at_hand or has_same_bits_exchanged(p)])
    joint = with_forms(joint, [n.meta["name"] for n in form_readers(joint) if not at_hand or has_same_bits_by_form(n)])
    split = [node for node in splittable(joint) if node.meta["name"] not in whole]
    joint = with_split_gradients(joint, [n.meta["name"] for n in split if not at_hand or has_same_bits_in_parts(n)])
    if overwriting:
        over = {n: place for n, place in overwriters(joint).items() if not at_hand or has_same_bits_written_over(n, place)}
        joint = with_overwriting(joint, over)
    return with_chains(joint, [c.name for c in chains(joint) if not at_hand or has_same_bits_in_place(c)])


def variant_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` in the form of ``graph``."""
    for as_in in (_in_chunks_as, exchanged_as, forms_as, split_as, overwriting_as, chains_as):
        joint = as_in(joint, graph)
    return joint


def chunks_of(graph: Graph) -> dict[str, int]:
    """The number of chunks of what is in chunks, by its name in eager."""
    found = ((name, _CHUNKS.search(name)) for name in graph.by_name)
    return {name[: match.start()]: int(match[1]) for name, match in found if match is not None}


def _in_chunks_as(joint: Joint, graph: Graph) -> Joint:
    chunks = chunks_of(graph)
    return with_products_in_chunks(with_heads_in_chunks(joint, chunks), chunks)
