"""What rclone's failures mean, on what rclone 1.75 really says."""

import pytest

from linnaeus.errors import RemoteAuthError
from linnaeus.remote._classify import Failure, classify, last_words
from linnaeus.remote._failures import Failures

_SIGN_IN = "failed to authorize account: failed to authenticate: "
_GET = "failed to open source object: failed to GET for download: "
_READ = "read tcp 127.0.0.1:56776->127.0.0.1:40515: "

# status, the last message without its prefixes
REAL = [
    # Backblaze B2
    (1, f"{_SIGN_IN}Unknown 401 Unauthorized (401 unauthorized)", Failure.REFUSED),
    (7, f"{_SIGN_IN}Access denied (403 access_denied)", Failure.REFUSED),
    (1, "failed to HEAD for download: Unknown 401 Unauthorized (401 unknown)", Failure.REFUSED),
    (7, "failed to HEAD for download: Unknown 403 Forbidden (403 unknown)", Failure.REFUSED),
    (
        1,
        'you must use bucket(s) [{"4_zb000000000001" "zoo"}] with this application key',
        Failure.REFUSED,
    ),
    (
        7,
        f"{_GET}Cannot download file, download bandwidth or transaction (Class B) cap exceeded."
        " See the Caps & Alerts page to increase your cap. (403 download_cap_exceeded)",
        Failure.REFUSED,
    ),
    (1, "Cannot upload files, storage cap exceeded. (403 storage_cap_exceeded)", Failure.REFUSED),
    (1, f"{_GET}Authorization token has expired (401 expired_auth_token)", Failure.UNREACHABLE),
    (1, f"{_GET}no tomes available (503 service_unavailable): trying again in 1s", Failure.UNREACHABLE),
    (1, f"{_GET}Too many requests (429 too_many_requests): trying again in 1s", Failure.UNREACHABLE),
    (1, f"{_GET}An internal error occurred (500 internal_error)", Failure.UNREACHABLE),
    (
        1,
        'corrupted on transfer: SHA1 hashes differ want "ee6b55dfea82" vs got "1d6141286f59"',
        Failure.DAMAGED,
    ),
    (1, "Sha1 did not match data received (400 bad_request)", Failure.DAMAGED),
    # S3
    (
        7,
        "operation error S3: HeadObject, https response error StatusCode: 403, RequestID: 5,"
        " HostID: , api error Forbidden: Forbidden",
        Failure.REFUSED,
    ),
    (
        1,
        "operation error S3: ListObjectsV2, https response error StatusCode: 403, RequestID: 5,"
        " api error SignatureDoesNotMatch: The request signature we calculated does not match",
        Failure.REFUSED,
    ),
    (1, "operation error S3: GetObject, api error NoSuchKey: The key does not exist", Failure.MISSING_FILE),
    (
        1,
        "operation error S3: ListObjectsV2, api error NoSuchBucket: The bucket does not exist",
        Failure.MISSING_BUCKET,
    ),
    # any
    (4, "object not found", Failure.MISSING_FILE),
    (3, "error in ListJSON: directory not found", Failure.MISSING_BUCKET),
    (5, f"{_READ}read: connection reset by peer", Failure.UNREACHABLE),
    (5, "unexpected EOF", Failure.UNREACHABLE),
    (5, f"{_SIGN_IN}dial tcp 127.0.0.1:9: connect: connection refused", Failure.UNREACHABLE),
    (1, f"{_SIGN_IN}dial tcp: lookup nosuch.invalid on 10.0.0.1:53: no such host", Failure.UNREACHABLE),
    (5, f"{_SIGN_IN}{_READ}i/o timeout", Failure.TOO_SLOW),
    (5, "dial tcp 10.255.255.1:443: i/o timeout", Failure.TOO_SLOW),
    (5, "net/http: TLS handshake timeout", Failure.TOO_SLOW),
    (1, 'didn\'t find section in config file ("nosuch")', Failure.UNKNOWN_REMOTE),
    (1, "preallocate: file too big for remaining disk space", Failure.NO_SPACE),
    (1, "multi-thread copy: write x.pth.ac20c437.partial: no space left on device", Failure.NO_SPACE),
    (1, "write /c/x.pth: disk quota exceeded", Failure.NO_SPACE),
    (1, "open /c/x.pth.ac20c437.partial: read-only file system", Failure.NOT_WRITABLE),
    (1, "mkdir /c/d: permission denied", Failure.NOT_WRITABLE),
    (1, "mkdir /c/d: not a directory", Failure.NOT_WRITABLE),
    # never heard of
    (2, "Usage: rclone rc", Failure.UNREACHABLE),
    (1, "", Failure.UNREACHABLE),
]


@pytest.mark.parametrize(("status", "text", "failure"), REAL)
def test_a_real_message_is_understood(status, text, failure):
    """Each way to fail is told from the others."""
    assert classify(status, text) is failure


def test_the_status_decides_where_it_says_enough():
    """A name in the message can't turn a missing file into something else."""
    assert classify(4, "open no space left on device.pth: access denied") is Failure.MISSING_FILE
    assert classify(5, 'Get "http://h/forbidden.pth": unexpected EOF') is Failure.UNREACHABLE


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "Failed to rc: ",
        "Failed to rc: loopback: call failed: ",
        "Failed to rc with 2 errors: last error was: loopback: call failed: ",
        "Failed to rc with 11 errors: last error was: ",
    ],
)
def test_the_last_words_are_free_of_what_says_nothing(prefix):
    """What rclone puts before the reason is taken away."""
    assert (
        last_words(["first", f"{prefix}open /c/x: permission denied", ""]) == "open /c/x: permission denied"
    )


def test_last_words_are_short_and_may_be_missing():
    """At most 300 characters, without a stop at the end; of a silent child there are none."""
    assert last_words(["x" * 1000]) == "x" * 300
    assert last_words(["It is over."]) == "It is over"
    assert last_words([]) == ""
    assert last_words([""]) == ""


def test_a_bucket_that_was_deleted_is_missing():
    """B2 names it by its id then."""
    assert classify(1, "Bucket does not exist: 4_zb1 (400 bad_bucket_id)") is Failure.MISSING_BUCKET


def test_a_clock_that_is_wrong_is_the_advice():
    """Not credentials, which are as good as ever."""
    said = "RequestTimeTooSkewed: The difference between the request time and the current time is too large."
    error = Failures("bucket b").meaning(1, [f"{said} StatusCode: 403"], "listing", 1)
    assert isinstance(error, RemoteAuthError)
    assert "clock" in str(error)
