"""Other homes than a name's: `https://…` held to a digest, and `hf://org/repo/file@revision`."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from linnaeus import pth
from linnaeus.errors import (
    CheckpointNotFoundError,
    ConfigError,
    IdentifierError,
    RemoteAuthError,
    RemoteError,
)
from linnaeus.files import publish_new
from linnaeus.remote import open_website
from linnaeus.resolving._fetch import fetch_from
from linnaeus.resolving._identifier import check_name
from linnaeus.resolving._pins import expected_of, mismatch, split_pin
from linnaeus.resolving._records import note, sha256_of

if TYPE_CHECKING:
    from linnaeus.config import BucketConfig
    from linnaeus.remote import Progress

_HF = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^@?#]+?)(?:@(?P<revision>[\w./-]+))?")
_NUM_DIGITS = 12


def resolve_url(
    identifier: str,
    cache_dir: str,
    bucket: BucketConfig,
    *,
    progress: Progress | None,
    offline: bool,
    lock: Path | None,
) -> str:
    """Return the local file of a checkpoint that has its home elsewhere.

    Args:
        identifier: `https://…` or `hf://…`; `@sha256:…` may follow.
        cache_dir: Where files from web servers are kept, under a name that holds their digest.
        bucket: How patiently to transfer.
        progress: Called now and then.
        offline: Whether to make do with what is here.
        lock: A lock file that names are held to.
    """
    url, pinned = split_pin(identifier)
    _refuse_directory(url)
    expected = expected_of(url, pinned, lock)
    if url.startswith("hf://"):
        path = _from_hub(url, offline=offline)
        _require(path, url, expected)
        return str(path)
    if not url.startswith("https://"):
        raise IdentifierError(identifier=url, reason="of URLs, only https:// and hf:// are known")
    if expected is None:
        reason = (
            "a file of a web server may change at any time: add @sha256:… or record it with linnaeus lock"
        )
        raise IdentifierError(identifier=url, reason=reason)
    return str(_from_web(url, Path(cache_dir), bucket, expected, progress, offline=offline))


def record_url(
    identifier: str, cache_dir: str, bucket: BucketConfig, *, progress: Progress | None, offline: bool
) -> Path:
    """Fetch a file of a web server whose digest is about to be recorded, and keep it under its digest."""
    url, pinned = split_pin(identifier)
    _refuse_directory(url)
    if pinned is not None or offline:
        return _from_web(url, Path(cache_dir), bucket, pinned, progress, offline=offline)
    arrived = _from_web(url, Path(cache_dir), bucket, None, progress, offline=False)
    digest = sha256_of(arrived)
    final = _in_cache(url, Path(cache_dir), digest)
    publish_new(arrived, final)
    note(final, digest, url)
    return final


def _refuse_directory(url: str) -> None:
    if PurePosixPath(urlsplit(url).path.partition("@")[0]).suffix == pth.SHARDED:
        reason = (
            "it names a directory of shards, and only files can be had from there;"
            f" linnaeus convert NAME{pth.SHARDED} NAME.pth makes one file of it"
        )
        raise IdentifierError(identifier=url, reason=reason)


def _in_cache(url: str, cache_dir: Path, expected: str | None) -> Path:
    """Return where a URL's file is kept: under a name that holds its digest, since URLs share names."""
    path = PurePosixPath(check_name(unquote(PurePosixPath(urlsplit(url).path).name)))
    return cache_dir / f"{path.stem}-{(expected or os.urandom(6).hex())[:_NUM_DIGITS]}{path.suffix}"


def _from_web(
    url: str,
    cache_dir: Path,
    bucket: BucketConfig,
    expected: str | None,
    progress: Progress | None,
    *,
    offline: bool,
) -> Path:
    parts = urlsplit(url)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise IdentifierError(identifier=parts.hostname or "", reason="its URL has a query or credentials")
    name = unquote(PurePosixPath(parts.path).name)
    final = _in_cache(url, cache_dir, expected)
    if final.is_file() and expected is not None:
        _require(final, url, expected)
        return final
    if offline:
        raise CheckpointNotFoundError(
            identifier=url,
            places=[f"not in the cache {cache_dir}", "nobody else was asked (ENV.INPUT.OFFLINE is true)"],
        )
    folder = url[: -len(parts.path)] + parts.path.rpartition("/")[0] + "/"
    website = open_website(folder, bucket)
    return fetch_from(website, name, final, progress=progress, expected=expected)


def _require(path: Path, url: str, expected: str | None) -> None:
    pth.require_valid(path)
    found = sha256_of(path) if expected is not None else None
    if expected is not None and found != expected:
        raise mismatch(f"{path} from {url}", expected, str(found))


def _from_hub(url: str, *, offline: bool) -> Path:
    told = _HF.fullmatch(url)
    if told is None:
        raise IdentifierError(identifier=url, reason="it is not of the form hf://org/repo/file@revision")
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        expected = "needs the package huggingface_hub: pip install 'linnaeus[hub]'"
        raise ConfigError(field=url, expected=expected) from error
    place = f"the hub's {told['repo']}"
    try:
        found = hf_hub_download(
            told["repo"], told["file"], revision=told["revision"], local_files_only=offline
        )
    except (errors.GatedRepoError, errors.HFValidationError) as error:
        raise RemoteAuthError(
            remote=place, operation=f"download of {told['file']}", tail=_told(error)
        ) from error
    except (errors.EntryNotFoundError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        if isinstance(error, errors.LocalEntryNotFoundError) and not offline:
            raise RemoteError(
                remote=place, operation=f"download of {told['file']}", tail=_told(error)
            ) from error
        raise CheckpointNotFoundError(identifier=url, places=[f"not in {place}: {_told(error)}"]) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise RemoteError(remote=place, operation=f"download of {told['file']}", tail=_told(error)) from error
    return Path(found)


def _told(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
