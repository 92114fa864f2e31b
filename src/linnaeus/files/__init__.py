"""Local bytes: temporary files, durable commits, locks, free space, checksums.

The one home of fsync, rename and link. Knows nothing of checkpoints, buckets or tensors.
"""

from linnaeus.files._checksum import file_digest
from linnaeus.files._commit import (
    commit,
    fsync_directory,
    fsync_file,
    hold,
    make_directory,
    point_link,
    publish_new,
    remove_file,
    set_aside,
    take_over,
    write_text,
)
from linnaeus.files._directories import claim_directory, commit_directory, publish_new_directory, remove
from linnaeus.files._lock import Lock
from linnaeus.files._owner import is_abandoned, owner_tag, sweep_abandoned, temporary_name
from linnaeus.files._recycle import Recycled, is_in_use, recycle, share_disk
from linnaeus.files._space import is_out_of_space, require_space, reserve
from linnaeus.files._writeback import WriteBack

__all__ = [
    "Lock",
    "Recycled",
    "WriteBack",
    "claim_directory",
    "commit",
    "commit_directory",
    "file_digest",
    "fsync_directory",
    "fsync_file",
    "hold",
    "is_abandoned",
    "is_in_use",
    "is_out_of_space",
    "make_directory",
    "owner_tag",
    "point_link",
    "publish_new",
    "publish_new_directory",
    "recycle",
    "remove",
    "remove_file",
    "require_space",
    "reserve",
    "set_aside",
    "share_disk",
    "sweep_abandoned",
    "take_over",
    "temporary_name",
    "write_text",
]
