"""What Backblaze B2 is asked itself, since rclone can't tell: is there such a bucket, what was begun in it.

rclone calls a bucket "not found" whenever it could not look for it, also when B2 was busy or refused. And its
`cleanup` of unfinished large files cancels everybody's, and removes with them whatever stands behind another
version, the good copy behind a begun upload included.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from linnaeus.errors import LinnaeusError, RemoteError, RemoteNotFoundError, RemoteTimeoutError
from linnaeus.remote._failures import Failures
from linnaeus.remote._retry import Retry, worth_retrying

# Source: https://www.backblaze.com/apidocs/introduction-to-the-b2-native-api
_HOME = "https://api.backblazeb2.com"
_SIGN_IN = "/b2api/v4/b2_authorize_account"
_CALLS = "/b2api/v1/"
_PAGE_FILES = 100
_OPERATION = "looking up the bucket"
_INFO = "linnaeus-run"
_GONE = "No active upload"

Answer = Mapping[str, Any]


def mark_header(mark: str) -> str:
    """Return the header of an upload that says whose it is."""
    return f"X-Bz-Info-{_INFO}: {mark}"


@dataclass(frozen=True, slots=True)
class B2Bucket:
    """One folder of a bucket.

    Attributes:
        key_id: Half of the application key.
        key: The other half.
        endpoint: Another API endpoint than B2's own.
        bucket: Its name.
        prefix: The folder.
        seconds: How long to wait for an answer.
        retry: How often to ask.
        failures: Makes errors of what B2 says.
    """

    key_id: str = field(repr=False)
    key: str = field(repr=False)
    endpoint: str | None
    bucket: str
    prefix: str
    seconds: float
    retry: Retry
    failures: Failures

    def require(self) -> None:
        """Look whether there is such a bucket.

        Raises:
            RemoteNotFoundError: There is none.
            RemoteError: B2 refuses or can't be reached.
        """
        self._signed_in()

    def cancel(self, mark: str) -> list[str]:
        """Cancel the large files that were begun and never ended and are of `mark`; return their names.

        Raises:
            RemoteError: B2 refuses or can't be reached.
        """
        api, token, bucket_id = self._signed_in()
        ours = [f for f in self._begun(api, token, bucket_id) if f["fileInfo"].get(_INFO) == mark]
        for file in ours:
            self._cancel(f"{api}b2_cancel_large_file", token, file["fileId"])
        return [str(file["fileName"]).removeprefix(self.prefix) for file in ours]

    def _signed_in(self) -> tuple[str, str, str]:
        """Return where to ask, the token to show, and the bucket's id."""
        basic = base64.b64encode(f"{self.key_id}:{self.key}".encode()).decode()
        account = self._ask((self.endpoint or _HOME) + _SIGN_IN, f"Basic {basic}")
        storage, token = account["apiInfo"]["storageApi"], str(account["authorizationToken"])
        api = storage["apiUrl"] + _CALLS
        for bucket in storage["allowed"].get("buckets") or ():  # a key that is for some buckets may list none
            if bucket.get("name") == self.bucket:
                return api, token, str(bucket["id"])
        wanted = {"accountId": account["accountId"], "bucketName": self.bucket}
        buckets = self._ask(f"{api}b2_list_buckets", token, wanted)["buckets"]
        if not buckets:
            raise self.failures.error(RemoteNotFoundError, _OPERATION, 1, "there is no such bucket")
        return api, token, str(buckets[0]["bucketId"])

    def _cancel(self, url: str, token: str, file_id: str) -> None:
        try:
            self._ask(url, token, {"fileId": file_id})
        except RemoteError as error:
            # The answer to an earlier try was lost, or somebody else was faster: what was to be done is done.
            if _GONE not in (error.tail or ""):
                raise

    def _begun(self, api: str, token: str, bucket_id: str) -> Iterator[Answer]:
        wanted = {"bucketId": bucket_id, "namePrefix": self.prefix, "maxFileCount": _PAGE_FILES}
        while True:
            page = self._ask(f"{api}b2_list_unfinished_large_files", token, wanted)
            yield from page["files"]
            if not page.get("nextFileId"):
                return
            wanted["startFileId"] = page["nextFileId"]

    def _ask(self, url: str, authorization: str, body: Answer | None = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Authorization": authorization})  # noqa: S310 - B2's, or the config's

        def attempt(number: int) -> Answer:
            try:
                with urllib.request.urlopen(request, timeout=self.seconds) as answer:  # noqa: S310
                    found: Answer = json.loads(answer.read())
                    return found
            except urllib.error.HTTPError as error:
                raise self._refused(error, number) from None
            except TimeoutError:
                raise self.failures.error(RemoteTimeoutError, _OPERATION, number, "no answer") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                # Without the cause, which may hold the request and its authorization.
                raise self.failures.meaning(1, [str(error)], _OPERATION, number) from None

        return self.retry.run(attempt, worth_retrying)

    def _refused(self, error: urllib.error.HTTPError, attempt: int) -> LinnaeusError:
        words = f"({error.code} unknown)"
        with (
            error,
            contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError),
        ):
            said = json.loads(error.read())
            words = f"{said['message']} ({error.code} {said['code']})"
        return self.failures.meaning(1, [words], _OPERATION, attempt)
