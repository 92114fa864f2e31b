"""Very many tensors, and a state that is large beside the memory that saving it may take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

import linnaeus

MANY = 100_000


def test_a_hundred_thousand_tensors_are_saved_verified_described_and_loaded(tmp_path: Path) -> None:
    """All of them, each with its own storage, come back through ours and through torch's own reader."""
    values = torch.arange(MANY * 2, dtype=torch.float32).view(MANY, 2)
    tree = {f"layer.{number}": row.clone() for number, row in enumerate(values)}
    path = tmp_path / "many.pth"
    linnaeus.save(tree, path)
    report = linnaeus.verify(path)
    assert report.ok
    assert report.num_tensors == MANY
    for loaded in (linnaeus.load(path), torch.load(path, weights_only=True)):
        assert list(loaded) == list(tree)
        assert torch.equal(torch.stack(list(loaded.values())), values)
        assert len({tensor.data_ptr() for tensor in loaded.values()}) == MANY


MEASURED = """
import resource, sys
import torch
import linnaeus

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

linnaeus.save({"w": torch.ones(10)}, sys.argv[1] + "/warm.pth")
base = torch.ones(25_000_000)
state = {"a": base, "t": base.view(5000, 5000).t(), "many": [torch.ones(500_000) for _ in range(50)]}
state["wide"] = torch.ones(100_000_000, dtype=torch.uint8)
before = peak()
linnaeus.save(state, sys.argv[1] + "/x.pth", durable=False)
print(peak() - before)
linnaeus.save(state, sys.argv[1] + "/x.pth", durable=False)
print(peak() - before)
assert linnaeus.verify(sys.argv[1] + "/x.pth").ok
print(peak() - before)
linnaeus.describe(sys.argv[1] + "/x.pth")
loaded = linnaeus.load(sys.argv[1] + "/x.pth")
print(peak() - before)
assert len(loaded["many"]) == 50
"""


def test_saving_takes_no_copy_of_the_state(tmp_path: Path) -> None:
    """300 MB are saved, verified and mapped with less than 64 MB more than the state itself takes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.pth").stat().st_size > 300_000_000
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == 4
    assert max(grown) < 64 << 20, grown
