"""The checkpoint file: one plain `.pth` that proves itself.

Reading its structure needs neither torch nor unpickling its code; only `load` and `save`, which make
and take tensors, import torch. Where a file comes from and what a run puts into it are other rooms' business.
"""

from linnaeus.pth._describe import Description, describe
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._load import load
from linnaeus.pth._save import save
from linnaeus.pth._verify import VerifyReport, require_valid, verify

__all__ = ["Description", "TensorInfo", "VerifyReport", "describe", "load", "require_valid", "save", "verify"]
