"""Switches and tuning numbers of the two-level search."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TwoLevelOptions:
    """How the step is cut into blocks, and how options of blocks are made and chosen.

    Switched off, an idea costs time or quality only; ``tests/solvers/two_level/test_switches.py`` shows what each is worth.

    Attributes:
        share_blocks: blocks with equal patterns share their options: a network of equal layers needs one set.
        align_layers: where layers repeat, coarser blocks begin and end with layers, so that their patterns are equal too.
        prune_prefixes: the dynamic program drops a prefix if another has no more bytes and no more seconds.
        levels: partitions tried, each with blocks about twice as large as the one before. 1: the finest only.
        slots: prefixes that the dynamic program carries from block to block at most: of those within a slot of memory the
            cheapest.
        tries: a chain whose sequence is over the budget, by bytes that the two levels do not see, is solved again with as much
            less. So many solves.
        most_options: options of one block.
        seconds_per_option: time limit of the integer program of one option.
        gap: of a block's seconds times 1000. Options need not be exact: each is simulated as it is.
        long, long_at_least: an item read over more than this share of the forward pass, and more than so many nodes (a rope
            table, a mask, a U-Net's long skip), does not count when we look for cuts: it crosses nearly all of them.
        most_crossing: items that may cross a cut: as few as give ``enough_cuts`` cuts, but at most so many.
        enough_cuts: see ``most_crossing``.
        most_nodes: a partition coarser than the finest has no block above this many nodes: choosing inside it would take too
            long.
    """

    share_blocks: bool = True
    align_layers: bool = True
    prune_prefixes: bool = True
    levels: int = 4
    slots: int = 2000
    tries: int = 4
    most_options: int = 64
    seconds_per_option: float = 2.0
    gap: float = 0.02
    long: float = 0.25
    long_at_least: int = 32
    most_crossing: int = 3
    enough_cuts: int = 3
    most_nodes: int = 300


DEFAULT_OPTIONS = TwoLevelOptions()
