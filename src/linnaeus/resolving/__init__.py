"""From the name of a checkpoint to a verified local file.

The order is the documented one: an absolute path is used if it exists; a file name is looked up in the
cache, then fetched from the bucket if that is enabled; otherwise there is an error that names every place
looked at. A name may be held to one content, by `@sha256:…` or by a lock file.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from linnaeus.resolving._identifier import check_name, is_absolute, text_of
from linnaeus.resolving._look import all_there, describe, describe_there, is_only_there, sharded_there
from linnaeus.resolving._resolve import resolve, resolve_in

if TYPE_CHECKING:
    from linnaeus.resolving._cache import (
        Cached,
        Eviction,
        cached_files,
        drop_unfinished,
        evict,
        plan_eviction,
        verify_cache,
    )
    from linnaeus.resolving._fetch import fetch_from
    from linnaeus.resolving._fetch_sharded import complete_sharded, fetch_sharded
    from linnaeus.resolving._locking import lock, names_in
    from linnaeus.resolving._passing import facts_of, pass_files, pass_on
    from linnaeus.resolving._pins import read_lock, split_pin
    from linnaeus.resolving._sharded_there import about_sharded, sizes_there
    from linnaeus.resolving._sharing import who_shares
    from linnaeus.resolving._together import resolve_together

__all__ = [
    "Cached",
    "Eviction",
    "about_sharded",
    "all_there",
    "cached_files",
    "check_name",
    "complete_sharded",
    "describe",
    "describe_there",
    "drop_unfinished",
    "evict",
    "facts_of",
    "fetch_from",
    "fetch_sharded",
    "is_absolute",
    "is_only_there",
    "lock",
    "names_in",
    "pass_files",
    "pass_on",
    "plan_eviction",
    "read_lock",
    "resolve",
    "resolve_in",
    "resolve_together",
    "sharded_there",
    "sizes_there",
    "split_pin",
    "text_of",
    "verify_cache",
    "who_shares",
]

# A cache hit, which is what mostly happens, loads none of these.
_LATER = {
    "about_sharded": "_sharded_there",
    "sizes_there": "_sharded_there",
    "Cached": "_cache",
    "Eviction": "_cache",
    "cached_files": "_cache",
    "drop_unfinished": "_cache",
    "evict": "_cache",
    "plan_eviction": "_cache",
    "verify_cache": "_cache",
    "fetch_from": "_fetch",
    "complete_sharded": "_fetch_sharded",
    "fetch_sharded": "_fetch_sharded",
    "lock": "_locking",
    "names_in": "_locking",
    "facts_of": "_passing",
    "pass_files": "_passing",
    "pass_on": "_passing",
    "read_lock": "_pins",
    "split_pin": "_pins",
    "resolve_together": "_together",
    "who_shares": "_sharing",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
