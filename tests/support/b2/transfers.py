"""The bytes of files: what an upload must prove, and what a download answers."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.message import Message
from typing import TypeAlias
from urllib.parse import quote, unquote

from .errors import B2Error
from .faults import Struck
from .operations import Document, file_document, part_document, stored_content_type
from .store import LARGE_FILE_SHA1, NO_SHA1, Bucket, Store, Version

Headers: TypeAlias = "Message[str, str]"

INFO_PREFIX = "x-bz-info-"
SHA1_AT_END = "hex_digits_at_end"
SHA1_UNCHECKED = "do_not_verify"
_SHA1_HEX_LENGTH = 40
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


@dataclass(frozen=True, slots=True)
class Download:
    """The answer to GET and HEAD of a file."""

    status: int
    headers: dict[str, str]
    data: bytes


def upload_file(store: Store, bucket: Bucket, headers: Headers, body: bytes, struck: Struck) -> Document:
    """Keep an uploaded file whose checksum holds."""
    data, sha1 = checked(headers, body)
    sha1 = struck.sha1(sha1, NO_SHA1)
    version = store.add(
        bucket,
        unquote(_required(headers, "X-Bz-File-Name")),
        "upload",
        data=data,
        sha1=sha1,
        content_type=stored_content_type(headers.get("Content-Type")),
        info=info_of(headers),
    )
    return file_document(version)


def upload_part(store: Store, file_id: str, headers: Headers, body: bytes) -> Document:
    """Keep an uploaded part whose checksum holds."""
    data, _ = checked(headers, body)
    part = store.add_part(file_id, int(_required(headers, "X-Bz-Part-Number")), data)
    return part_document(store.version(file_id), part)


def checked(headers: Headers, body: bytes) -> tuple[bytes, str]:
    """Return the file's bytes and SHA-1, having compared it with what the client claims.

    The claim is in `X-Bz-Content-Sha1`, or in the last 40 bytes of the body where that header says so.
    """
    claim = headers.get("X-Bz-Content-Sha1", "")
    if claim == SHA1_AT_END:
        body, claim = body[:-_SHA1_HEX_LENGTH], body[-_SHA1_HEX_LENGTH:].decode("latin-1")
    sha1 = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    if claim == SHA1_UNCHECKED:
        return body, f"unverified:{sha1}"
    if claim.lower() != sha1:
        raise B2Error("bad_request", "Sha1 did not match data received")
    return body, sha1


def info_of(headers: Headers) -> dict[str, str]:
    """Return the custom fields that an upload carries in its headers."""
    return {
        name.lower().removeprefix(INFO_PREFIX): unquote(value)
        for name, value in headers.items()
        if name.lower().startswith(INFO_PREFIX)
    }


def download(version: Version, range_header: str | None, struck: Struck) -> Download:
    """Return what a GET of `version` sends, the checksum always being that of the whole, true file."""
    short = struck.of_kind("short")
    data = version.data[: short.offset(len(version.data))] if short else version.data
    data = struck.damaged(data)
    headers = _file_headers(version, struck)
    span = _span(range_header, len(data))
    if span is None:
        return Download(200, headers, data)
    headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{len(data)}"
    return Download(206, headers, data[span.start : span.stop])


def _required(headers: Headers, name: str) -> str:
    value = headers.get(name)
    if value is None:
        raise B2Error("bad_request", f"required header {name} is missing")
    return value


def _file_headers(version: Version, struck: Struck) -> dict[str, str]:
    with_sha1 = struck.of_kind("no_checksum") is None
    info = {key: value for key, value in version.info.items() if with_sha1 or key != LARGE_FILE_SHA1}
    return {
        "Accept-Ranges": "bytes",
        "Content-Type": version.content_type,
        "X-Bz-Content-Sha1": struck.sha1(version.sha1, NO_SHA1),
        "X-Bz-File-Id": version.file_id,
        "X-Bz-File-Name": quote(version.name),
        "X-Bz-Upload-Timestamp": str(version.timestamp),
        **{f"X-Bz-Info-{key}": quote(value) for key, value in info.items()},
    }


def _span(range_header: str | None, total: int) -> range | None:
    """Return the bytes asked for; None for the whole file, which B2 also gives for a range it cannot read."""
    match = _RANGE.match(range_header or "")
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        start, stop = max(0, total - int(last)), total
    else:
        start, stop = int(first), min(total, int(last) + 1 if last else total)
    if start >= total:
        raise B2Error(
            "range_not_satisfiable", f"The Range in the request is outside the size of the file: {total}"
        )
    return range(start, stop) if (start, stop) != (0, total) and start < stop else None
