"""linnaeus manages the checkpoints of PyTorch training runs.

Importing it is cheap: names are loaded from their rooms when first used, and torch only by those
that make or take tensors.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linnaeus.config import Config as Config
    from linnaeus.config import load_config as load_config
    from linnaeus.errors import LinnaeusError as LinnaeusError
    from linnaeus.manager import CheckpointManager as CheckpointManager
    from linnaeus.pretrained import load_pretrained as load_pretrained
    from linnaeus.pretrained import preview as preview
    from linnaeus.pretrained import stitch as stitch
    from linnaeus.pth import describe as describe
    from linnaeus.pth import load as load
    from linnaeus.pth import save as save
    from linnaeus.pth import verify as verify
    from linnaeus.resolving import resolve as resolve
    from linnaeus.state import ResumableLoader as ResumableLoader

_HOMES = {
    "CheckpointManager": "linnaeus.manager",
    "Config": "linnaeus.config",
    "LinnaeusError": "linnaeus.errors",
    "describe": "linnaeus.pth",
    "load": "linnaeus.pth",
    "load_config": "linnaeus.config",
    "load_pretrained": "linnaeus.pretrained",
    "preview": "linnaeus.pretrained",
    "ResumableLoader": "linnaeus.state",
    "resolve": "linnaeus.resolving",
    "save": "linnaeus.pth",
    "stitch": "linnaeus.pretrained",
    "verify": "linnaeus.pth",
}

__all__ = [
    "CheckpointManager",
    "Config",
    "LinnaeusError",
    "ResumableLoader",
    "describe",
    "load",
    "load_config",
    "load_pretrained",
    "preview",
    "resolve",
    "save",
    "stitch",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'linnaeus' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next use finds it without asking
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
