"""A look at a rank's own part of a model, before it is saved by all."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from linnaeus.errors import SaveError
from linnaeus.pth import not_finite
from linnaeus.state._parts import unwrapped
from linnaeus.state._shards import local


def refuse_not_finite(model: nn.Module, path: Path) -> None:
    """Refuse to save a model that holds NaN or infinities in this rank's part.

    Raises:
        SaveError: It does; the names are told.
    """
    state = unwrapped(model).state_dict()
    names = not_finite({name: local(value) for name, value in state.items() if isinstance(value, Tensor)})
    if names:
        raise SaveError(
            path=str(path),
            problem=f"NaN or infinite values in {', '.join(names[:5])}",
            advice="Nothing was written. SCHEDULE.CHECKPOINT.CHECK_FINITE: false would save it all the same.",
        )
