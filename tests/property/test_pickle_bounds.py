"""The walk over a pickle's opcodes: passing over a tensor at once comes to the same as opcode by opcode."""

import io
import pickle
import zipfile

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from linnaeus.pth._bounds import pickle_end


def pickled(state):
    """Return the pickle inside what torch saves."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        return archive.read("archive/data.pkl")


SHAPES = [(), (3,), (2, 3), (2, 1, 3), (1, 2, 1, 2), (300,), (1, 70_000), (0,)]
PICKLE = pickled({f"blocks.{n}.{'w' * n}": torch.zeros(SHAPES[n % len(SHAPES)]) for n in range(60)})


def walked(data, **how):
    """Return where a pickle ends, or that it is refused."""
    try:
        return pickle_end(data, **how)
    except (pickle.UnpicklingError, ValueError) as error:
        return type(error)


def test_both_ways_reach_the_end():
    """The end of a real pickle is found either way, for tensors of every number of dimensions."""
    assert pickle_end(PICKLE) == pickle_end(PICKLE, by_tensor=False) == len(PICKLE)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(PICKLE) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_damage_is_judged_alike(changes):
    """A pickle with other bytes here and there is accepted, or refused, as it is opcode by opcode."""
    data = bytearray(PICKLE)
    for position, byte in changes:
        data[position] = byte
    assert walked(bytes(data)) == walked(bytes(data), by_tensor=False)


def tensor(first, memo, *, length=1):
    """Return the opcodes of a tensor that gets one memo entry and puts seven."""
    puts = [b"q" + bytes((memo + n,)) for n in range(7)]
    key = b"X" + bytes((length,)) + b"\0\0\x000" + puts[0]
    sizes = b"K\x00K\x01\x85" + puts[2] + b"K\x01\x85" + puts[3]
    get = b"h" + bytes((first,))
    storage = b"((" + get + b"h\xff" + key + b"h\xffK\x01t" + puts[1] + b"Q"
    return b"h\xff" + storage + sizes + b"\x89h\xff)R" + puts[4] + b"t" + puts[5] + b"R" + puts[6]


def test_tensors_cannot_hide_nesting():
    """Tuples wrapped in what looks like a tensor, again and again, are counted all the same."""
    deep = b"\x80\x02)" + b"\x85" * 250 + b"q\x00"
    assert walked(deep + tensor(0, 1) + b".") == len(deep + tensor(0, 1)) + 1
    # Each takes the tuple of the one before it, which is one deeper.
    chained = deep + b"".join(tensor(max(0, 7 * n - 5), 1 + 7 * n) for n in range(12)) + b"."
    assert walked(chained) is walked(chained, by_tensor=False) is pickle.UnpicklingError


def test_a_tensor_with_a_key_of_another_length_is_none():
    """What only looks like a tensor's opcodes is walked over one by one."""
    data = b"\x80\x02" + tensor(255, 0, length=2) + b"."
    assert walked(data) is walked(data, by_tensor=False) is pickle.UnpicklingError
