"""Tensors from and to the safetensors format, by the package of that name.

The format holds named dense tensors and texts: no structure, no sharing, no numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from linnaeus.errors import CheckpointInvalidError, CorruptCheckpointError, InsufficientSpaceError, SaveError
from linnaeus.files import commit, is_out_of_space, remove_file, require_space, temporary_name

_DTYPES = frozenset(
    ["float64", "float32", "float16", "bfloat16", "complex64", "bool"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [f"float8_{form}" for form in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")]
)
# An entry of the header that says who wrote it, and a name that is no tensor's.
_FORMAT, _RESERVED = {"format": "pt"}, "__metadata__"
_ADVICE = "Install it: pip install 'linnaeus[safetensors]'."


def read(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a file's tensors and what its header says beside.

    Raises:
        CheckpointInvalidError: It is damaged, or the package is not installed.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise CheckpointInvalidError(
            path=str(source), problem="the package safetensors is not installed", advice=_ADVICE
        ) from error
    try:
        with safe_open(source, framework="pt") as file:
            about = {key: _value(text) for key, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except SafetensorError as error:
        raise CorruptCheckpointError(
            path=str(source), problem=f"it is no safetensors file, or cut short ({error})"
        ) from error
    except OSError as error:
        raise CheckpointInvalidError(path=str(source), problem=f"it can't be read ({error})") from error
    return tensors, {key: value for key, value in about.items() if key not in _FORMAT}


def write(tensors: Mapping[str, Tensor], about: Mapping[str, Any], target: Path) -> None:
    """Write tensors, whole or not at all; `about` goes into the header as texts.

    Tensors that share memory are written one by one.

    Raises:
        SaveError: A tensor is of a kind that the format has not, the package is not installed, or the
            system refused.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file
    except ImportError as error:
        raise SaveError(
            path=str(target), problem="the package safetensors is not installed", advice=_ADVICE
        ) from error
    for name, tensor in tensors.items():
        _require_holdable(name, tensor, target)
    require_space(target, sum(tensor.nbytes for tensor in tensors.values()))
    temporary = temporary_name(target)
    texts = {key: _text(value) for key, value in about.items() if key not in _FORMAT}
    try:
        save_file(_apart(tensors), temporary, metadata=texts | _FORMAT)
        commit(temporary, target)
    except (OSError, SafetensorError) as error:
        raise _failure(error, target) from error
    finally:
        remove_file(temporary)


def _require_holdable(name: str, tensor: Tensor, target: Path) -> None:
    dtype = str(tensor.dtype).removeprefix("torch.")
    layout = "sparse" if tensor.layout is not torch.strided else "meta" if tensor.is_meta else ""
    if name == _RESERVED:
        what = "has a name that the format keeps for itself"
    elif layout or tensor.is_quantized or dtype not in _DTYPES:
        what = f"is a {layout or dtype} tensor"
    else:
        return
    raise SaveError(path=str(target), problem=f"{name} {what}, which safetensors can't hold")


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as the format wants them: contiguous, and none in the memory of another."""
    taken: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
        memory = plain.untyped_storage().data_ptr()
        apart[name] = plain.clone() if memory in taken else plain
        taken.add(memory)
    return apart


def _text(value: Any) -> str:
    """Return a value as text that `_value` makes the same value of."""
    if isinstance(value, str) and _value(value) == value:
        return value
    return json.dumps(value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _failure(error: Exception, target: Path) -> SaveError:
    if (isinstance(error, OSError) and is_out_of_space(error)) or "os error 28" in str(error):
        return InsufficientSpaceError(path=str(target), problem="the disk became full while it was written")
    return SaveError(path=str(target), problem=str(error))
