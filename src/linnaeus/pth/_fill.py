"""From a file straight into memory that is there: no second copy of a state in memory, and no fresh pages.

Copying out of a mapped file costs a fault for every few pages of it, and those pages count as the process's.
The kernel copies them into tensors that exist at the speed of memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from linnaeus.errors import CorruptCheckpointError
from linnaeus.pth._archive import not_readable
from linnaeus.pth._examine import examine
from linnaeus.pth._load import load, opened, own_document
from linnaeus.pth._rebuild import load_described

if TYPE_CHECKING:
    import torch

    from linnaeus.pth._sharded_load import Lazy

_PIECE_BYTES = 4 << 20  # what a core reads at a time


class Source(Protocol):
    """An open checkpoint, from which tensors are filled."""

    @property
    def content(self) -> Any:
        """The saved object."""

    @property
    def path(self) -> Path:
        """The file or directory."""

    def ready(self, tensors: Iterable[torch.Tensor], /) -> None:
        """See to it that tensors of the content, or views of them, can be looked at."""

    def holds(self, tensor: torch.Tensor, /) -> bool:
        """Tell whether a tensor is part of the content, so that `fill` has a better way than copying it."""

    def fill(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], /) -> None:
        """Make the elements of tensors those of others, which are part of the content."""

    def files_of(self, tensors: Iterable[torch.Tensor], /) -> set[str]:
        """Return in which files of a directory tensors of the content, or views of them, are kept."""


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A checkpoint whose tensors lie in the mapped file until somebody fills others with them.

    Attributes:
        content: The saved object.
        path: The file.
    """

    content: Any
    path: Path
    _descriptor: int
    _mapped: torch.UntypedStorage | None

    def fill(self, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Make the elements of tensors those of others, which are part of `content`.

        Args:
            pairs: What is written to, and what is read, of the same shape: out of the file on all cores where
                both lie alike in memory, and copied elsewhere.

        Raises:
            CorruptCheckpointError: The file became shorter.
            CheckpointInvalidError: The file can't be read; some targets may be filled.
        """
        import torch

        pieces: list[tuple[memoryview, int]] = []
        for target, source in pairs:
            offset = self._offset_of(source)
            if offset is None or not _lie_alike(target, source):
                with torch.no_grad():
                    target.copy_(source)
                continue
            memory = _memory(target)
            for start in range(0, len(memory), _PIECE_BYTES):
                pieces.append((memory[start : start + _PIECE_BYTES], offset + start))
            torch.autograd.graph.increment_version(target)  # as an assignment in place does
        self._read(pieces)

    def _read(self, pieces: list[tuple[memoryview, int]]) -> None:
        from linnaeus.pth._build import LyingError

        num_threads = min(len(pieces), os.cpu_count() or 1)
        shares = [pieces[number::num_threads] for number in range(num_threads)]
        try:
            with ThreadPoolExecutor(num_threads or 1) as pool:
                for _ in pool.map(self._read_share, shares):
                    pass
        except LyingError as error:
            raise CorruptCheckpointError(path=str(self.path), problem=f"{error} than when opened") from error
        except OSError as error:
            raise not_readable(self.path, error) from error

    def _read_share(self, pieces: list[tuple[memoryview, int]]) -> None:
        from linnaeus.pth._storages import read_into

        for memory, offset in pieces:
            read_into(self._descriptor, memory, offset)

    def ready(self, tensors: Iterable[torch.Tensor]) -> None:
        """Do nothing: what is mapped can be looked at."""

    def files_of(self, tensors: Iterable[torch.Tensor]) -> set[str]:
        """Return nothing: it is one file."""
        return set()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor lies in the mapped file."""
        return self._offset_of(tensor) is not None

    def _offset_of(self, tensor: torch.Tensor) -> int | None:
        import torch

        if self._mapped is None or not tensor.is_cpu or tensor.layout is not torch.strided:
            return None
        offset = tensor.data_ptr() - self._mapped.data_ptr()
        return offset if tensor.numel() and 0 <= offset < self._mapped.nbytes() else None


def _memory(tensor: torch.Tensor) -> memoryview:
    from linnaeus.pth._memory import memory_of

    start = tensor.storage_offset() * tensor.element_size()
    return memory_of(tensor.untyped_storage())[start : start + tensor.nbytes]


def _lie_alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors have the same bytes in the same order, with no gaps, when they are equal."""
    import torch

    return (
        a.layout is torch.strided
        and a.device.type == "cpu"
        and a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and (a.is_contiguous() or (a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last)))
        and not any((a.is_quantized, a.is_conj(), b.is_conj(), a.is_neg(), b.is_neg()))
    )


@contextmanager
def mapped_file(path: Path) -> Iterator[Source]:
    """Open a checkpoint for filling tensors from it.

    Files that torch wrote are taken too; tensors of theirs are copied. Those of a directory have to be made
    `ready` before they are looked at.

    Raises:
        CheckpointInvalidError: As `load`.
    """
    from linnaeus.pth._storages import map_whole, mapped_storages

    if path.is_dir():
        yield _lazy(path)
        return

    with opened(path) as descriptor:
        document = own_document(path, descriptor)
        if document is not None:
            whole = map_whole(path, descriptor)
            content = load_described(path, document, mapped_storages(whole, document.storages, "cpu"))
            yield MappedFile(content, path, descriptor, whole)
            return
    yield MappedFile(load(path), path, -1, None)


def _lazy(path: Path) -> Lazy:
    from linnaeus.pth._sharded_load import Lazy

    found = examine(path, partly=True)  # what a rank does not need may be with other nodes
    found.require_safe()
    assert found.sharded is not None  # noqa: S101 - it was found to be one
    return Lazy(found.sharded)
