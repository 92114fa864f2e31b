"""Which names a checkpoint's pickle may ask for.

A pickle can name any function and have it called. Tensors and plain containers need only the names below,
which are those that `torch.load(weights_only=True)` admits, plus a few classes that hold nothing but data
and that older training code left in its files; those are replaced by inert stand-ins when loading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from linnaeus.errors import UnsafeCheckpointError

_DATA = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "__builtin__.bytearray",
        "__builtin__.complex",
        "__builtin__.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch.device",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.parameter.Parameter",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
    }
)

_REBUILDERS = frozenset(
    "torch._utils._rebuild_" + name
    for name in (
        "device_tensor_from_cpu_tensor",
        "device_tensor_from_numpy",
        "meta_tensor_no_storage",
        "nested_tensor",
        "parameter",
        "parameter_with_state",
        "qtensor",
        "sparse_tensor",
        "tensor",
        "tensor_v2",
        "tensor_v3",
        "wrapper_subclass",
    )
)

_NUMBERS = (
    r"u?int(?:[1-8]|16|32|64)|b?float\d+\w*|complex\d+|bool|bits\w+"
    r"|q(?:u?int)\w+|per_\w+ine\w*|per_\w+symmetric"
)
_TORCH = re.compile(
    rf"^torch\.(?:(?:cuda\.)?(?:sparse\.)?\w+(?:Storage|Tensor)|{_NUMBERS})$",
)

# Classes that only hold data. Loading gives plain values in their place.
STAND_INS = {
    "argparse.Namespace": "dict",
    "yacs.config.CfgNode": "dict",
    "linnaeus.utils.config_utils.CfgNode": "dict",
    "numpy.core.multiarray.scalar": "number",
    "numpy._core.multiarray.scalar": "number",
    "numpy.dtype": "number",
    "pathlib.PosixPath": "str",
    "pathlib._local.PosixPath": "str",
}

_ITEM_BYTES = {"Double": 8, "Long": 8, "ComplexDouble": 16, "Float": 4, "Int": 4, "ComplexFloat": 8}
_ITEM_BYTES |= {"Half": 2, "BFloat16": 2, "Short": 2, "Byte": 1, "Char": 1, "Bool": 1}
_ITEM_BYTES |= {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}

_DTYPES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexDouble": "complex128",
    "ComplexFloat": "complex64",
}


# The class that names a storage of each dtype in a pickle; newer dtypes have none, their bytes are named.
STORAGE_CLASSES = {dtype: f"{kind}Storage" for kind, dtype in _DTYPES.items()}
STORAGE_CLASSES |= {kind.lower(): f"{kind}Storage" for kind in _ITEM_BYTES if kind.startswith("Q")}

_DTYPE = re.compile(rf"(?:{_NUMBERS})\Z")
_WIDTH = re.compile(r"(\d+)")


def is_data(name: str) -> bool:
    """Tell whether a dotted name, as a pickle spells it, stands for nothing but data."""
    return name in _DATA or name in _REBUILDERS or name in STAND_INS or _TORCH.match(name) is not None


def is_dtype(name: object) -> bool:
    """Tell whether a text names a type of tensor elements, for example "bfloat16"."""
    return isinstance(name, str) and _DTYPE.match(name) is not None


def storage_type(class_name: str) -> tuple[str, int] | None:
    """Return the (dtype, bytes per element) of a storage class such as "FloatStorage".

    Untyped storages count bytes: ("uint8", 1). None for a name that is no storage.
    """
    if not class_name.endswith("Storage"):
        return None
    kind = class_name.removesuffix("Storage")
    if kind in ("Untyped", "Typed"):
        return "uint8", 1
    if kind not in _ITEM_BYTES:
        return None
    return _DTYPES.get(kind, kind.lower()), _ITEM_BYTES[kind]


@cache
def item_bytes(dtype: str) -> int:
    """Return the bytes per element of a dtype by name, for example 2 for "bfloat16"."""
    if dtype == "bits16":
        return 2
    if dtype == "bool" or dtype.startswith(("float8", "bits", "float4")):
        return 1
    if dtype in _DTYPES.values() or dtype.startswith(("uint", "int", "complex", "qint", "quint")):
        width = _WIDTH.search(dtype)
        return max(1, int(width.group(1)) // 8) if width else 1
    return 1


def unsafe(path: Path, names: Sequence[str]) -> UnsafeCheckpointError:
    """Return the error for a file that asks for these names."""
    return UnsafeCheckpointError(
        path=str(path),
        problem="its pickle asks for code beyond tensors and plain values",
        globals=sorted(names),
    )
