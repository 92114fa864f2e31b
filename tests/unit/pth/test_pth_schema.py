"""The description is what its published schema says."""

from __future__ import annotations

import json
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import jsonschema
import pytest
import torch

import linnaeus

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "format.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "obj",
    [
        {"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 3, "metrics": {"loss": float("nan")}},
        [1, -(1 << 70), 2.5, float("inf"), 1j, "é", b"\xff", None, True, (1, (2,)), {3}, torch.Size([1, 2])],
        {1: torch.float16, (2, "x"): torch.device("cuda", 1), "$": OrderedDict(a=Counter("aab"))},
        {
            "p": torch.nn.Parameter(torch.ones(2)),
            "s": torch.eye(3).to_sparse(),
            "m": torch.ones(2, device="meta"),
        },
        [torch.ones(2, dtype=torch.complex64).conj()] * 2,
    ],
    ids=["run", "values", "keys", "tensors", "twice"],
)
def test_descriptions_are_valid_against_the_schema(tmp_path: Path, obj: object) -> None:
    """What linnaeus.json holds is valid against docs/format.schema.json."""
    path = tmp_path / "x.pth"
    linnaeus.save(obj, path, about={"epoch": 3})
    with zipfile.ZipFile(path) as archive:
        document = json.loads(archive.read("archive/linnaeus.json"))
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_the_schema_itself_is_one() -> None:
    """docs/format.schema.json is a valid schema, and refuses what is no description."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({"format": 1})
