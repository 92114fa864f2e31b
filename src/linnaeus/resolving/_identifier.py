"""What may name a checkpoint: an absolute path, or a bare file name. Pure, and fast for ordinary names."""

from __future__ import annotations

import os
import re
import unicodedata

from linnaeus.errors import IdentifierError

_ORDINARY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,249}\Z")
_GLOBS = "*?[]{}"
_LONGEST_NAME_BYTES = 255


def text_of(identifier: object) -> str:
    """Return an identifier, or the path that stands for one, as text.

    Raises:
        IdentifierError: It is neither.
    """
    if isinstance(identifier, (str, os.PathLike)):
        text = os.fspath(identifier)
        if isinstance(text, str):
            return text
    given = "None: nothing is named" if identifier is None else type(identifier).__name__
    raise IdentifierError(identifier=str(identifier), reason=f"it is neither text nor a path, but {given}")


def is_absolute(identifier: str) -> bool:
    """Tell whether an identifier is an absolute path."""
    return identifier.startswith("/")


def check_name(identifier: str) -> str:
    """Return `identifier` if it is a bare file name.

    Raises:
        IdentifierError: It is empty, hidden, too long, or has separators, globs, control characters or the
            like.
    """
    if _ORDINARY.match(identifier):
        return identifier
    reason = _objection(identifier)
    if reason:
        raise IdentifierError(identifier=identifier, reason=reason)
    return identifier


def check_path(identifier: str) -> str:
    """Return `identifier`, an absolute path, if the system could have such a file.

    Raises:
        IdentifierError: It holds a NUL or other control character, or what file names can't be encoded from.
    """
    if any(unicodedata.category(character) == "Cc" for character in identifier):
        raise IdentifierError(identifier=identifier, reason="it has a control character")
    try:
        os.fsencode(identifier)
    except UnicodeEncodeError as error:
        raise IdentifierError(identifier=identifier, reason="it has half a character") from error
    return identifier


def _objection(name: str) -> str | None:
    if not name or name.isspace():
        return "it is empty"
    if "/" in name or "\\" in name:
        return "it has a separator, but is no absolute path"
    if name.startswith("."):
        return "it begins with a dot"
    if name.startswith("-"):
        return "it begins with a dash"
    if name.startswith("~"):
        return "it begins with a tilde"
    if any(character in _GLOBS for character in name):
        return f"it has a glob character ({_GLOBS})"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in name):
        return "it has a control or invisible character"
    if name != name.strip():
        return "it begins or ends with white space"
    if len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        return f"it is longer than {_LONGEST_NAME_BYTES} bytes"
    return None
