"""The tables of PyTorch's own operators fit the operators that this version of PyTorch has."""

import pytest
import torch

from remat_planner.tracer.operators.tables import BUILT_IN, FAMILIES

RECORDS = [pytest.param(name, facts, id=name) for name, facts in BUILT_IN.items()]


def overloads(name: str) -> list[torch._ops.OpOverload]:
    """The overloads that the record ``name`` ("aten::max" or "aten::max.dim") holds for."""
    packet_name, _, overload = name.removeprefix("aten::").partition(".")
    packet = getattr(torch.ops.aten, packet_name)
    return [getattr(packet, o) for o in ([overload] if overload else packet.overloads())]


def test_an_operator_has_one_record():
    assert sum(len(table) for table in FAMILIES) == len(BUILT_IN)


@pytest.mark.parametrize(("name", "facts"), RECORDS)
def test_a_record_belongs_to_an_operator_and_names_its_arguments(name, facts):
    named = {*facts.hidden_updates, *([facts.draws_if] if facts.draws_if else [])}
    for overload in overloads(name):
        assert named <= {argument.name for argument in overload._schema.arguments}


@pytest.mark.parametrize(("name", "facts"), RECORDS)
def test_only_operators_that_are_tagged_as_random_say_when_they_draw(name, facts):
    if facts.draws_if is not None:
        assert any(torch.Tag.nondeterministic_seeded in overload.tags for overload in overloads(name))
