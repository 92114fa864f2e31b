"""What one of several ranks meets while all save together, as an error of ours that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linnaeus.errors import InsufficientSpaceError, SaveError
from linnaeus.files import is_out_of_space


@dataclass(frozen=True, slots=True)
class Wording:
    """How errors speak of a kind of checkpoint.

    Attributes:
        whole: What can't hold everything.
        instead: What to do about that.
        made: What rank 0 makes for all.
        unseen: What it takes for all to see it.
    """

    whole: str
    instead: str
    made: str
    unseen: str


@contextlib.contextmanager
def told(path: Path, rank: int, wording: Wording) -> Iterator[None]:
    """Make an error of ours of what the system refuses and the format can't hold.

    Args:
        path: The checkpoint.
        rank: This process's number.
        wording: How to say it.

    Raises:
        SaveError: In place of it.
    """
    from linnaeus.pth._emit import RefusedError  # here: describing stays free of torch

    try:
        yield
    except RefusedError as error:
        problem = f"{error}, which {wording.whole} can't hold"
        raise SaveError(path=str(path), problem=problem, advice=wording.instead) from error
    except FileNotFoundError as error:
        problem = f"rank {rank} does not see the {wording.made} that rank 0 made"
        raise SaveError(path=str(path), problem=problem, advice=wording.unseen) from error
    except OSError as error:
        if is_out_of_space(error):
            problem = f"the disk became full on rank {rank}"
            raise InsufficientSpaceError(path=str(path), problem=problem) from error
        raise SaveError(path=str(path), problem=error.strerror or str(error)) from error


def same(said: list[Any]) -> Any:
    """Merge what ranks say of what they are about to write: the first one's word, and who says another."""
    first = said[0]
    odd = [rank for one in said for rank in one["odd"]]
    odd += [one["rank"] for one in said if one["digest"] != first["digest"]]
    return first | {"odd": odd}
