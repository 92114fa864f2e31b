"""The report of a load stays with the model, so that checkpoints of its run tell where it comes from."""

from __future__ import annotations

from typing import Any

from torch import nn

from linnaeus.pretrained._report import LoadReport

_NAME = "linnaeus_load_report"
_WRAPPERS = ("module", "_orig_mod")


def remember(model: nn.Module, report: LoadReport) -> None:
    """Keep a report with a model; it is no part of the model's state."""
    setattr(_inner(model), _NAME, report)


def report_of(model: nn.Module) -> LoadReport | None:
    """Return the report of the last load into a model, seen through wrappers; None when there was none."""
    found = getattr(_inner(model), _NAME, None)
    return found if isinstance(found, LoadReport) else None


def _inner(model: nn.Module) -> nn.Module:
    inner: Any = model
    while True:
        further = next((getattr(inner, name) for name in _WRAPPERS if _is_wrapped(inner, name)), None)
        if further is None:
            return inner  # type: ignore[no-any-return]
        inner = further


def _is_wrapped(module: Any, name: str) -> bool:
    # A module that has a child of this name and more beside it is no wrapper.
    children = dict(module.named_children())
    return isinstance(children.get(name), nn.Module) and len(children) == 1
