"""What the options of copies to the host or a disk mean together."""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.planner.cli.exit_codes import UsageError
from remat_planner.planner.planning import Offload


def offload_from(
    pools: Sequence[str] | None,
    host_budget: str | None,
    disk_budget: str | None,
    link: str | None,
    disk_link: str | None,
) -> Offload | None:
    """What these options mean together; None where they ask for no copies.

    Raises:
        UsageError: a pool is unknown, named twice or without a budget, or a budget or rate is for a pool that is not named.
    """
    named: dict[str, str] = {}
    for text in pools or ():
        pool, _, folder = text.partition(":")
        if pool not in ("host", "disk") or (pool == "host" and folder) or (pool == "disk" and not folder):
            raise UsageError(f"--offload {text} names no pool: give host, or disk:FOLDER")
        if pool in named:
            raise UsageError(f"--offload names the {pool} twice: give it once")
        named[pool] = folder
    for option, value, pool in (
        ("--host-budget", host_budget, "host"),
        ("--disk-budget", disk_budget, "disk"),
        ("--link", link, "host"),
        ("--disk-link", disk_link, "disk"),
    ):
        if value is not None and pool not in named:
            raise UsageError(f"{option} is for copies to the {pool}: add --offload {'disk:FOLDER' if pool == 'disk' else pool}")
        if value is None and option.endswith("-budget") and pool in named:
            raise UsageError(f"--offload {pool} needs {option}: say how many bytes copies may take there")
    if not named:
        return None
    return Offload(host=host_budget or 0, disk=disk_budget or 0, folder=named.get("disk"), link=link, disk_link=disk_link)
