"""The command ``plan``: ``plan --budget 40GB model.py``, and the commands beside it (``plan verify``, ``plan show``, ...)."""

from remat_planner.planner.cli.command import main

__all__ = ["main"]
