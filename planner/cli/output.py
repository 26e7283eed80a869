"""Consoles that print any text safely: names from models and schedule files come from other people.

Nothing in a name is markup or an emoji code; a control character, which could steer the terminal, is shown as an escape; and a
terminal whose encoding lacks a character gets a replacement.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from typing import IO, Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

_REPLACEMENTS = {"µ": "u", "\N{MULTIPLICATION SIGN}": "x", "…": "...", "·": "."}
_ERROR_HANDLER = "remat_planner.replaced"
# Control and format characters, and halves of surrogate pairs, which no encoding takes.
_UNPRINTABLE = ("Cc", "Cf", "Cs")
_UNPRINTABLE_IN_JSON = re.compile("[\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


class OutputClosedError(Exception):
    """The reader of stdout is gone, as in ``plan show FILE | head -1``."""


class OutputNotWrittenError(Exception):
    """Stdout cannot be written, as on a full disk; the message says why."""


class SafeConsole(Console):
    """A console for text from anywhere."""

    def __init__(self, file: IO[str] | None = None, *, stderr: bool = False, **options: Any) -> None:
        super().__init__(file=file, stderr=stderr, markup=False, emoji=False, highlight=False, **options)
        self.push_render_hook(_Printable())

    def on_broken_pipe(self) -> None:
        """Called by ``print``.

        Raises:
            OutputClosedError: always.
        """
        raise OutputClosedError

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does.

        Raises:
            OutputClosedError: nobody reads it.
            OutputNotWrittenError: the file cannot be written.
        """
        try:
            super().print(*objects, **options)
        except OSError as error:
            raise OutputNotWrittenError(error.strerror or str(error)) from None

    def write(self, text: str) -> None:
        """Write ``text`` as it is, without wrapping.

        Raises:
            OutputClosedError: nobody reads it.
            OutputNotWrittenError: the file cannot be written.
        """
        try:
            self.file.write(text)
            self.file.flush()
        except BrokenPipeError:
            raise OutputClosedError from None
        except OSError as error:
            raise OutputNotWrittenError(error.strerror or str(error)) from None


def print_document(console: SafeConsole, document: dict[str, Any]) -> None:
    """Write the one JSON document of ``--json``."""
    text = json.dumps(document, indent=2, ensure_ascii=not console.encoding.startswith("utf"))
    console.write(_UNPRINTABLE_IN_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def printable(text: str, *, keep: str = "") -> str:
    r"""``text`` with escapes such as "\x1b" in the place of its unprintable characters, except those in ``keep``."""
    return "".join(
        character
        if character in keep or unicodedata.category(character) not in _UNPRINTABLE
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def replace_what_stdout_cannot_encode() -> None:
    """Let stdout print a replacement for a character that its encoding lacks, rather than raise."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors=_ERROR_HANDLER)


@contextlib.contextmanager
def stdout_for_the_result() -> Iterator[IO[str]]:
    """Yield a stream to stdout; what anybody else prints meanwhile, compiled code and child processes too, goes to stderr."""
    stdout = sys.stdout
    try:
        number = stdout.fileno()
        stdout.flush()
        kept = os.dup(number)
    except (AttributeError, OSError, ValueError):  # a stand-in for stdout, as in tests and notebooks
        with contextlib.redirect_stdout(sys.stderr):
            yield stdout
        return
    os.dup2(sys.stderr.fileno(), number)
    stream = open(kept, "w", encoding=stdout.encoding, errors=stdout.errors)  # noqa: SIM115  (its last flush may fail)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield stream
    finally:
        os.dup2(kept, number)
        with contextlib.suppress(OSError):
            stream.close()


class _Printable(RenderHook):
    """Makes the text of everything that a console prints printable."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_PrintableRenderable(renderable) for renderable in renderables]


class _PrintableRenderable:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(printable(segment.text, keep="\n"), segment.style)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing: Sequence[str] = error.object[error.start : error.end]
    return "".join(_REPLACEMENTS.get(c) or c.encode("ascii", "backslashreplace").decode("ascii") for c in missing), error.end


codecs.register_error(_ERROR_HANDLER, _replaced)
