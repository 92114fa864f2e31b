"""The checkpoint file: one plain `.pth` that proves itself; where ranks share no disk, a directory of shards.

Reading its structure needs neither torch nor unpickling its code; only `load` and `save`, which make
and take tensors, import torch. Where a file comes from and what a run puts into it are other rooms' business.
"""

from linnaeus.pth._brief import Brief, brief
from linnaeus.pth._collection import collection_paused
from linnaeus.pth._commit_file import COMMIT, SHARDED, FileSum, is_sharded, size_of
from linnaeus.pth._compare import Comparison, TensorDifference, ValueDifference, compare
from linnaeus.pth._dcp_metadata import METADATA
from linnaeus.pth._describe import Description, describe
from linnaeus.pth._document import TensorInfo
from linnaeus.pth._fill import Source, mapped_file
from linnaeus.pth._finite import not_finite
from linnaeus.pth._glance import glance, glance_sharded
from linnaeus.pth._held import Stillness, all_torn, require_still, torn_save
from linnaeus.pth._leaves import Leaves, leaves
from linnaeus.pth._load import load
from linnaeus.pth._memory import memory_of, region
from linnaeus.pth._ranks import Ranks
from linnaeus.pth._rewrite import rewrite_as_directory, rewrite_as_file
from linnaeus.pth._safetensors import INDEX_SUFFIX, joined_parts, parse_index
from linnaeus.pth._save import save, save_error, take_apart
from linnaeus.pth._save_sharded import save_sharded, write_sharded
from linnaeus.pth._save_together import save_together
from linnaeus.pth._shard_sums import digest_of, files_told_of, sums_of, sums_there
from linnaeus.pth._shares import Piece, Shares
from linnaeus.pth._sketch import sketch, sketch_sharded_there, sketch_there
from linnaeus.pth._stored import StoredTensor
from linnaeus.pth._trusted import rewrite_trusted
from linnaeus.pth._verify import VerifyReport, require_valid, verify

__all__ = [
    "COMMIT",
    "INDEX_SUFFIX",
    "METADATA",
    "SHARDED",
    "Brief",
    "Comparison",
    "Description",
    "FileSum",
    "Leaves",
    "Piece",
    "Ranks",
    "Shares",
    "Source",
    "Stillness",
    "StoredTensor",
    "TensorDifference",
    "TensorInfo",
    "ValueDifference",
    "VerifyReport",
    "all_torn",
    "brief",
    "collection_paused",
    "compare",
    "describe",
    "digest_of",
    "files_told_of",
    "glance",
    "glance_sharded",
    "is_sharded",
    "joined_parts",
    "leaves",
    "load",
    "mapped_file",
    "memory_of",
    "not_finite",
    "parse_index",
    "region",
    "require_still",
    "require_valid",
    "rewrite_as_directory",
    "rewrite_as_file",
    "rewrite_trusted",
    "save",
    "save_error",
    "save_sharded",
    "save_together",
    "size_of",
    "sketch",
    "sketch_sharded_there",
    "sketch_there",
    "sums_of",
    "sums_there",
    "take_apart",
    "torn_save",
    "verify",
    "write_sharded",
]
