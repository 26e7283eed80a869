"""Errors of autograd.Functions that run as one operator."""

from __future__ import annotations


class FunctionVariesError(RuntimeError):
    """An autograd.Function returned or kept other tensors in a planned step than when the step was planned.

    Attributes:
        function: its name.
    """

    def __init__(self, message: str, *, function: str) -> None:
        super().__init__(message)
        self.function = function


class SampleError(Exception):
    """A Function cannot be one operator; the text says why."""
