"""How a finished file becomes visible: at one instant, whole, and still there after a power loss.

Invariant: nobody ever sees a final name whose bytes are not complete and on disk. The order is always
fsync of the file, then rename or link, then fsync of the directory. A crash before the rename leaves a
temporary name, which is swept later; a crash after it leaves the new file. The directory's fsync guards
against a power loss that forgets the rename.
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from linnaeus.files._owner import temporary_name

# What filesystems without hard links answer to link(2).
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def fsync_file(path: Path) -> None:
    """Force a file's bytes to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_directory(directory: Path) -> None:
    """Force a directory's entries to disk, so that a rename survives a power loss."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems have no fsync for directories; their rename is durable by itself.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Create a directory and its parents, durably, if they are not there."""
    missing = [d for d in (directory, *directory.parents) if not d.exists()]
    for parent in reversed(missing):
        parent.mkdir(exist_ok=True)
        fsync_directory(parent.parent)


def commit(temporary: Path, final: Path, *, durable: bool = True) -> None:
    """Make a finished temporary file the file `final`, replacing what was there.

    Both must be in the same directory. This is the instant at which a checkpoint begins to exist.
    Without `durable` it is the same for every process, but may not outlast a power loss.
    """
    if durable:
        fsync_file(temporary)
    os.replace(temporary, final)
    if durable:
        fsync_directory(final.parent)


def publish_new(temporary: Path, final: Path) -> bool:
    """Make a finished temporary file the file `final`, unless there is one already.

    Safe against any number of processes doing the same at once, also where locks do nothing.

    Returns:
        True when this call made it, False when another one's file stands there; that one is kept.
    """
    fsync_file(temporary)
    try:
        os.link(temporary, final)
    except FileExistsError:
        temporary.unlink()
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _publish_without_links(temporary, final)
    temporary.unlink()
    fsync_directory(final.parent)
    return True


def _publish_without_links(temporary: Path, final: Path) -> bool:
    # Two processes may both pass the test; then both hold whole, verified copies of the same
    # object, and the later rename replaces equal bytes.
    if final.exists():
        temporary.unlink()
        return False
    os.replace(temporary, final)
    fsync_directory(final.parent)
    return True


def point_link(link: Path, target_name: str) -> bool:
    """Make `link` a relative symbolic link to `target_name`, replacing an older link in one step.

    Returns:
        False when a real file stands there, which is never replaced, or the filesystem has no links.
    """
    if link.exists() and not link.is_symlink():
        return False
    if link.is_symlink() and os.readlink(link) == target_name:
        return True
    temporary = temporary_name(link)
    try:
        temporary.symlink_to(target_name)
    except OSError as error:
        if error.errno in NO_LINKS:
            return False
        raise
    os.replace(temporary, link)
    return True


def remove_file(path: Path) -> None:
    """Remove a file; one that is already gone is fine."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def take_over(entry: Path, name: Path) -> bool:
    """Give a file or directory another name; of several processes that try, one does.

    Returns:
        False when it is gone.
    """
    try:
        os.rename(entry, name)
    except FileNotFoundError:
        return False
    return True


def hold(path: Path) -> Path:
    """Give a file a second, temporary name, under which it stays whole when the first is removed.

    Returns:
        The temporary name, for the caller to remove; the file's own where the filesystem has no links.
    """
    hidden = temporary_name(path)
    try:
        os.link(path, hidden)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return path
    return hidden


def set_aside(path: Path, suffix: str) -> Path:
    """Rename a file to a free name with `suffix` appended, and return that name."""
    for number in range(1000):
        aside = path.with_name(path.name + suffix + (f".{number}" if number else ""))
        try:
            os.link(path, aside, follow_symlinks=False)
        except FileExistsError:
            continue
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            if aside.exists():
                continue
            os.replace(path, aside)
        else:
            path.unlink()
        fsync_directory(path.parent)
        return aside
    raise FileExistsError(errno.EEXIST, "no free name to move it to", str(path))


def write_text(path: Path, text: str) -> None:
    """Write a small text file in one step: readers see the old text or the new one, whole."""
    temporary = temporary_name(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        remove_file(temporary)
        raise
