"""HTTP for the test server: one request in, one answer out, a record of it kept, faults applied on the way.

An answer goes out only after the whole request body has been read, unless a fault breaks the connection: an
early answer could be lost while the client is still sending.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from .errors import B2Error
from .faults import NO_FAULTS, Struck
from .journal import Record
from .operations import CALLS, Call, Document, subject
from .store import Version
from .transfers import download, upload_file, upload_part
from .wire import Wire, WireBrokenError

if TYPE_CHECKING:
    from .http_server import HttpServer

AUTHORIZE_PATH = "/b2api/v4/b2_authorize_account"
UPLOADS = {"b2_upload_file": "upload", "b2_upload_part": "upload_part"}
TRANSFERS = ("download", *UPLOADS.values())  # their bodies are files, which are damaged elsewhere
DOWNLOAD_BY_ID = "b2_download_file_by_id"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: a status, a body, and the headers beside its length."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request under way: its operation, its record, and the faults it meets."""

    operation: str
    record: Record
    struck: Struck


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "b2"
    # Headers and body are separate writes; without this each answer would wait for a delayed acknowledgement.
    disable_nagle_algorithm = True
    server: HttpServer

    def setup(self) -> None:
        """Open the connection's files and the wire over them."""
        super().setup()
        self.wire = Wire(
            self.connection,
            self.rfile,
            self.wfile,
            self.server.stopping,
            lambda: self.server.bytes_per_second,
            self.server.account.expire_tokens,
        )

    def handle(self) -> None:
        """Serve requests until the connection ends, quietly when the other side or a fault ends it."""
        try:
            super().handle()
        except (WireBrokenError, ConnectionError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing; the journal has it."""

    def do_HEAD(self) -> None:
        """Serve the headers of a download."""
        self._serve("head", self._file_name(), self._download)

    def do_GET(self) -> None:
        """Serve authorization and downloads."""
        if urlsplit(self.path).path == AUTHORIZE_PATH:
            self._serve("authorize", "", self._authorize)
        else:
            self._serve("download", self._file_name(), self._download)

    def do_POST(self) -> None:
        """Serve uploads and the JSON calls."""
        call, target = _call_and_target(self.path)
        if call in UPLOADS:
            self._serve(UPLOADS[call], self._upload_name(target), partial(self._upload, target))
            return
        request: Document = json.loads(self.rfile.read(self._body_length()) or b"{}")
        if call in CALLS:
            answer = partial(self._call, CALLS[call], request)
            name = subject(request) or self._name_of(request.get("fileId", ""))
            self._serve(CALLS[call].operation, name, answer)
        else:
            self._serve("unknown", self.path, _refuse)

    def _serve(self, operation: str, name: str, answer: Callable[[Exchange], Answer]) -> None:
        """Record the request, let the faults strike, and send what `answer` makes of it."""
        record = self.server.journal.open(operation, name, self.headers.get("Range"))
        exchange = Exchange(operation, record, self.server.faults.take(operation, name))
        if exchange.struck.of_kind("refuse"):
            self.wire.reset()
        try:
            made = answer(exchange)
        except B2Error as error:
            made = _error_answer(error)
        if exchange.struck.of_kind("lost"):
            self.wire.reset()
        self._send(made, exchange)

    def _send(self, answer: Answer, exchange: Exchange) -> None:
        with_body = self.command != "HEAD"
        # An upload's fault has struck its request body; that of a HEAD strikes in place of the headers.
        struck = NO_FAULTS if exchange.operation in UPLOADS.values() else exchange.struck
        if exchange.operation not in TRANSFERS:
            answer = Answer(answer.status, struck.damaged(answer.body), answer.headers)
        if not with_body:
            self.wire.write(b"", struck, exchange.record)
        exchange.record.status = answer.status
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wire.write(answer.body, struck, exchange.record)

    def _authorize(self, exchange: Exchange) -> Answer:
        exchange.struck.raise_answer()
        server = self.server
        return _json_answer(server.account.authorize(self._authorization(), server.endpoint, server.store))

    def _call(self, call: Call, request: Document, exchange: Exchange) -> Answer:
        exchange.struck.raise_answer()
        self.server.account.check(self._authorization(), call.capability)
        try:
            return _json_answer(call.answer(self.server.operations, request))
        except KeyError as missing:
            raise B2Error("bad_request", f"required field {missing} is missing") from missing

    def _download(self, exchange: Exchange) -> Answer:
        exchange.struck.raise_answer()
        self.server.account.check(self._authorization(), "readFiles")
        made = download(self._file(), self.headers.get("Range"), exchange.struck)
        return Answer(made.status, made.data, made.headers)

    def _upload(self, target: str, exchange: Exchange) -> Answer:
        body = self.wire.read(self._body_length(), exchange.struck, exchange.record)
        exchange.struck.raise_answer()
        self.server.account.check_upload(self._authorization(), target)
        body = exchange.struck.damaged(body)
        store = self.server.store
        if exchange.operation == "upload_part":
            return _json_answer(upload_part(store, target, self.headers, body))
        bucket = store.bucket_by_id(target)
        return _json_answer(upload_file(store, bucket, self.headers, body, exchange.struck))

    def _file(self) -> Version:
        """Return the version that the path of a download names."""
        call, _ = _call_and_target(self.path)
        if call == DOWNLOAD_BY_ID:
            return self._finished(self._file_id())
        bucket_name, name = _bucket_and_name(self.path)
        version = self.server.store.visible(self.server.store.bucket(bucket_name), name)
        if version is None or not self.server.account.may_use(bucket_name):
            raise B2Error("not_found", f"File with such name does not exist: {name}")
        return version

    def _finished(self, file_id: str) -> Version:
        version = self.server.store.version(file_id)
        if version.action != "upload":
            raise B2Error("not_found", f"File with such id does not exist: {file_id}")
        return version

    def _file_name(self) -> str:
        """Return what a download is of, as far as the path and the store tell."""
        call, _ = _call_and_target(self.path)
        return self._name_of(self._file_id()) if call == DOWNLOAD_BY_ID else _bucket_and_name(self.path)[1]

    def _upload_name(self, target: str) -> str:
        name = self.headers.get("X-Bz-File-Name")
        return self._name_of(target) if name is None else unquote(name)

    def _name_of(self, file_id: str) -> str:
        try:
            return self.server.store.version(file_id).name
        except B2Error:
            return file_id

    def _file_id(self) -> str:
        return parse_qs(urlsplit(self.path).query).get("fileId", [""])[0]

    def _authorization(self) -> str | None:
        return self.headers.get("Authorization")

    def _body_length(self) -> int:
        return int(self.headers.get("Content-Length", "0"))


def _call_and_target(path: str) -> tuple[str, str]:
    """Split `/b2api/vN/CALL/TARGET`; both are "" for other paths."""
    root, _, rest = urlsplit(path).path.lstrip("/").partition("/")
    call, _, target = rest.partition("/")[2].partition("/")
    return (call, target) if root == "b2api" else ("", "")


def _bucket_and_name(path: str) -> tuple[str, str]:
    """Split `/file/BUCKET/NAME`."""
    root, _, rest = urlsplit(path).path.lstrip("/").partition("/")
    bucket, _, name = rest.partition("/")
    return (unquote(bucket), unquote(name)) if root == "file" else ("", "")


def _refuse(_: Exchange) -> Answer:
    raise B2Error("bad_request", "Unknown API call")


def _json_answer(document: Document, status: int = 200) -> Answer:
    body = json.dumps(document, indent=2).encode()
    return Answer(status, body, {"Content-Type": "application/json;charset=utf-8"})


def _error_answer(error: B2Error) -> Answer:
    answer = _json_answer(error.document(), error.status)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer
