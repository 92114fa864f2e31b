"""Uploading: checked before, verified afterwards, sent once, other content never replaced unasked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import linnaeus
from linnaeus.errors import (
    CheckpointInvalidError,
    CheckpointNotFoundError,
    IdentifierError,
    RemoteAuthError,
    RemoteConflictError,
    RemoteError,
    RemoteNotFoundError,
    UnsafeCheckpointError,
)
from linnaeus.remote import Progress, Remote
from linnaeus.resolving import resolve_in
from linnaeus.saving import _upload, upload
from support.b2_server import B2Server
from support.buckets import BUCKET, PREFIX, b2_bucket, directory_bucket, remote_bucket
from support.directories import content
from support.s3_server import S3Server, serve_s3

OBJECT = f"{PREFIX}x.pth"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[B2Server]:
    """A B2 server with an empty bucket, whose one key may do everything everywhere."""
    with B2Server(buckets=[BUCKET]) as running:
        for name, value in running.env().items():
            monkeypatch.setenv(name, value)
        yield running


@dataclass(frozen=True)
class Swapping:
    """A bucket in which other bytes arrive than were sent."""

    remote: Remote
    instead: Path

    @property
    def place(self) -> str:
        """The place's name."""
        return self.remote.place

    def __getattr__(self, name: str) -> object:
        return getattr(self.remote, name)

    def send(self, source: Path, name: str, *, progress: Progress | None = None) -> None:
        """Send the other file."""
        self.remote.send(self.instead, name, progress=progress)


def test_a_checkpoint_arrives_whole_and_its_hash_is_compared(server, checkpoint_file, checkpoint_bytes):
    """The object is NAME/PATH_PREFIX/filename, with the file's bytes; the report says what was compared."""
    report = upload(checkpoint_file, b2_bucket(server))
    assert server.objects(BUCKET) == {OBJECT: checkpoint_bytes}
    assert report.to_plain() == {
        "name": "x.pth",
        "place": f"bucket {BUCKET} under {PREFIX}",
        "size_bytes": len(checkpoint_bytes),
        "verified_by": "sha1",
        "was_there": False,
    }


def test_what_was_uploaded_is_resolved_elsewhere(server, checkpoint_file, cache, checkpoint_bytes):
    """Another machine's empty cache gets it by its file name."""
    upload(checkpoint_file, b2_bucket(server))
    resolve_in("x.pth", str(cache), b2_bucket(server))
    assert (cache / "x.pth").read_bytes() == checkpoint_bytes


def test_the_same_content_is_sent_once(server, checkpoint_file):
    """A second upload compares hashes, sends nothing and says so; `force` changes nothing in that."""
    upload(checkpoint_file, b2_bucket(server))
    for force in (False, True):
        report = upload(checkpoint_file, b2_bucket(server), force=force)
        assert (report.was_there, report.verified_by) == (True, "sha1")
    assert server.count("upload") == 1


@pytest.mark.parametrize("standing", ["of another size", "of the same size"])
def test_other_content_is_not_replaced(server, checkpoint_file, other_checkpoint_bytes, standing):
    """Without force, other content stays, whatever its size, and the error says how it differs."""
    there = other_checkpoint_bytes if standing == "of the same size" else b"something else"
    server.put(BUCKET, OBJECT, there)
    with pytest.raises(RemoteConflictError) as caught:
        upload(checkpoint_file, b2_bucket(server))
    assert ("sha1 differs" if there is other_checkpoint_bytes else "14 bytes") in str(caught.value)
    assert "--force" in str(caught.value)
    assert server.objects(BUCKET) == {OBJECT: there}
    assert server.count("upload") == 0


@pytest.mark.parametrize("size", ["another", "same"])
def test_force_replaces_other_content(
    server, checkpoint_file, checkpoint_bytes, other_checkpoint_bytes, size
):
    """With force the new content stands there, also where size and name are the same."""
    server.put(BUCKET, OBJECT, other_checkpoint_bytes if size == "same" else b"something else")
    report = upload(checkpoint_file, b2_bucket(server), force=True)
    assert (report.was_there, report.verified_by) == (False, "sha1")
    assert server.objects(BUCKET) == {OBJECT: checkpoint_bytes}


@pytest.mark.parametrize("size", ["another", "same"])
def test_what_arrived_wrong_is_no_success(
    server, checkpoint_file, other_checkpoint_bytes, tmp_path, monkeypatch, size
):
    """The bucket is asked afterwards what it holds: other bytes of the same size are an error too."""
    instead = tmp_path / "instead.pth"
    instead.write_bytes(other_checkpoint_bytes if size == "same" else b"something else")
    real = _upload.open_remote
    monkeypatch.setattr(_upload, "open_remote", lambda bucket: Swapping(real(bucket), instead))
    with pytest.raises(RemoteError) as caught:
        upload(checkpoint_file, b2_bucket(server))
    assert f"differs ({'sha1' if size == 'same' else 'size'})" in str(caught.value)


def test_damage_on_the_way_is_noticed_and_sent_again(server, checkpoint_file, checkpoint_bytes):
    """A body that arrives damaged is refused by its checksum; the next try succeeds."""
    server.fault("upload", "damage", times=1)
    upload(checkpoint_file, b2_bucket(server, RETRIES=2))
    assert server.objects(BUCKET) == {OBJECT: checkpoint_bytes}
    assert server.count("upload") == 2


def test_where_no_hash_is_kept_the_size_is_compared_and_said_so(server, checkpoint_file):
    """The report does not claim more than was verified."""
    server.fault("head", "no_checksum")
    assert upload(checkpoint_file, b2_bucket(server)).verified_by == "size"


def test_where_no_hash_is_kept_our_own_files_are_looked_into(server, tmp_path):
    """What the file there says of itself is compared with what this one says."""
    path = tmp_path / "own.pth"
    linnaeus.save({"model": {"w": torch.zeros(3)}}, path)
    server.fault("head", "no_checksum")
    assert upload(path, b2_bucket(server)).verified_by == "description"


def test_where_no_hash_is_kept_the_same_size_proves_nothing(server, checkpoint_file, other_checkpoint_bytes):
    """Content that can't be compared counts as other content."""
    server.put(BUCKET, OBJECT, other_checkpoint_bytes, sha1=False)
    with pytest.raises(RemoteConflictError, match="no digest"):
        upload(checkpoint_file, b2_bucket(server))
    assert server.objects(BUCKET) == {OBJECT: other_checkpoint_bytes}


def test_a_mistyped_bucket_is_not_made(server, checkpoint_file):
    """Also with a key that may make buckets, an unknown bucket is an error and stays unknown."""
    with pytest.raises(RemoteNotFoundError):
        upload(checkpoint_file, b2_bucket(server, NAME="linnaeus-checkpoint"))
    assert server.buckets() == [BUCKET]
    assert server.count("create_bucket") == 0


def test_a_mistyped_directory_is_not_made(tmp_path, checkpoint_file):
    """The same for a directory; only the prefix beneath an existing one is made."""
    with pytest.raises(RemoteNotFoundError):
        upload(checkpoint_file, directory_bucket(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_key_for_one_bucket_is_enough(checkpoint_file, monkeypatch):
    """No right to make buckets, or to see others, is needed."""
    rights = ["listFiles", "readFiles", "writeFiles"]
    with B2Server(buckets=[BUCKET, "other"], capabilities=rights, only_buckets=[BUCKET]) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        assert upload(checkpoint_file, b2_bucket(server)).verified_by == "sha1"


def test_a_key_that_may_not_write_is_refused_at_once(checkpoint_file, monkeypatch):
    """A read-only key is a refusal, not a fault to try again."""
    with B2Server(buckets=[BUCKET], capabilities=["listBuckets", "listFiles", "readFiles"]) as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RemoteAuthError) as caught:
            upload(checkpoint_file, b2_bucket(server, RETRIES=4))
        assert caught.value.attempts == 1
        assert server.objects(BUCKET) == {}


def test_a_storage_cap_is_a_refusal(server, checkpoint_file):
    """A reached cap is told as such, without another try."""
    server.fault("upload", "storage_cap_exceeded")
    with pytest.raises(RemoteAuthError, match="storage cap exceeded") as caught:
        upload(checkpoint_file, b2_bucket(server, RETRIES=4))
    assert caught.value.attempts == 1
    assert server.count("upload") == 1


def test_a_bucket_needs_not_be_enabled_for_resolving(server, checkpoint_file):
    """ENABLED says where to look for checkpoints, not where they may be put."""
    upload(checkpoint_file, b2_bucket(server, ENABLED=False))
    assert list(server.objects(BUCKET)) == [OBJECT]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", CheckpointInvalidError),
        (b"<!doctype html><title>404</title>", CheckpointInvalidError),
        (b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", CheckpointInvalidError),
    ],
)
def test_what_is_no_checkpoint_is_not_sent(server, tmp_path, body, error):
    """A file is checked first; the bucket is not even asked."""
    (tmp_path / "x.pth").write_bytes(body)
    with pytest.raises(error):
        upload(tmp_path / "x.pth", b2_bucket(server))
    assert server.requests == []


def test_what_asks_for_code_is_not_sent(server, tmp_path):
    """A pickle that would run something is refused by name, and nothing of it runs."""
    import torch

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "x.pth")
    with pytest.raises(UnsafeCheckpointError):
        upload(tmp_path / "x.pth", b2_bucket(server))
    assert server.requests == []
    assert not (tmp_path / "ran").exists()


def test_a_bit_that_flipped_on_disk_is_found_before_sending(server, checkpoint_file, checkpoint_bytes):
    """Every byte is compared with its checksum before it goes anywhere."""
    middle = len(checkpoint_bytes) // 2
    flipped = bytes([checkpoint_bytes[middle] ^ 1])
    checkpoint_file.write_bytes(checkpoint_bytes[:middle] + flipped + checkpoint_bytes[middle + 1 :])
    with pytest.raises(CheckpointInvalidError, match=r"model\.weight"):
        upload(checkpoint_file, b2_bucket(server))
    assert server.requests == []


def test_a_file_that_is_not_there_is_not_found(server, tmp_path):
    """A missing file, or a directory, is said to be missing."""
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(CheckpointNotFoundError):
            upload(path, b2_bucket(server))
    assert server.requests == []


@pytest.mark.parametrize("name", [".x.pth", "-x.pth", "x*.pth", "x y.pth ", "x\n.pth"])
def test_a_name_that_no_resolver_takes_is_not_sent(server, tmp_path, checkpoint_bytes, name):
    """What could never be resolved again is refused."""
    (tmp_path / name).write_bytes(checkpoint_bytes)
    with pytest.raises(IdentifierError):
        upload(tmp_path / name, b2_bucket(server))
    assert server.requests == []


def test_a_link_for_people_is_sent_as_what_it_points_to(server, checkpoint_file, checkpoint_bytes):
    """`linnaeus upload best.pth` sends the checkpoint's bytes under that name."""
    link = checkpoint_file.with_name("best.pth")
    link.symlink_to("x.pth")
    upload(link, b2_bucket(server))
    assert server.objects(BUCKET) == {f"{PREFIX}best.pth": checkpoint_bytes}


def test_a_relative_path_is_one_from_here(server, checkpoint_file, monkeypatch):
    """`upload x.pth` in its directory works."""
    monkeypatch.chdir(checkpoint_file.parent)
    upload(Path("x.pth"), b2_bucket(server))
    assert list(server.objects(BUCKET)) == [OBJECT]


def test_progress_is_told_to_its_end(server, checkpoint_file, checkpoint_bytes):
    """Whoever watches an upload sees it complete."""
    seen = []
    upload(checkpoint_file, b2_bucket(server), progress=seen.append)
    assert seen[-1].done_bytes == seen[-1].total_bytes == len(checkpoint_bytes)


def test_a_directory_serves_as_a_bucket(tmp_path, checkpoint_file, checkpoint_bytes, other_checkpoint_bytes):
    """The whole story for a directory: sent, verified by hash, sent once, in conflict, replaced."""
    (tmp_path / "bucket").mkdir()
    bucket = directory_bucket(tmp_path / "bucket")
    assert upload(checkpoint_file, bucket).verified_by in ("sha1", "md5")
    assert upload(checkpoint_file, bucket).was_there
    checkpoint_file.write_bytes(other_checkpoint_bytes)
    with pytest.raises(RemoteConflictError):
        upload(checkpoint_file, bucket)
    assert content(tmp_path / "bucket") == {OBJECT: checkpoint_bytes}
    upload(checkpoint_file, bucket, force=True)
    assert content(tmp_path / "bucket") == {OBJECT: other_checkpoint_bytes}


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An S3 server with an empty bucket, which rclone.conf calls mys3."""
    (tmp_path / "s3" / BUCKET).mkdir(parents=True)
    with serve_s3(tmp_path / "s3") as server:
        (tmp_path / "rclone.conf").write_text(server.config_text("mys3"))
        monkeypatch.setenv("RCLONE_CONFIG", str(tmp_path / "rclone.conf"))
        yield server


def test_s3_is_a_bucket_too(s3, checkpoint_file, checkpoint_bytes):
    """Sent, verified by S3's MD5, and sent once."""
    assert upload(checkpoint_file, remote_bucket("mys3")).verified_by == "md5"
    assert upload(checkpoint_file, remote_bucket("mys3")).was_there
    assert content(s3.root / BUCKET) == {OBJECT: checkpoint_bytes}


def test_a_mistyped_s3_bucket_is_not_made(s3, checkpoint_file):
    """Rclone would make it; linnaeus asks first."""
    with pytest.raises(RemoteNotFoundError):
        upload(checkpoint_file, remote_bucket("mys3", NAME="nosuch"))
    assert not (s3.root / "nosuch").exists()
