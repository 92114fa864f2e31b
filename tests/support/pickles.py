"""Make checkpoint files by hand, opcode by opcode: hostile ones, and ones that no writer makes any more."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {
    "protocol_version": PROTOCOL,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


class Call:
    """Pickles as a call of any function, for example `Call("os", "system", "id")`."""

    def __init__(self, module: str, name: str, *arguments: Any) -> None:
        self.target, self.arguments = (module, name), arguments


class _CallPickler(pickle._Pickler):
    """Python's own pickler, taught to write calls that it could not look up itself."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if not isinstance(obj, Call):
            super().save(obj, save_persistent_id)
            return
        module, name = obj.target
        if self.proto >= 4:
            self.save(module)
            self.save(name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.save(obj.arguments)
        self.write(pickle.REDUCE)


def dumps(obj: Any, protocol: int = 2) -> bytes:
    """Return the pickle of an object in which `Call` may stand."""
    file = io.BytesIO()
    _CallPickler(file, protocol).dump(obj)
    return file.getvalue()


def archive(
    path: Path, data_pickle: bytes, records: dict[str, bytes] | None = None, prefix: str = "archive"
) -> Path:
    """Write a zip archive laid out as `torch.save` does, around any pickle."""
    everything = {"data.pkl": data_pickle, "byteorder": b"little", **(records or {}), "version": b"3\n"}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in everything.items():
            file.writestr(f"{prefix}/{name}", data)
    return path


def legacy(path: Path, parts: list[bytes], keys: list[str] | None = None, tail: bytes = b"") -> Path:
    """Write a file of the format before 1.6 from its first pickles; what is left out is filled in rightly."""
    whole = [dumps(MAGIC), dumps(PROTOCOL), dumps(SYSTEM), dumps({}), dumps(keys or [])]
    path.write_bytes(b"".join([*parts, *whole[len(parts) :]]) + tail)
    return path


def tensor_pickle(
    shape: str = "K\x02\x85", stride: str = "K\x01\x85", count: int = 2, key: str = "0"
) -> bytes:
    """Return a pickle of one float32 tensor; shape and stride are given as opcodes."""
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\n"
        + b"U" + bytes([len(key)]) + key.encode() + b"U\x03cpuJ" + struct.pack("<i", count) + b"tQK\x00"
        + shape.encode("latin-1") + stride.encode("latin-1")
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip
