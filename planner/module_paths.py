"""Module paths such as "model.layers.3.mlp": the numbers of blocks in them, and short names for many at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

_NUMBER = re.compile(r"(\d+)")


def block_and_number(path: str) -> tuple[str, int | None]:
    """The path of the list that a block is in, and its number there: ("model.layers", 3) for "model.layers.3".

    The number is None where the last name of the path is not one.
    """
    parent, _, last = path.rpartition(".")
    return parent, int(last) if last.isdecimal() else None


def outermost_block(path: str) -> str:
    """The outermost numbered module on the path: "layers.3" for "layers.3.experts.0"; "" where no name is a number."""
    parts = path.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), None)
    return "" if number is None else ".".join(parts[: number + 1])


def without_numbers(path: str) -> str:
    """A key that is the same for the paths of all layers: "h.#.mlp" for "h.3.mlp"."""
    return _NUMBER.sub("#", path)


def merged_path(paths: Iterable[str]) -> str:
    """One path for paths that are the same ``without_numbers``: "h.0-1.mlp" for "h.0.mlp" and "h.1.mlp"."""
    columns = zip(*(_NUMBER.split(path) for path in paths), strict=True)
    return "".join(column[0] if n % 2 == 0 else _ranges(map(int, column)) for n, column in enumerate(columns))


def merged_names(paths: Sequence[str]) -> str:
    """Any paths in their order as a short list, consecutive blocks together: "h.0-5, head.3"."""
    runs: list[tuple[str, str, str]] = []
    for path in paths:
        (parent, number), last = block_and_number(path), path.rpartition(".")[2]
        if number is not None and runs and block_and_number(f"{runs[-1][0]}.{runs[-1][2]}") == (parent, number - 1):
            runs[-1] = (parent, runs[-1][1], last)
        else:
            runs.append((parent, last, last))
    prefixed = ((f"{parent}." if parent else "", first, last) for parent, first, last in runs)
    return ", ".join(f"{prefix}{first}" if first == last else f"{prefix}{first}-{last}" for prefix, first, last in prefixed)


def _ranges(numbers: Iterable[int]) -> str:
    """ "0-3,7" for 0, 1, 2, 3, 7."""
    runs = groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in run] for _, run in runs]
    return ",".join(str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
