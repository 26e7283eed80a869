"""Pools beside the device: memory that takes copies of activations while a step runs, and what copies them."""

from remat_planner.planner.copies.disk_pool import DiskPool
from remat_planner.planner.copies.host_pool import HostPool
from remat_planner.planner.copies.pools import Pools, StepPools, pools_of

__all__ = ["DiskPool", "HostPool", "Pools", "StepPools", "pools_of"]
