"""Every byte between the payloads stands where torch's own writer puts it, and how it writes it.

Nothing here trusts our own numbers: archives come from `torch.save` and from torch's archive writer, and
large files of ours, which are mostly holes, are read by torch's archive reader and by `zipfile`.
"""

from __future__ import annotations

import os
import random
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.serialization import config

import linnaeus
from linnaeus.pth._archiver import archive
from linnaeus.pth._layout import ALIGNMENT, Entry, append, directory, directory_bytes, place
from support.trees import same

GIB = 1 << 30
LIMIT32 = (1 << 32) - 1
# Around the sizes at which padding wraps, and where Python and miniz might count differently.
SIZES = [
    0,
    1,
    2,
    3,
    15,
    16,
    17,
    24,
    47,
    48,
    49,
    63,
    64,
    65,
    127,
    128,
    129,
    1000,
    4095,
    4096,
    65535,
    65536,
    70001,
]


class Sink:
    """Takes what torch's archive writer writes; of long runs of bytes only the length is kept."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self.pieces: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        """Take some bytes."""
        if len(data) < GIB:
            self.pieces.append((self.size_bytes, bytes(data)))
        self.size_bytes += len(data)
        return len(data)

    def between(self, start: int, end: int) -> bytes:
        """Return the kept bytes of a range."""
        return b"".join(data for position, data in self.pieces if start <= position < end)


def rebuilt(path: Path) -> bytes:
    """Return an archive made anew by our layout from what zipfile says of another's records."""
    with zipfile.ZipFile(path) as file:
        infos = sorted(file.infolist(), key=lambda info: info.header_offset)
        entries = place((info.filename, info.file_size) for info in infos)
        parts = [
            entry.header + file.read(info) + entry.descriptor(info.CRC)
            for entry, info in zip(entries, infos, strict=True)
        ]
    end = directory(entries, [info.CRC for info in infos])
    assert len(end) == directory_bytes(entries)
    return b"".join(parts) + end


@pytest.mark.parametrize("name", ["a.pth", "checkpoint_epoch_12.pth", "n" * 100 + ".pth", "Ä ö-日本.pth"])
def test_an_archive_of_torch_save_is_laid_out_alike_byte_for_byte(tmp_path: Path, name: str) -> None:
    """From names, sizes and checksums alone we make the file that torch.save made: sizes, empties, names."""
    path = tmp_path / name
    torch.save([torch.full((size,), 7, dtype=torch.uint8) for size in SIZES], path)
    assert rebuilt(path) == path.read_bytes()


@pytest.mark.parametrize("seed", range(6))
def test_random_archives_are_laid_out_alike_byte_for_byte(tmp_path: Path, seed: int) -> None:
    """The same for random numbers of storages of random sizes."""
    stream = random.Random(seed)
    path = tmp_path / f"{'x' * stream.randrange(1, 60)}.pth"
    sizes = [stream.choice([0, stream.randrange(300), stream.randrange(9000)]) for _ in range(120)]
    torch.save({f"{n}": torch.full((size,), 1, dtype=torch.uint8) for n, size in enumerate(sizes)}, path)
    assert rebuilt(path) == path.read_bytes()


def test_records_of_any_name_are_laid_out_alike_byte_for_byte(tmp_path: Path) -> None:
    """Names of every length up to where the alignment has gone round, in UTF-8 too."""
    path = tmp_path / "a.pth"
    writer = torch._C.PyTorchFileWriter(str(path))
    for length in range(1, 140):
        writer.write_record("n" * length, b"x" * length, length)
        writer.write_record(f"{length}é", b"", 0)
    writer.write_end_of_file()
    assert rebuilt(path) == path.read_bytes()


def test_more_than_65535_records_are_laid_out_alike_byte_for_byte(tmp_path: Path) -> None:
    """Where 16 bits don't suffice to count the records."""
    path = tmp_path / "a.pth"
    writer = torch._C.PyTorchFileWriter(str(path))
    for number in range(66_000):
        writer.write_record(f"data/{number}", b"xy", 2)
    writer.write_end_of_file()
    assert rebuilt(path) == path.read_bytes()


def test_a_file_of_ours_has_the_records_of_torch_save_in_its_order(tmp_path: Path) -> None:
    """Its records are those of torch.save, with the description behind them, wherever the bytes lie."""
    tree = {f"{size}": torch.full((size,), 1, dtype=torch.uint8) for size in SIZES}
    torch.save(tree, tmp_path / "archive.pth")
    linnaeus.save(tree, tmp_path / "ours.pth")
    with zipfile.ZipFile(tmp_path / "archive.pth") as theirs, zipfile.ZipFile(tmp_path / "ours.pth") as ours:
        assert ours.namelist() == [*theirs.namelist(), "archive/linnaeus.json"]
        for name in theirs.namelist():
            if not name.endswith(("data.pkl", "serialization_id")):
                assert ours.read(name) == theirs.read(name), name
    assert rebuilt(tmp_path / "ours.pth") == (tmp_path / "ours.pth").read_bytes()


LARGE = {
    "a record of one byte less than 32 bits count": [LIMIT32 - 1, 3],
    "a record of all that 32 bits count": [LIMIT32, 3],
    "a record of 4 GiB": [LIMIT32 + 1, 3, 0],
    "a record far behind": [3 * GIB, 2 * GIB, 5, 0, 70],
    "a record of over 4 GiB behind 4 GiB": [4 * GIB + 5, 4 * GIB + 7, 1, 0],
}


def layout_at_the_limit() -> list[int]:
    """Return sizes that make one record's header begin exactly where 32 bits end."""
    (first,) = place([("archive/data/0", LIMIT32 - 1)])
    size = LIMIT32 - first.offset - 16
    assert place([("archive/data/0", size), ("archive/data/1", 9)])[1].header_offset == LIMIT32
    return [size, 9, 9]


@pytest.mark.parametrize("name", [*LARGE, "a header at the last place that 32 bits reach"])
def test_a_file_beyond_4_gib_is_laid_out_as_torch_writes_it(name: str) -> None:
    """Torch's own writer, whose long payloads are thrown away, puts the same bytes at the same places."""
    sizes = LARGE.get(name) or layout_at_the_limit()
    sink = Sink()
    writer = torch._C.PyTorchFileWriter(sink, False, ALIGNMENT)  # without checksums, so as to be fast
    for number, size in enumerate(sizes):  # memory that is never touched is never there
        writer.write_record(f"data/{number}", torch.UntypedStorage(size) if size else b"", size)
    writer.write_end_of_file()
    entries = place((f"archive/data/{number}", size) for number, size in enumerate(sizes))
    for record, size in (("version", 2), ("byteorder", 6), (".data/serialization_id", 40)):
        append(entries, f"archive/{record}", size)
    for entry in entries:
        assert sink.between(entry.header_offset, entry.offset) == entry.header, entry.name
        assert sink.between(entry.offset + entry.size_bytes, entry.end) == entry.descriptor(0), entry.name
    end = directory(entries, [0] * len(entries))
    assert sink.between(entries[-1].end, sink.size_bytes) == end
    assert entries[-1].end + directory_bytes(entries) == sink.size_bytes


def write_with_holes(path: Path, entries: Sequence[Entry], contents: Sequence[bytes | None]) -> None:
    """Write everything of an archive but payloads that are None; those stay holes, without a checksum."""
    crc32s = [zlib.crc32(content or b"") for content in contents]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for entry, content, crc32 in zip(entries, contents, crc32s, strict=True):
            os.pwrite(descriptor, entry.header, entry.header_offset)
            os.pwrite(descriptor, content or b"", entry.offset)
            os.pwrite(descriptor, entry.descriptor(crc32), entry.offset + entry.size_bytes)
        os.pwrite(descriptor, directory(entries, crc32s), entries[-1].end)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("name", [*LARGE, "a header at the last place that 32 bits reach"])
def test_readers_find_the_records_of_a_file_beyond_4_gib(tmp_path: Path, name: str) -> None:
    """Torch's reader, also where it calculates, and zipfile find every record where the layout has it."""
    sizes = LARGE.get(name) or layout_at_the_limit()
    entries = place([("archive/version", 2), *((f"archive/data/{n}", size) for n, size in enumerate(sizes))])
    path = tmp_path / "large.pth"
    write_with_holes(path, entries, [b"3\n", *([None] * len(sizes))])
    assert path.stat().st_blocks * 512 < 1 << 20
    assert path.stat().st_size == entries[-1].end + directory_bytes(entries)
    reader = torch._C.PyTorchFileReader(str(path))
    with zipfile.ZipFile(path) as file:
        infos = {info.filename: info for info in file.infolist()}
    for entry in entries:
        short = entry.name.removeprefix("archive/")
        assert reader.get_record_offset(short) == entry.offset
        assert reader.get_record_header_offset(short) == entry.header_offset
        assert reader.get_record_size(short) == entry.size_bytes
        if entry.size_bytes:  # what calculating readers do; they ask for no empty record
            calculated = reader.get_record_offset_no_read(
                entry.header_offset, short, entry.size_bytes, ALIGNMENT
            )
            assert calculated == entry.offset
        told = infos[entry.name]
        assert (told.header_offset, told.file_size) == (entry.header_offset, entry.size_bytes)


@pytest.fixture
def calculating() -> Iterator[None]:
    """Let torch calculate the places of storages instead of looking them up."""
    before = config.load.calculate_storage_offsets
    config.load.calculate_storage_offsets = True
    yield
    config.load.calculate_storage_offsets = before


@pytest.mark.usefixtures("calculating")
@pytest.mark.parametrize("debug", ["0", "1"])
def test_a_reader_that_calculates_offsets_reads_our_file_right(
    tmp_path: Path, debug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mapped, with places calculated and, in torch's own check, compared with the real ones."""
    monkeypatch.setenv("TORCH_SERIALIZATION_DEBUG", debug)
    stream = random.Random(3)
    tree: dict[str, Any] = {
        f"{n}": torch.randint(0, 256, (stream.choice([1, 7, 64, 65, 5000]),), dtype=torch.uint8)
        for n in range(200)
    }
    tree["again"] = tree["17"][:1]
    tree["float8"] = torch.arange(9.0).to(torch.float8_e4m3fn)
    linnaeus.save(tree, tmp_path / "x.pth")
    assert same(torch.load(tmp_path / "x.pth", weights_only=True, mmap=True), tree)
    assert same(torch.load(tmp_path / "x.pth", weights_only=True, mmap=False), tree)


@pytest.mark.usefixtures("calculating")
def test_a_reader_that_calculates_offsets_gets_past_4_gib(tmp_path: Path) -> None:
    """In a whole file of ours over 4 GiB, mostly a hole, a tensor behind the hole is read right."""
    hole, last = torch.UntypedStorage(4 * GIB + 3), torch.arange(100, dtype=torch.int16)
    wide = torch.empty(0, dtype=torch.uint8).set_(hole)
    tree = {"wide": wide, "last": last, "more": last.float()}
    parts = archive(tree, {})
    contents = [
        content if isinstance(content, bytes) else None if content.size_bytes > GIB else bytes(content.source)
        for content in parts.contents
    ]
    path = tmp_path / "large.pth"
    write_with_holes(path, parts.entries, contents)
    assert path.stat().st_blocks * 512 < 1 << 20
    for loaded in (torch.load(path, weights_only=True, mmap=True), linnaeus.load(path)):
        assert loaded["wide"].numel() == 4 * GIB + 3
        assert torch.equal(loaded["last"], last)
        assert torch.equal(loaded["more"], last.float())
    assert linnaeus.verify(path, content=False).ok
