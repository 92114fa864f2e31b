"""Every random stream of the process: Python's, numpy's global one, torch's on each device."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Mapping
from typing import Any

import torch

from linnaeus.errors import ResumeMismatchError


def capture_rng() -> dict[str, Any]:
    """Return the state of all random streams, as tensors and numbers."""
    version, words, gauss = random.getstate()
    state: dict[str, Any] = {
        "python": {"version": version, "words": _words(array("q", words)), "gauss": gauss},
        "torch": torch.get_rng_state(),
    }
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        name, words, position, has_gauss, cached = numpy.random.get_state()
        state["numpy"] = {
            "name": str(name),
            "words": _words(array("q", words.astype("int64").tobytes())),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _words(numbers: array[int]) -> torch.Tensor:
    """Return integers as a tensor, without a Python object for each, which would take training's time."""
    return torch.frombuffer(numbers, dtype=torch.int64)


def restore_rng(state: Mapping[str, Any], path: str) -> None:
    """Set all random streams back to a captured state.

    Args:
        state: What `capture_rng` returned.
        path: The checkpoint it comes from, for messages.

    Raises:
        ResumeMismatchError: The state needs numpy, which is not installed here.
    """
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        _restore_numpy(state["numpy"], path)
    if "cuda" in state and torch.cuda.is_available():
        for device, stream in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(stream, device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"])


def _restore_numpy(state: Mapping[str, Any], path: str) -> None:
    try:
        import numpy
    except ImportError as error:
        raise ResumeMismatchError(
            path=path,
            problem="the run used numpy, which is not installed here",
            advice="Install it: pip install numpy",
        ) from error
    words = numpy.array(state["words"].tolist(), dtype=numpy.uint32)
    numpy.random.set_state((state["name"], words, state["position"], state["has_gauss"], state["cached"]))
