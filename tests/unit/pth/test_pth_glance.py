"""What a file far away holds, from its end."""

import io

import pytest
import torch

import linnaeus
from linnaeus import pth
from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, UnsupportedFormatError


class Ranges:
    """Bytes that are handed out in ranges, which are noted."""

    def __init__(self, data):
        self.data = data
        self.asked = []

    def __call__(self, offset, length):
        self.asked.append((offset, length))
        return self.data[offset : offset + length]


STATE = {"model": {"a.weight": torch.zeros(2_000_000), "b": torch.ones(3, dtype=torch.int8)}, "epoch": 3}


@pytest.fixture
def ours(tmp_path):
    """Return a file that linnaeus wrote."""
    path = tmp_path / "ours.pth"
    linnaeus.save(STATE, path)
    return path


def theirs():
    """Return the bytes of a file that torch wrote."""
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    return buffer.getvalue()


def test_a_file_of_ours_is_told_by_one_range_of_its_end(ours):
    """Names, shapes, places and what it says of its run: as a look at the whole file tells."""
    ranges = Ranges(ours.read_bytes())
    found = pth.glance("ours.pth", len(ranges.data), ranges)
    whole = pth.describe(ours)
    assert (found.keys, found.tensors, found.about) == (whole.keys, whole.tensors, whole.about)
    assert len(ranges.asked) == 1
    assert ranges.asked[0][1] <= 256 << 10


def test_a_file_of_torch_is_told_by_its_end_and_its_pickle(tmp_path):
    """Two ranges, whatever the size of the tensors."""
    ranges = Ranges(theirs())
    found = pth.glance("theirs.pth", len(ranges.data), ranges)
    path = tmp_path / "theirs.pth"
    path.write_bytes(ranges.data)
    assert found.tensors == pth.describe(path).tensors
    assert found.about == {"epoch": 3}
    assert sum(length for _, length in ranges.asked) <= 512 << 10


def old_format(state):
    """Return the bytes of a file in the format before torch 1.6."""
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.mark.parametrize("num_tensors", [2, 5000])
def test_a_file_of_the_old_format_is_told_by_its_beginning(tmp_path, num_tensors):
    """Its pickles come first, however many there are; nothing of the tensors is read."""
    state = {"model": {f"block.{n}.weight": torch.ones(100) for n in range(num_tensors)}, "epoch": 3}
    ranges = Ranges(old_format({**state, "large": torch.zeros(1_000_000)}))
    found = pth.glance("old.pth", len(ranges.data), ranges)
    path = tmp_path / "old.pth"
    path.write_bytes(ranges.data)
    whole = pth.describe(path)
    assert (found.keys, found.tensors, found.about) == (whole.keys, whole.tensors, whole.about)

    assert sum(length for offset, length in ranges.asked if offset == 0) < 3 << 20


@pytest.mark.parametrize("cut", [3, 200, 3_000, 1])
def test_a_file_of_the_old_format_that_is_cut_short_is_damaged(cut):
    """In its pickles or in its tensors: what it says does not fit its size."""
    data = old_format({"model": {"w": torch.ones(1000)}})[:-cut]
    with pytest.raises(CorruptCheckpointError):
        pth.glance("old.pth", len(data), Ranges(data))
    with pytest.raises(CorruptCheckpointError):
        pth.glance("old.pth", 600, Ranges(data))


def test_code_in_any_pickle_of_the_old_format_is_told():
    """Nothing of it is run."""
    data = old_format({"model": torch.zeros(3), "hook": print})
    assert pth.glance("x.pth", len(data), Ranges(data)).unsafe


def test_what_asks_for_code_is_said_so(tmp_path):
    """The pickle is looked at, never run."""
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(3), "hook": print}, buffer)
    data = buffer.getvalue()
    found = pth.glance("x.pth", len(data), Ranges(data))
    assert found.unsafe
    assert found.refusal() is not None


@pytest.mark.parametrize("length", [0, 1, 30, 1000])
def test_a_file_cut_short_is_damaged(ours, length):
    """Its end is missing, so it can't be chosen."""
    data = ours.read_bytes()[:length]
    with pytest.raises(CorruptCheckpointError):
        pth.glance("x.pth", len(data), Ranges(data))


def test_another_archive_is_no_checkpoint(tmp_path):
    """A zip file of something else is refused."""
    import zipfile

    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    data = path.read_bytes()
    with pytest.raises(UnsupportedFormatError):
        pth.glance("x.pth", len(data), Ranges(data))


def test_any_damage_of_the_end_is_an_error_of_ours(ours):
    """Flipped bytes are told or change nothing that is told; nothing else is raised."""
    good = ours.read_bytes()
    whole = pth.glance("x.pth", len(good), Ranges(good))
    for place in range(len(good) - 1500, len(good), 13):
        data = bytearray(good)
        data[place] ^= 0xFF
        try:
            found = pth.glance("x.pth", len(data), Ranges(bytes(data)))
        except CheckpointInvalidError:
            continue
        assert [t.shape for t in found.tensors] == [t.shape for t in whole.tensors]
