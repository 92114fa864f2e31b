"""Choose the checkpoint that a run goes on from: the newest valid one, with a reason for each passed over."""

from linnaeus.resuming._bring_back import bring_back, needed_files
from linnaeus.resuming._choose import Choice, choose, choose_newest
from linnaeus.resuming._together import choose_together

__all__ = ["Choice", "bring_back", "choose", "choose_newest", "choose_together", "needed_files"]
