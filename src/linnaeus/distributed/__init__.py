"""How the ranks of a job agree: roles, decisions made once, barriers that carry errors.

Everything goes through the job's key-value store, never through a collective, so that a background thread may
agree too and a rank that fails leaves nobody in a call that can't be left. Every wait has a deadline, and the
error that ends it names the ranks that were waited for. Without a process group the same calls work, for one.
"""

from linnaeus.distributed._group import Group
from linnaeus.distributed._join import alone, join
from linnaeus.distributed._rhythm import Rhythm
from linnaeus.distributed._roles import Roles
from linnaeus.distributed._store import Store
from linnaeus.distributed._tree import children, parent

__all__ = ["Group", "Rhythm", "Roles", "Store", "alone", "children", "join", "parent"]
