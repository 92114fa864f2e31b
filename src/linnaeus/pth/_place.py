"""Where a rank writes its shards: into rank 0's directory if it sees that, else into one of its node."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import zlib
from pathlib import Path

from linnaeus.files import claim_directory, make_directory, remove, temporary_name


class Place:
    """The directory, under a temporary name, that this rank's files go into.

    Args:
        final: The name that it gets in the end, as this rank spells it.
        given: The temporary name, where it is not to be chosen here.
    """

    def __init__(self, final: Path, given: Path | None) -> None:
        self._final, self._given = final, given
        self._path = given
        self._claim: Path | None = None

    @property
    def path(self) -> Path:
        """The directory; there is one when it was made or found."""
        assert self._path is not None  # noqa: S101 - callers come after that
        return self._path

    @property
    def leads_apart(self) -> bool:
        """Whether this rank made a directory that rank 0 does not see."""
        return self._claim is not None

    def make(self) -> Path:
        """Make the directory, on rank 0."""
        self._path = self._given or temporary_name(self._final)
        self._path.mkdir()
        return self._path

    def find(self, first: Path) -> Path:
        """Return what this rank sees under the name of rank 0's; where nothing, make it for this node.

        The directory's own name tells whose it is, so that it is swept when this process is killed; under the
        common name a link leads there, which only one rank of a node can make.
        """
        shared = self._final.with_name(first.name)
        if self._path is None:
            self._path = shared if shared.exists() else self._made_for_node(shared)
        return self._path

    def _made_for_node(self, shared: Path) -> Path:
        make_directory(self._final.parent)
        made = claim_directory(shared, temporary_name(self._final))
        if made is None:  # another rank was faster
            return shared
        self._claim = shared
        return made

    def clear(self) -> None:
        """Remove what is left under temporary names; any rank may, since they are given only once."""
        for left in (self._claim, self._path):
            if left is not None:
                with contextlib.suppress(OSError):
                    remove(left)


def token_of(first: Path) -> str:
    """Return what a save's files are called by, so that no other's can be taken for them."""
    return hashlib.sha256(first.name.encode()).hexdigest()[:8]


def packed(data: bytes) -> str:
    """Return bytes as a text that tells them to other ranks."""
    return base64.b64encode(zlib.compress(data)).decode()


def unpacked(text: str) -> bytes:
    """Return the bytes that were packed."""
    return zlib.decompress(base64.b64decode(text))
