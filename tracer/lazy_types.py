"""Classes of modules that ``import torch`` does not load.

Where such a module is not loaded, no object can be an instance of its classes, so nothing has to load it to ask.
"""

from __future__ import annotations

import sys
from typing import Any


def loaded(module: str, name: str) -> Any:
    """The class ``name`` of ``module``; None where the module is not loaded."""
    return getattr(sys.modules.get(module), name, None)


def is_instance(value: object, module: str, name: str) -> bool:
    """Whether ``value`` is an instance of the class ``name`` of ``module``; does not load the module."""
    kind = loaded(module, name)
    return kind is not None and isinstance(value, kind)
