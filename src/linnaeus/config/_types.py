"""The kinds of values that our keys take, with the checks that belong to each kind."""

from __future__ import annotations

import os
import re
import signal
import unicodedata
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from linnaeus.config._redaction import REDACTED, redact
from linnaeus.errors import ConfigError

CACHE_DIR_VARIABLE = "LINNAEUS_CACHE_DIR"


def default_cache_dir() -> Path:
    """Return where checkpoints are cached when the config does not say.

    Returns:
        The directory that the environment variable `LINNAEUS_CACHE_DIR` names, or
        `linnaeus/checkpoints` in the platform's user cache directory.

    Raises:
        ConfigError: The variable starts with the home directory of an unknown user, or names a variable
            that is not set.
    """
    if named := os.environ.get(CACHE_DIR_VARIABLE):
        try:
            return _expanded(named)
        except ValueError as error:
            raise ConfigError(field=CACHE_DIR_VARIABLE, expected=str(error), value=named) from error
    import platformdirs  # only needed here, and not by a config that names its cache

    return platformdirs.user_cache_path("linnaeus", appauthor=False) / "checkpoints"


def expanded_user(path: str | os.PathLike[str]) -> Path:
    """Return the path with a home directory in place of a leading `~`.

    Raises:
        ValueError: It is the home directory of a user who is not known here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError("starts with the home directory of a user who is not known here") from error


def _expanded(text: str) -> Path:
    if not text or _control_characters(text):
        raise ValueError("should name a directory, without control characters")
    text = os.path.expandvars(text)
    if unset := re.search(r"\$(\w+|\{[^}]*\})", text):  # or a directory of that very name would be made
        raise ValueError(f"names an environment variable that is not set, {unset[0]}")
    return expanded_user(text)


def _directory(value: object) -> object:
    return _expanded(str(value)) if isinstance(value, str | PurePath) else value


def _control_characters(text: str) -> bool:
    return any(unicodedata.category(character) == "Cc" for character in text)


def _blank_is_none(value: object) -> object:
    """Older configs write "" where nothing is meant."""
    if isinstance(value, PurePath):
        return str(value)
    return None if value == "" else value


def _no_secret(value: object) -> object:
    """A redacted secret, as in a config that was stored, is no secret."""
    if isinstance(value, SecretStr):
        return value if value.get_secret_value() else None
    return None if value in ("", REDACTED) else value


def _one_line(text: str | None) -> str | None:
    if text is not None and _control_characters(text):
        raise ValueError("should be text without control characters")
    return text


def _path_prefix(text: str) -> str:
    prefix = text.lstrip("/")
    if ".." in prefix.split("/") or "." in prefix.split("/"):
        raise ValueError("should be a path inside the bucket, without '.' and '..'")
    _one_line(prefix)
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def _bucket_name(name: str) -> str:
    _one_line(name)
    return name.rstrip("/") or name  # PATH_PREFIX follows after a separator


def _remote(remote: str | None) -> str | None:
    if remote is None:
        return None
    _one_line(remote)
    if remote.startswith("-"):  # it would be taken for an option of rclone
        raise ValueError("should be the name of a remote in rclone.conf, or ':local:'")
    if redact(remote, ()) != remote:
        # a connection string is an argument of rclone, and arguments are visible to every user
        raise ValueError("should hold no credentials; keep them in rclone.conf or in the environment")
    return remote


def _endpoint(url: str | None) -> str | None:
    if url is not None and not re.match(r"https?://[^\s/]", url):
        raise ValueError("should be a URL that starts with https:// or http://")
    return _one_line(url)


def _as_tuple(value: object) -> object:
    """YAML has lists only, and one name need not be in one."""
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _signal_name(name: str) -> str:
    # What can't be caught, and what tells of a broken program, can't ask for a checkpoint.
    refused = ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGFPE", "SIGILL", "SIGBUS", "SIGABRT")
    if name not in signal.Signals.__members__ or name in refused:
        raise ValueError("should be the name of a signal that a program may handle, such as SIGUSR2")
    return name


Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0)]
Minutes = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Hours = Minutes
PositiveHours = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
SignalNames = Annotated[tuple[Annotated[str, AfterValidator(_signal_name)], ...], BeforeValidator(_as_tuple)]
Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
OptionalText = Annotated[str | None, BeforeValidator(_blank_is_none), AfterValidator(_one_line)]
Secret = Annotated[SecretStr | None, BeforeValidator(_no_secret)]
Directory = Annotated[Path, BeforeValidator(_directory)]
OptionalDirectory = Annotated[Path | None, BeforeValidator(_directory), BeforeValidator(_blank_is_none)]
BucketName = Annotated[str, AfterValidator(_bucket_name)]
PathPrefix = Annotated[str, AfterValidator(_path_prefix)]
RemoteName = Annotated[str | None, BeforeValidator(_blank_is_none), AfterValidator(_remote)]
Endpoint = Annotated[str | None, BeforeValidator(_blank_is_none), AfterValidator(_endpoint)]
