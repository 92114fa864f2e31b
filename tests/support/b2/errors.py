"""The errors B2 answers with: one JSON object of `status`, `code` and `message`.

Codes and their statuses are those of the public documentation of the B2 native API.
"""

from __future__ import annotations

STATUS_OF_CODE = {
    "bad_request": 400,
    "bad_bucket_id": 400,
    "duplicate_bucket_name": 400,
    "already_hidden": 400,
    "no_such_file": 400,
    "file_not_present": 400,
    "bad_auth_token": 401,
    "expired_auth_token": 401,
    "unauthorized": 401,
    "access_denied": 403,
    "download_cap_exceeded": 403,
    "storage_cap_exceeded": 403,
    "transaction_cap_exceeded": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "range_not_satisfiable": 416,
    "too_many_requests": 429,
    "internal_error": 500,
    "service_unavailable": 503,
}


class B2Error(Exception):
    """An answer other than success; the handler turns it into a response."""

    def __init__(self, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = STATUS_OF_CODE[code]
        self.retry_after = retry_after

    def document(self) -> dict[str, object]:
        """Return the JSON object that B2 sends as the body."""
        return {"status": self.status, "code": self.code, "message": self.message}
