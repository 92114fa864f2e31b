"""Older spellings: keys of earlier linnaeus versions become today's, and say so once each."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from linnaeus.config._redaction import REDACTED
from linnaeus.config._tree import KeyPath, Tree, assign, dotted, has, subtree, value_at
from linnaeus.errors import ConfigError

SCHEDULE = ("SCHEDULE", "CHECKPOINT")
OLDER: dict[KeyPath, KeyPath] = {
    ("ENV", "INPUT", "BUCKET", "BUCKET"): ("ENV", "INPUT", "BUCKET", "NAME"),
    ("ENV", "OUTPUT", "BUCKET", "BUCKET"): ("ENV", "OUTPUT", "BUCKET", "NAME"),
    ("MODEL", "RESUME"): ("TRAIN", "RESUME"),
    ("CHECKPOINT", "SAVE_FREQ"): (*SCHEDULE, "INTERVAL_EPOCHS"),
    ("CHECKPOINT", "KEEP_TOP_N"): (*SCHEDULE, "KEEP_TOP_N"),
    ("CHECKPOINT", "KEEP_LAST_N"): (*SCHEDULE, "KEEP_LAST_N"),
}
_CREDENTIALS: tuple[KeyPath, ...] = tuple(
    ("ENV", direction, "BUCKET", key)
    for direction in ("INPUT", "OUTPUT")
    for key in ("APP_KEY_ID", "APP_KEY")
)


class LinnaeusDeprecationWarning(FutureWarning):
    """A config uses an older spelling; a `FutureWarning`, because users of a config should see it."""


def translate(tree: Tree) -> list[tuple[KeyPath, KeyPath]]:
    """Rename older keys in place.

    Returns:
        The older and the present path of each key that was renamed.

    Raises:
        ConfigError: A key is given in both spellings with different values, or an older key has no
            counterpart today.
    """
    _refuse_fraction(tree)
    renamed = [(old, new) for old, new in OLDER.items() if has(tree, old)]
    for old, new in renamed:
        _rename(tree, old, new)
    if renamed and tree.get("CHECKPOINT") == {}:
        del tree["CHECKPOINT"]
    _refuse_misspelt(tree)
    return renamed


def _rename(tree: Tree, old: KeyPath, new: KeyPath) -> None:
    parent = subtree(tree, old[:-1]) or {}
    value, present = parent.pop(old[-1]), value_at(tree, new)
    if value is None or (value == "" and present is not None):
        return
    if present in (None, ""):
        _assign_renamed(tree, new, value)
    elif present != value:
        expected = f"is also given as {dotted(old)}, its older spelling, with another value; keep one of them"
        raise ConfigError(field=dotted(new), expected=expected)


def _refuse_misspelt(tree: Tree) -> None:
    """Refuse what nearly is a key of the older CHECKPOINT section; other keys of it may be others'."""
    ours = {old[-1]: new for old, new in OLDER.items() if old[0] == "CHECKPOINT"}
    for key in subtree(tree, ("CHECKPOINT",)) or {}:
        for near in get_close_matches(str(key).upper(), ours, n=1, cutoff=0.8):
            raise ConfigError(
                field=f"CHECKPOINT.{key}", expected="is not a known key", nearest=dotted(ours[near])
            )


def _assign_renamed(tree: Tree, new: KeyPath, value: object) -> None:
    if (blocked := assign(tree, new, value)) is not None:
        raise ConfigError(field=dotted(blocked), expected="should be a section with keys of its own")


def _refuse_fraction(tree: Tree) -> None:
    schedule = subtree(tree, SCHEDULE) or {}
    value = schedule.pop("INTERVAL_FRACTION", None)
    if value is not None:
        expected = f"is no longer known; give a number of steps as {dotted(SCHEDULE)}.INTERVAL_STEPS"
        raise ConfigError(field=f"{dotted(SCHEDULE)}.INTERVAL_FRACTION", expected=expected, value=value)


def notes(renamed: Iterable[tuple[KeyPath, KeyPath]], tree: Tree) -> list[str]:
    """Return the text of each warning that a config deserves, each once."""
    lines = [
        f"config {dotted(old)} is an older spelling of {dotted(new)}" for old, new in dict.fromkeys(renamed)
    ]
    held = [dotted(path) for path in _CREDENTIALS if value_at(tree, path) not in (None, "", REDACTED)]
    if held:
        lines.append(
            f"config {' and '.join(held)}: a config file is a poor place for credentials; set the environment"
            " variables B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY instead"
        )
    return lines
