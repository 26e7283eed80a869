"""Keep libraries on the path that they take in eager mode.

Hugging Face Transformers asks whether a tensor is fake and then builds explicit attention masks, where its eager path passes
``is_causal``: another kernel, and bytes that eager never allocates. ``value_guards`` answers the reads of the eager path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MODULE = "transformers.utils.import_utils"
_NAME = "is_fake_tensor"


@contextmanager
def libraries_believe_eager() -> Iterator[None]:
    """Let Transformers, where it is loaded, take fake tensors for real ones inside."""
    module = sys.modules.get(_MODULE)
    original = getattr(module, _NAME, None)
    if original is None:
        yield
        return
    setattr(module, _NAME, lambda _: False)
    try:
        yield
    finally:
        setattr(module, _NAME, original)
