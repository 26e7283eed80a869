"""Where a Python object is found: from the model, from the arguments of a call, or from an object that lives on its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn


@dataclass(frozen=True)
class Roots:
    """What places start from: the model by its modules, and the arguments of one call."""

    modules: Mapping[str, nn.Module]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Roots:
        """Those of ``model(*args, **kwargs)``."""
        return cls(dict(model.named_modules(remove_duplicate=False)), args, kwargs or {})


Step = tuple[Literal["attribute", "item", "cell"], Any]


@dataclass(frozen=True)
class Place:
    """A way to an object that holds again for another call, and for a copy of the model.

    Attributes:
        label: the name for messages, as in "layers.0.aux_loss" or "AUX (global of model.py)".
        start: path of a module, "args" or "kwargs", or an object of its own.
        kind: what ``start`` is.
        steps: attributes and items from there on.
    """

    label: str
    start: Any
    kind: Literal["module", "arguments", "object"]
    steps: tuple[Step, ...] = ()

    def attribute(self, name: str) -> Place:
        """The attribute ``name`` of what is here."""
        return replace(self, label=f"{self.label}.{name}" if self.label else name, steps=(*self.steps, ("attribute", name)))

    def item(self, key: Any) -> Place:
        """The item ``key`` of what is here."""
        return replace(self, label=f"{self.label}[{key!r}]", steps=(*self.steps, ("item", key)))

    def global_name(self, name: str, file: str) -> Place:
        """The global ``name`` of the namespace that is here."""
        return replace(self, label=f"{name} (global of {file})", steps=(*self.steps, ("item", name)))

    def find(self, roots: Roots) -> Any:
        """The object that is here now.

        Raises:
            LookupError: there is none.
        """
        try:
            found = self._start(roots)
            for kind, key in self.steps:
                found = getattr(found, key) if kind == "attribute" else found.cell_contents if kind == "cell" else found[key]
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise LookupError(self.label) from error
        return found

    def _start(self, roots: Roots) -> Any:
        if self.kind == "module":
            return roots.modules[self.start]
        if self.kind == "arguments":
            return roots.args if self.start == "args" else roots.kwargs
        return self.start
