"""How B2 lists a bucket: prefix, folders by a delimiter, and pages. Values in, values out."""

from __future__ import annotations

from dataclasses import dataclass

from .store import Bucket, Version

MAX_FILE_COUNT = 10_000
DEFAULT_FILE_COUNT = 100


@dataclass(frozen=True, slots=True)
class Query:
    """What a listing asks for; the defaults are B2's."""

    prefix: str = ""
    delimiter: str = ""
    start_name: str = ""
    start_id: str = ""
    max_count: int = DEFAULT_FILE_COUNT


@dataclass(frozen=True, slots=True)
class Page:
    """Entries (a folder is its name) and where the next page starts, None at the end."""

    entries: list[Version | str]
    next_name: str | None
    next_id: str | None


def newest_uploads(bucket: Bucket) -> list[Version]:
    """Return what is not hidden, one version per name, in order of names."""
    newest = []
    for name in sorted(bucket.versions):
        finished = [v for v in bucket.versions[name] if v.action != "start"]
        if finished and finished[-1].action == "upload":
            newest.append(finished[-1])
    return newest


def all_versions(bucket: Bucket) -> list[Version]:
    """Return every version, in order of names, newest first within a name."""
    return [version for name in sorted(bucket.versions) for version in reversed(bucket.versions[name])]


def select(versions: list[Version], query: Query) -> Page:
    """Return the page of `versions` that `query` asks for."""
    entries = _grouped(_from_start(versions, query), query)
    count = min(query.max_count or DEFAULT_FILE_COUNT, MAX_FILE_COUNT)
    if len(entries) <= count:
        return Page(entries, None, None)
    following = entries[count]
    if isinstance(following, str):
        return Page(entries[:count], following, None)
    return Page(entries[:count], following.name, following.file_id)


def _from_start(versions: list[Version], query: Query) -> list[Version]:
    kept = [v for v in versions if v.name >= query.start_name and v.name.startswith(query.prefix)]
    for index, version in enumerate(kept):
        if version.name == query.start_name and version.file_id == query.start_id:
            return kept[index:]
    return kept


def _grouped(versions: list[Version], query: Query) -> list[Version | str]:
    entries: list[Version | str] = []
    for version in versions:
        folder = _folder(version.name, query)
        if folder is None:
            entries.append(version)
        elif not entries or entries[-1] != folder:
            entries.append(folder)
    return entries


def _folder(name: str, query: Query) -> str | None:
    if not query.delimiter:
        return None
    head, found, _ = name[len(query.prefix) :].partition(query.delimiter)
    return query.prefix + head + found if found else None
