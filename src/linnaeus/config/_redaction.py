"""Secrets are taken out of everything that is shown or stored.

What counts as secret: a text under a secret-looking key, the credentials that this process has in
its environment, and passwords inside URLs. Redacting too much costs a little clarity; redacting too
little leaks a key, so doubtful cases are redacted.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

REDACTED = "***"

_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|TOKEN$|^PASS$"
    r"|(API|APP|APPLICATION|ACCESS|ACCOUNT|AUTH|PRIVATE)KEYS?(IDS?)?$"
)
_SECRET_VARIABLE = re.compile(
    r"B2_APPLICATION_KEY(_ID)?|RCLONE_CONFIG_PASS"
    r"|AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|SESSION_TOKEN)"
    # for rclone's B2 backend, ACCOUNT holds the key id
    r"|RCLONE_CONFIG_.+_(KEY|KEY_ID|ACCOUNT|PASS\w*|SECRET|TOKEN|CREDENTIALS|SAS_URL|KEY_PEM)",
    re.IGNORECASE,
)
_MIN_SECRET_LENGTH = 4  # shorter ones would blank out parts of ordinary words

_URL_PASSWORD = re.compile(r"(?<=://)[^\s/?#]*:[^\s/?#]*@|(?<=https://)[^\s/?#]+@|(?<=http://)[^\s/?#]+@")
# in a URL's query, and in a connection string of rclone (`:s3,secret_access_key=...:`)
_PARAMETER = re.compile(
    r"([?&;,][^=&;,\s]*(?:token|secret|pass|signature|credential|key|account)[^=&;,\s]*=)"
    r"(?:\"[^\"]*\"|'[^']*'|[^&;#\s]+)",
    re.IGNORECASE,
)


def is_secret_name(name: str) -> bool:
    """Tell whether a key of this name holds a secret, whatever its case and separators."""
    return _SECRET_NAME.search(re.sub(r"[^A-Z0-9]", "", name.upper())) is not None


def secrets_in_environment() -> tuple[str, ...]:
    """Return the values of the credentials that this process has in its environment.

    Returns:
        The values of the Backblaze, AWS and rclone credential variables; values shorter than four
        characters are left out.
    """
    found = (value for name, value in os.environ.items() if _SECRET_VARIABLE.fullmatch(name))
    return tuple(sorted({value for value in found if len(value) >= _MIN_SECRET_LENGTH}))


def redact(text: str, secrets: Iterable[str]) -> str:
    """Replace every secret in a text by `***`.

    Args:
        text: Any text, for example what a transfer program said.
        secrets: The secrets to look for; they are found URL-encoded too.

    Returns:
        The text without these secrets and without the passwords and keys in URLs and connection strings.
    """
    text = _without_spans(text, sorted(_spans(text, secrets)))
    return _PARAMETER.sub(rf"\1{REDACTED}", _URL_PASSWORD.sub(f"{REDACTED}@", text))


def _spans(text: str, secrets: Iterable[str]) -> Iterator[tuple[int, int]]:
    for secret in secrets:
        if secret.strip("*"):  # a secret made of stars would be found in what replaces it
            for form in {secret, _quoted(secret, ""), _quoted(secret, "/")}:
                yield from ((at, at + len(form)) for at in _positions(text, form))


def _quoted(secret: str, safe: str) -> str:
    return quote(secret, safe=safe, errors="surrogatepass")


def _positions(text: str, part: str) -> Iterator[int]:
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


def _without_spans(text: str, spans: list[tuple[int, int]]) -> str:
    """Replace the spans; overlapping ones are merged, or the rest of one would stay readable."""
    kept, end = [], 0
    for start, stop in spans:
        if start >= end:
            kept += [text[end:start], REDACTED]
        end = max(end, stop)
    return "".join([*kept, text[end:]])


def redact_tree(value: Any, secrets: tuple[str, ...], *, secret: bool = False) -> Any:
    """Return plain values with their secrets redacted.

    Args:
        value: Plain values: dicts, lists, texts, numbers, booleans and None.
        secrets: Texts that are redacted wherever they occur.
        secret: Whether the value stands under a secret key: then all texts in it are redacted.
    """
    if isinstance(value, Mapping):
        return {key: _redact_item(str(key), item, secrets, secret=secret) for key, item in value.items()}
    if isinstance(value, list):
        return [redact_tree(item, secrets, secret=secret) for item in value]
    if isinstance(value, str):
        return REDACTED if secret and value else redact(value, secrets)
    return value


def _redact_item(key: str, item: Any, secrets: tuple[str, ...], *, secret: bool) -> Any:
    named = is_secret_name(key)
    # a number can be a password, but under ...TOKEN it is a count
    if named and isinstance(item, int) and not isinstance(item, bool) and not key.upper().endswith("TOKEN"):
        return REDACTED
    return redact_tree(item, secrets, secret=secret or named)
