"""What a run consists of, as plain values and tensors, and back again.

Model, optimizer, scheduler, scaler, EMA, random streams, data position and progress. Where this is stored
is other rooms' business.
"""

from linnaeus.state._guard import Guard
from linnaeus.state._loader import ResumableLoader
from linnaeus.state._not_finite import refuse_not_finite
from linnaeus.state._of_ranks import begin_together, capture_share, own_share, share_of
from linnaeus.state._parts import RunParts
from linnaeus.state._progress import Progress
from linnaeus.state._restore import restore
from linnaeus.state._rng import capture_rng, restore_rng
from linnaeus.state._rng_of_ranks import streams_read
from linnaeus.state._shards import holds_shards, own_box, tensors_in
from linnaeus.state._share import Share
from linnaeus.state._snapshot import Snapshot, hooked_optimizers, take_snapshot
from linnaeus.state._spare import SpareMemory

__all__ = [
    "Guard",
    "Progress",
    "ResumableLoader",
    "RunParts",
    "Share",
    "Snapshot",
    "SpareMemory",
    "begin_together",
    "capture_rng",
    "capture_share",
    "holds_shards",
    "hooked_optimizers",
    "own_box",
    "own_share",
    "refuse_not_finite",
    "restore",
    "restore_rng",
    "share_of",
    "streams_read",
    "take_snapshot",
    "tensors_in",
]
