"""Who may do what: the one application key, its capabilities, and the tokens given out for it."""

from __future__ import annotations

import base64
import binascii
import secrets
import threading
from collections.abc import Sequence

from .errors import B2Error
from .store import Store

ALL_CAPABILITIES = (
    "listBuckets", "listAllBucketNames", "readBuckets", "writeBuckets", "deleteBuckets",
    "listFiles", "readFiles", "shareFiles", "writeFiles", "deleteFiles",
)  # fmt: skip
ACCOUNT_ID = "0123456789ab"
RECOMMENDED_PART_BYTES = 100_000_000
SMALLEST_PART_BYTES = 5_000_000


class Account:
    """The account's one key. `only_buckets` restricts it to some buckets; None is all of them."""

    def __init__(
        self, key_id: str, key: str, capabilities: Sequence[str], only_buckets: Sequence[str] | None
    ) -> None:
        self._key_id = key_id
        self._key = key
        self._capabilities = tuple(capabilities)
        self._only_buckets = only_buckets
        self._lock = threading.Lock()
        self._tokens: set[str] = set()
        self._upload_tokens: dict[str, str] = {}

    def authorize(self, basic: str | None, endpoint: str, store: Store) -> dict[str, object]:
        """Answer b2_authorize_account (version 4) for a Basic `Authorization` header."""
        if _decoded(basic) != f"{self._key_id}:{self._key}":
            raise B2Error("unauthorized", "")  # the message is empty in the wild too
        storage = {
            "absoluteMinimumPartSize": SMALLEST_PART_BYTES,
            "allowed": {
                "buckets": self._allowed_buckets(store),
                "capabilities": list(self._capabilities),
                "namePrefix": None,
            },
            "apiUrl": endpoint,
            "downloadUrl": endpoint,
            "recommendedPartSize": RECOMMENDED_PART_BYTES,
            "s3ApiUrl": endpoint,
        }
        return {
            "accountId": ACCOUNT_ID,
            "apiInfo": {"storageApi": storage},
            "applicationKeyExpirationTimestamp": None,
            "authorizationToken": self._new_token(),
        }

    def check(self, token: str | None, capability: str) -> None:
        """Raise unless `token` was given out and the key has `capability`."""
        with self._lock:
            known = token in self._tokens
        if not token:
            raise B2Error("bad_auth_token", "Authorization header is missing")
        if not known:
            raise B2Error("bad_auth_token", "Invalid authorization token")
        if capability not in self._capabilities:
            raise B2Error("unauthorized", f"Application key is missing the {capability} capability")

    def may_use(self, bucket_name: str) -> bool:
        """Return whether the key reaches this bucket."""
        return self._only_buckets is None or bucket_name in self._only_buckets

    def new_upload_token(self, target: str) -> str:
        """Give out a token for uploads to `target`, a bucket's or a large file's id."""
        token = f"4_u{secrets.token_hex(12)}"
        with self._lock:
            self._upload_tokens[token] = target
        return token

    def check_upload(self, token: str | None, target: str) -> None:
        """Raise unless `token` was given out for uploads to `target`."""
        with self._lock:
            if self._upload_tokens.get(token or "") != target:
                raise B2Error("bad_auth_token", "Invalid upload authorization token")

    def expire_tokens(self) -> None:
        """Forget every token; clients must authorize again."""
        with self._lock:
            self._tokens.clear()
            self._upload_tokens.clear()

    def _new_token(self) -> str:
        token = f"4_{secrets.token_hex(20)}"
        with self._lock:
            self._tokens.add(token)
        return token

    def _allowed_buckets(self, store: Store) -> list[dict[str, object]] | None:
        if self._only_buckets is None:
            return None
        return [{"id": b.bucket_id, "name": b.name} for b in store.buckets() if self.may_use(b.name)]


def _decoded(basic: str | None) -> str:
    scheme, _, encoded = (basic or "").partition(" ")
    if scheme != "Basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
