"""The calls of the native API that are JSON in and JSON out: everything but the bytes of files themselves.

Each takes the request's object and returns the answer's. Shapes are those of API version 1, which rclone
speaks after it has authorized with version 4; later versions differ in optional fields only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .account import ACCOUNT_ID, Account
from .errors import B2Error
from .listing import Page, Query, all_versions, newest_uploads, select
from .store import Bucket, Part, Store, Version

Document: TypeAlias = dict[str, Any]

CONTENT_TYPE_BY_SERVER = "b2/x-auto"


@dataclass(frozen=True, slots=True)
class Call:
    """One call: the name that tests know it by, the capability it needs, and what answers it."""

    operation: str
    capability: str
    answer: Callable[[Operations, Document], Document]


class Operations:
    """The JSON calls upon one store."""

    def __init__(self, store: Store, account: Account, endpoint: Callable[[], str]) -> None:
        self._store = store
        self._account = account
        self._endpoint = endpoint

    def list_buckets(self, request: Document) -> Document:
        """List the account's buckets, or the one of the given name or id."""
        wanted = [
            bucket
            for bucket in self._store.buckets()
            if request.get("bucketName", bucket.name) == bucket.name
            and request.get("bucketId", bucket.bucket_id) == bucket.bucket_id
            and self._account.may_use(bucket.name)
        ]
        return {"buckets": [bucket_document(bucket) for bucket in wanted]}

    def create_bucket(self, request: Document) -> Document:
        """Make a bucket."""
        return bucket_document(self._store.create_bucket(request["bucketName"]))

    def delete_bucket(self, request: Document) -> Document:
        """Delete an empty bucket."""
        return bucket_document(self._store.delete_bucket(request["bucketId"]))

    def list_file_names(self, request: Document) -> Document:
        """List what is not hidden, each name once."""
        with self._store.lock:
            page = select(newest_uploads(self._bucket(request)), _query(request))
        return {"files": _entries(page), "nextFileName": page.next_name}

    def list_file_versions(self, request: Document) -> Document:
        """List every version, hide markers and unfinished large files among them."""
        with self._store.lock:
            page = select(all_versions(self._bucket(request)), _query(request))
        return {"files": _entries(page), "nextFileName": page.next_name, "nextFileId": page.next_id}

    def get_file_info(self, request: Document) -> Document:
        """Describe one version."""
        return file_document(self._store.version(request["fileId"]))

    def get_upload_url(self, request: Document) -> Document:
        """Give out a place to upload whole files to."""
        bucket = self._bucket(request)
        token = self._account.new_upload_token(bucket.bucket_id)
        url = f"{self._endpoint()}/b2api/v1/b2_upload_file/{bucket.bucket_id}"
        return {"bucketId": bucket.bucket_id, "uploadUrl": url, "authorizationToken": token}

    def start_large_file(self, request: Document) -> Document:
        """Begin a file that comes in parts."""
        version = self._store.add(
            self._bucket(request),
            request["fileName"],
            "start",
            content_type=stored_content_type(request.get("contentType")),
            info=dict(request.get("fileInfo") or {}),
        )
        return file_document(version)

    def get_upload_part_url(self, request: Document) -> Document:
        """Give out a place to upload parts to."""
        version = self._store.unfinished(request["fileId"])
        token = self._account.new_upload_token(version.file_id)
        url = f"{self._endpoint()}/b2api/v1/b2_upload_part/{version.file_id}"
        return {"fileId": version.file_id, "uploadUrl": url, "authorizationToken": token}

    def list_parts(self, request: Document) -> Document:
        """List the parts that an unfinished file has."""
        with self._store.lock:
            version = self._store.unfinished(request["fileId"])
            first, count = request.get("startPartNumber") or 1, request.get("maxPartCount") or 100
            numbers = [number for number in sorted(version.parts) if number >= first]
            parts = [part_document(version, version.parts[number]) for number in numbers[:count]]
        return {"parts": parts, "nextPartNumber": numbers[count] if len(numbers) > count else None}

    def list_unfinished_large_files(self, request: Document) -> Document:
        """List the files that were started and neither finished nor cancelled."""
        prefix, count = request.get("namePrefix") or "", request.get("maxFileCount") or 100
        with self._store.lock:
            found = [
                file_document(version)
                for version in all_versions(self._bucket(request))
                if version.action == "start"
                and version.name.startswith(prefix)
                and version.file_id >= (request.get("startFileId") or "")
            ]
        found.sort(key=lambda document: document["fileId"])
        return {"files": found[:count], "nextFileId": found[count]["fileId"] if len(found) > count else None}

    def finish_large_file(self, request: Document) -> Document:
        """Make one file of the parts."""
        return file_document(self._store.finish(request["fileId"], list(request["partSha1Array"])))

    def cancel_large_file(self, request: Document) -> Document:
        """Forget a file that was started."""
        version = self._store.unfinished(request["fileId"])
        self._store.delete(version.file_id, version.name)
        return {
            "fileId": version.file_id,
            "fileName": version.name,
            "accountId": ACCOUNT_ID,
            "bucketId": version.bucket_id,
        }

    def copy_file(self, request: Document) -> Document:
        """Copy a whole version, with its own description or a new one."""
        source = self._store.version(request["sourceFileId"])
        replace = request.get("metadataDirective") == "REPLACE"
        version = self._store.add(
            self._store.bucket_by_id(request.get("destinationBucketId") or source.bucket_id),
            request["fileName"],
            "upload",
            data=source.data,
            sha1=source.sha1,
            content_type=stored_content_type(request.get("contentType")) if replace else source.content_type,
            info=dict(request.get("fileInfo") or {}) if replace else dict(source.info),
        )
        return file_document(version)

    def hide_file(self, request: Document) -> Document:
        """Hide a name."""
        return file_document(self._store.hide(self._bucket(request), request["fileName"]))

    def delete_file_version(self, request: Document) -> Document:
        """Delete one version."""
        version = self._store.delete(request["fileId"], request["fileName"])
        return {"fileId": version.file_id, "fileName": version.name}

    def get_download_authorization(self, request: Document) -> Document:
        """Give out a token for downloads under a prefix."""
        bucket = self._bucket(request)
        token = self._account.new_upload_token(f"download {bucket.bucket_id}")
        prefix = request["fileNamePrefix"]
        return {"bucketId": bucket.bucket_id, "fileNamePrefix": prefix, "authorizationToken": token}

    def _bucket(self, request: Document) -> Bucket:
        bucket = self._store.bucket_by_id(request["bucketId"])
        if not self._account.may_use(bucket.name):
            raise B2Error("unauthorized", "Application key is restricted to other buckets")
        return bucket


CALLS = {
    "b2_list_buckets": Call("list_buckets", "listBuckets", Operations.list_buckets),
    "b2_create_bucket": Call("create_bucket", "writeBuckets", Operations.create_bucket),
    "b2_delete_bucket": Call("delete_bucket", "deleteBuckets", Operations.delete_bucket),
    "b2_list_file_names": Call("list", "listFiles", Operations.list_file_names),
    "b2_list_file_versions": Call("list_versions", "listFiles", Operations.list_file_versions),
    "b2_get_file_info": Call("get_file_info", "readFiles", Operations.get_file_info),
    "b2_get_upload_url": Call("get_upload_url", "writeFiles", Operations.get_upload_url),
    "b2_start_large_file": Call("start_large_file", "writeFiles", Operations.start_large_file),
    "b2_get_upload_part_url": Call("get_upload_part_url", "writeFiles", Operations.get_upload_part_url),
    "b2_list_parts": Call("list_parts", "writeFiles", Operations.list_parts),
    "b2_list_unfinished_large_files": Call(
        "list_unfinished_large_files", "listFiles", Operations.list_unfinished_large_files
    ),
    "b2_finish_large_file": Call("finish_large_file", "writeFiles", Operations.finish_large_file),
    "b2_cancel_large_file": Call("cancel_large_file", "writeFiles", Operations.cancel_large_file),
    "b2_copy_file": Call("copy_file", "writeFiles", Operations.copy_file),
    "b2_hide_file": Call("hide_file", "writeFiles", Operations.hide_file),
    "b2_delete_file_version": Call("delete_file_version", "deleteFiles", Operations.delete_file_version),
    "b2_get_download_authorization": Call(
        "get_download_authorization", "shareFiles", Operations.get_download_authorization
    ),
}


def subject(request: Document) -> str:
    """Return what a request is about, for the journal and for faults by name."""
    for key in ("fileName", "prefix", "namePrefix", "bucketName"):
        if request.get(key):
            return str(request[key])
    return ""


def stored_content_type(sent: str | None) -> str:
    """Return the type to keep; B2 chooses one where the client leaves it to B2."""
    return sent if sent and sent != CONTENT_TYPE_BY_SERVER else "application/octet-stream"


def bucket_document(bucket: Bucket) -> Document:
    """Describe a bucket as B2 does."""
    return {
        "accountId": ACCOUNT_ID,
        "bucketId": bucket.bucket_id,
        "bucketInfo": {},
        "bucketName": bucket.name,
        "bucketType": "allPrivate",
        "corsRules": [],
        "lifecycleRules": [],
        "revision": 1,
    }


def file_document(version: Version) -> Document:
    """Describe a version as B2 does; `size` beside `contentLength` is what version 1 of the API adds."""
    hidden = version.action == "hide"
    return {
        "accountId": ACCOUNT_ID,
        "action": version.action,
        "bucketId": version.bucket_id,
        "contentLength": len(version.data),
        "contentSha1": None if hidden else version.sha1,
        "contentType": "application/x-bz-hide-marker" if hidden else version.content_type,
        "fileId": version.file_id,
        "fileInfo": dict(version.info),
        "fileName": version.name,
        "size": len(version.data),
        "uploadTimestamp": version.timestamp,
    }


def part_document(version: Version, part: Part) -> Document:
    """Describe a part as B2 does."""
    return {
        "fileId": version.file_id,
        "partNumber": part.number,
        "contentLength": len(part.data),
        "contentSha1": part.sha1,
        "uploadTimestamp": part.timestamp,
    }


def _folder_document(name: str) -> Document:
    return {
        "action": "folder",
        "contentLength": 0,
        "contentSha1": None,
        "contentType": None,
        "fileId": None,
        "fileInfo": {},
        "fileName": name,
        "size": 0,
        "uploadTimestamp": 0,
    }


def _entries(page: Page) -> list[Document]:
    return [_folder_document(e) if isinstance(e, str) else file_document(e) for e in page.entries]


def _query(request: Document) -> Query:
    return Query(
        prefix=request.get("prefix") or "",
        delimiter=request.get("delimiter") or "",
        start_name=request.get("startFileName") or "",
        start_id=request.get("startFileId") or "",
        max_count=request.get("maxFileCount") or 0,
    )
