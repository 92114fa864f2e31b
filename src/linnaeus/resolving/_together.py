"""One name resolved by all ranks of a job: as few downloads as their caches allow.

Of the ranks that share a cache, one fetches for all. While it does, the others wait for its sign of life;
when it fails or is gone, all raise the same error at once, and who still fetches elsewhere is told to end.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from linnaeus.config import Config
from linnaeus.errors import CheckpointNotFoundError, LinnaeusError
from linnaeus.remote import Transfer
from linnaeus.resolving._fetch import UnwantedError
from linnaeus.resolving._identifier import check_name, is_absolute
from linnaeus.resolving._passing import facts_of, pass_on
from linnaeus.resolving._pins import expected_of, split_pin
from linnaeus.resolving._records import WORK_DIRECTORY
from linnaeus.resolving._resolve import resolve
from linnaeus.resolving._sharing import Job, united, who_shares


def resolve_together(identifier: str, cfg: Config, job: Job) -> Path:
    """Return the local file that an identifier names, on every rank; call it on every rank.

    Args:
        identifier: As for `resolve`.
        cfg: As for `resolve`, the same on every rank but for directories.
        job: All ranks.

    Raises:
        LinnaeusError: What `resolve` raised on the first rank that failed, on every rank.
        PeerFailedError: A rank is missing.
    """
    if job.world_size == 1:
        return resolve(identifier, cfg)
    what = f"resolving {identifier}"
    if not is_absolute(identifier) and not job.agree(what, lambda: _is_here(identifier, cfg), merge=all):
        _provide(identifier, cfg, job, what)
    found: list[Path] = []
    job.agree(what, lambda: found.append(resolve(identifier, cfg)), alike=True)
    return found[0]


def _is_here(identifier: str, cfg: Config) -> bool:
    """Tell whether a name is in this rank's cache; of what has its home elsewhere that is not known."""
    if "://" in identifier:
        return False
    path = cfg.ENV.INPUT.CACHE_DIR / check_name(split_pin(identifier)[0])
    return path.is_file() or path.is_dir()  # what else it may be, resolving it tells


def _provide(identifier: str, cfg: Config, job: Job, what: str) -> None:
    """See to it that each cache has what an identifier names."""
    cache = cfg.ENV.INPUT.CACHE_DIR
    mine, leaders = who_shares(cache / WORK_DIRECTORY, job, what)
    if cfg.ENV.INPUT.BUCKET.PER_JOB and len(leaders) > 1 and not identifier.startswith("hf://"):
        _fetch_for_all(identifier, cfg, job, what, leaders)
    else:
        job.decide_apart(what, mine, lambda still_wanted: str(_fetch(identifier, cfg, still_wanted)))
    if "://" not in identifier:
        job.agree(what, lambda: _require_seen(cache / split_pin(identifier)[0]), alike=True)


def _fetch_for_all(identifier: str, cfg: Config, job: Job, what: str, leaders: list[int]) -> None:
    """Fetch once, or not at all where one of the caches has it, and hand it to the other caches."""
    leads = job.rank in leaders
    having = job.agree(
        what, lambda: [job.rank] if leads and _is_here(identifier, cfg) else [], merge=united, alike=True
    )
    source = (having or leaders)[0]
    told = job.decide_apart(what, source, lambda wanted: facts_of(_fetch(identifier, cfg, wanted)))
    path = cfg.ENV.INPUT.CACHE_DIR / told["name"]
    lacking = job.agree(what, lambda: [job.rank] if leads and not path.exists() else [], merge=united)
    if lacking:
        expected = expected_of(*split_pin(identifier), cfg.ENV.INPUT.LOCK)
        pass_on(job, what, [source, *lacking], told, path, expected=expected)


def _fetch(identifier: str, cfg: Config, still_wanted: Callable[[], None]) -> Path:
    def look(_: Transfer) -> None:
        try:
            still_wanted()
        except LinnaeusError as error:
            raise UnwantedError from error

    try:
        return resolve(identifier, cfg, progress=look)
    except UnwantedError:
        still_wanted()
        raise


def _require_seen(path: Path) -> None:
    """Check that this rank sees a file that was fetched, perhaps by another one."""
    if path.name not in {entry.name for entry in path.parent.iterdir()}:  # network filesystems look again
        raise CheckpointNotFoundError(
            identifier=path.name,
            places=[f"another rank fetched it, and it is not seen in {path.parent}"],
        )
