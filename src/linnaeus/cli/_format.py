"""Values as people read them. Pure."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime

# Control, format and surrogate characters, line separators: what steers a terminal or hides in a text.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_LONGEST_VALUE = 100
_UNITS = ("B", "kB", "MB", "GB", "TB")


def safe_text(text: str, *, keep_lines: bool = False) -> str:
    """Return a text in which nothing can steer a terminal: such characters are spelled out.

    Names in checkpoints and buckets are other people's; an escape sequence in one would be obeyed.

    Args:
        text: Any text.
        keep_lines: Let line ends through.
    """
    if text.isprintable():
        return text
    return "".join(c if (keep_lines and c == "\n") or not _unprintable(c) else _spelled(c) for c in text)


def _unprintable(character: str) -> bool:
    return unicodedata.category(character) in _UNPRINTABLE


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def size_text(num_bytes: int) -> str:
    """Return a size in decimal units with three digits, for example "12.3 MB"."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    # Compared with the next unit's half step, so that rounding never gives "1000 kB".
    power = next((power for power in (1, 2, 3) if num_bytes < 999.5 * 1000**power), 4)
    value = num_bytes / 1000**power
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[power]}"


def number_text(value: float) -> str:
    """Return a measured number with four significant digits."""
    return f"{value:.4g}"


def metrics_text(metrics: Mapping[str, object]) -> str:
    """Return metrics on one line, for example "loss 0.1234, accuracy 97.2 %"."""
    return ", ".join(f"{name} {_metric_text(name, value)}" for name, value in metrics.items())


def _metric_text(name: str, value: object) -> str:
    if name.startswith("accuracy") and isinstance(value, float) and 0 <= value <= 1:
        return share_text(value)
    return value_text(value)


def share_text(share: float) -> str:
    """Return a share of one as a percentage, for example "97.2 %"."""
    return f"{100 * share:.1f} %"


def seconds_text(seconds: float) -> str:
    """Return a duration, for example "2.3 s" or "1 h 04 min"."""
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def value_text(value: object) -> str:
    """Return a plain value on one line, shortened when it is long."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return number_text(value)
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def shape_text(shape: tuple[int, ...]) -> str:
    """Return a tensor's shape, for example "64 x 3 x 7 x 7"."""
    return " x ".join(map(str, shape)) or "scalar"


def count_text(number: int, noun: str) -> str:
    """Return a number with its noun, for example "1 tensor" or "1,200 tensors"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def time_text(iso: str | None) -> str:
    """Return a moment given as ISO 8601 to the minute, in UTC; a text of another form as it is."""
    if not iso:
        return ""
    try:
        return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        return iso


def spelled_numbers(node: object) -> object:
    """Return plain values in which numbers that JSON has not are texts, such as "NaN"."""
    if isinstance(node, Mapping):
        return {key: spelled_numbers(value) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [spelled_numbers(value) for value in node]
    if isinstance(node, float) and (node != node or node in (float("inf"), float("-inf"))):
        return "NaN" if node != node else f"{'-' if node < 0 else ''}Infinity"
    return node
