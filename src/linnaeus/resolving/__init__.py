"""From the name of a checkpoint to a verified local file.

The order is the documented one: an absolute path is used if it exists; a file name is looked up in the
cache, then fetched from the bucket if that is enabled; otherwise there is an error that names every place
looked at.
"""

from linnaeus.resolving._identifier import check_name, is_absolute
from linnaeus.resolving._look import describe, describe_there
from linnaeus.resolving._resolve import resolve, resolve_in

__all__ = ["check_name", "describe", "describe_there", "is_absolute", "resolve", "resolve_in"]
