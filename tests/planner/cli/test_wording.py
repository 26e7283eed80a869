"""The library's advice in the language of the command."""

from __future__ import annotations

import logging

import pytest

from remat_planner.planner.cli.wording import RemarkHandler, in_options


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("name it (costs='h100'), or", "name it (--device h100), or"),
        ("with costs='p.json'", "with --costs p.json"),
        ("plan(..., verify=False) leaves this out", "--no-verify leaves this out"),
        ('plan by regions, regions="model.layers.*"', "plan by regions, --regions 'model.layers.*'"),
        ('(budget="min")', "(--budget min)"),
        ('(order="any"), or copy (offload=)', "(--order any), or copy (--offload)"),
        ("with training=remat_planner.TrainingState(accumulate=True)", "with --accumulate"),
        ("divide it (TrainingState(shard=N))", "divide it (--shard N)"),
        ("Offload(disk='500GB', folder='/scratch')", "--offload disk:/scratch --disk-budget 500GB"),
        ("with gradient_buckets, leave out gradient_dtype", "with --gradient-buckets, leave out --gradient-dtype"),
        ("the loss costs 3 GB; set bias=False", "the loss costs 3 GB; set bias=False"),
    ],
)
def test_keyword_arguments_are_options(said: str, told: str) -> None:
    assert in_options(said) == told


def test_remarks_are_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    RemarkHandler().emit(logging.LogRecord("remat_planner", logging.WARNING, "", 0, "%s [b] whole=True", ("a\x1b[2J",), None))
    assert capsys.readouterr().err == "a\\x1b[2J [b] --whole\n"
