"""Which globals a code object reads and writes.

Its ``co_names`` has the names of attributes too, and a script that calls its model often has variables of the same names.
"""

from __future__ import annotations

import dis
from types import CodeType

_BY_NAME = frozenset(dis.opmap[name] for name in ("LOAD_NAME", "STORE_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"))
_LOAD_GLOBAL = dis.opmap["LOAD_GLOBAL"]  # its lowest bit says something else
_EXTENDED = dis.EXTENDED_ARG


def global_names(code: CodeType) -> frozenset[str]:
    """The names of the globals that ``code`` itself reads, sets or deletes; those of functions in it are theirs."""
    if not code.co_names:
        return frozenset()
    found = set()
    extended = 0
    content = code.co_code
    for opcode, argument in zip(content[::2], content[1::2], strict=True):
        if opcode == _EXTENDED:
            extended = (extended | argument) << 8
            continue
        if opcode == _LOAD_GLOBAL:
            found.add((extended | argument) >> 1)
        elif opcode in _BY_NAME:
            found.add(extended | argument)
        extended = 0
    names = code.co_names
    return frozenset(names[k] for k in found if k < len(names))
