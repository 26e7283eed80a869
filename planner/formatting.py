"""Formats bytes, seconds, shares and forms of input for people."""

from __future__ import annotations

from collections.abc import Mapping

_DECIMAL = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_bytes(count: float) -> str:
    """``count`` bytes with four digits in decimal units: "245.5 MB"."""
    return _scaled(count, 1000, _DECIMAL)


def format_bytes_both(count: float) -> str:
    """``count`` bytes in decimal and binary units: "245.5 MB (234.1 MiB)"."""
    if abs(count) < 1000:
        return format_bytes(count)
    return f"{format_bytes(count)} ({_scaled(count, 1024, _BINARY)})"


def format_seconds(seconds: float) -> str:
    """``seconds`` with three digits: "1.23 s", "45.6 ms", "789 µs"."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{_digits(seconds * factor, 3)} {unit}"
    raise AssertionError("the last unit takes every number")


def format_percent(fraction: float) -> str:
    """A fraction in percent, with two decimals below 10 % and one above: "7.56 %", "33.2 %"."""
    percent = 100 * fraction
    return f"{percent:.{2 if abs(percent) < 9.995 else 1}f} %"


def format_inputs(inputs: Mapping[str, str]) -> str:
    """A form of input from its signature: "[0]: float32[4, 8], ['labels']: int64[4]"."""
    return ", ".join(f"{place}: {form}" for place, form in inputs.items())


def _scaled(count: float, base: int, units: tuple[str, ...]) -> str:
    scale = 0
    while scale + 1 < len(units) and abs(count) >= base * 0.99995:
        count /= base
        scale += 1
    return f"{count:.0f} {units[scale]}" if scale == 0 else f"{_digits(count, 4)} {units[scale]}"


def _digits(number: float, digits: int) -> str:
    """``number`` with that many digits in all, never in exponential notation."""
    whole = len(str(int(abs(number))))
    return f"{number:,.{max(0, digits - whole)}f}"
