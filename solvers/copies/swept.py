"""From a sequence of nodes with the stores and loads of a chain solver to the sequence whose transfers ``kernel`` places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from remat_planner.solvers.copies.kernel import Sequence as Timed
from remat_planner.solvers.problem import Problem


def timed(
    problem: Problem, nodes: Sequence[int], stored: Mapping[int, int], loads: Sequence[tuple[int, int]], pool: int
) -> Timed:
    """``nodes`` with the lifetimes of all instances, as ``kernel.sequence`` gives them.

    Args:
        problem: the reduced graph.
        nodes: in order.
        stored: for each stored item the number of nodes before its store; the copy is never stored again.
        loads: the number of nodes before each load, and its item.
        pool: number of the pool.
    """
    size, base, lasting = problem.bytes.tolist(), problem.base.tolist(), problem.lasting.tolist()
    births: list[int] = []
    deaths: list[int] = []
    sizes: list[int] = []
    lasts: list[bool] = []
    current = [-1] * problem.m
    newest_load: dict[int, int] = {}  # instance: its load
    load_rows: list[list[int]] = []
    stored_instance: dict[int, int] = {}
    ran: set[int] = set()
    first, last = [-1] * problem.n, [-1] * problem.n
    stores_at = sorted((place, item) for item, place in stored.items())
    next_store = next_load = 0

    def begin(item: int, place: int) -> None:
        current[item] = len(births)
        births.append(place)
        deaths.append(place)
        sizes.append(size[item])
        lasts.append(False)

    for place, node in enumerate(nodes):
        while next_store < len(stores_at) and stores_at[next_store][0] <= place:
            item = stores_at[next_store][1]
            stored_instance[item] = current[item]
            next_store += 1
        while next_load < len(loads) and loads[next_load][0] <= place:
            item = loads[next_load][1]
            load_rows.append([item, pool, -1, item, deaths[current[item]] + 1])
            begin(item, -1)
            newest_load[current[item]] = len(load_rows) - 1
            next_load += 1
        for item in problem.reads[node]:
            instance = current[item]
            if births[instance] < 0:
                births[instance] = load_rows[newest_load[instance]][2] = place
            deaths[instance] = place
        for item in problem.writes[node]:
            if base[item] == item:
                begin(item, place)
            else:
                current[item] = current[base[item]]
            lasts[current[item]] |= lasting[item] and node not in ran
        ran.add(node)
        if first[node] < 0:
            first[node] = place
        last[node] = place
    read = [row for row in load_rows if row[2] >= 0]
    copied = {row[0] for row in read}
    chosen = [item for _, item in stores_at if item in copied]
    number = {item: k for k, item in enumerate(chosen)}
    stores = [[item, pool, births[stored_instance[item]], deaths[stored_instance[item]]] for item in chosen]
    live = np.zeros(len(nodes) + 1, dtype=np.int64)
    for birth, death, bytes_, lasts_on in zip(births, deaths, sizes, lasts, strict=True):
        if birth >= 0:
            live[birth] += bytes_
            live[len(nodes) if lasts_on else death + 1] -= bytes_
    for node in np.flatnonzero(problem.replay).tolist():
        if last[node] > first[node]:
            live[first[node]] += problem.replay[node]
            live[last[node] + 1] -= problem.replay[node]
    index = np.array(nodes, dtype=np.int64)
    return Timed(
        nodes=index,
        live=np.cumsum(live[:-1]) + problem.workspace[index],
        stores=np.array(stores, dtype=np.int64).reshape(-1, 4),
        loads=np.array([[*row[:3], number[row[0]], row[4]] for row in read], dtype=np.int64).reshape(-1, 5),
    )
