"""A state is put back whole, or not at all."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import linnaeus
from linnaeus.errors import ConfigError, ResumeMismatchError
from linnaeus.state import Progress, RunParts, capture_rng, restore
from support.small_run import SmallRun
from support.trees import same


def trained(num_steps: int = 3, **settings: Any) -> SmallRun:
    """Return a run that has done some steps."""
    run = SmallRun(**settings)
    for batch, _ in zip(run.loader, range(num_steps), strict=False):
        run.learn(batch)
    return run


def parts(run: SmallRun, **others: Any) -> RunParts:
    """Return a run's parts, some of them replaced."""
    return RunParts(**(run.parts() | others))


def through_a_file(state: Any, tmp_path: Path) -> Any:
    """Return a state as it comes out of a checkpoint."""
    linnaeus.save(state, tmp_path / "state.pth")
    return linnaeus.load(tmp_path / "state.pth", mmap=False)


def test_all_parts_come_back_bit_for_bit(tmp_path: Path) -> None:
    """Model with batch statistics, optimizer, schedule, average, scaler, position and streams."""
    run = trained()
    saved = through_a_file(parts(run).capture(), tmp_path)
    expected = copy.deepcopy(run.state())
    other = trained(1, seed=8)
    assert restore(parts(other), saved, "x.pth", complete=True) == []
    assert same(other.state(), expected)
    assert other.model[1].num_batches_tracked == 3


class Refusing:
    """A part that takes no state."""

    def state_dict(self) -> dict[str, Any]:
        """Return something."""
        return {"a": 1}

    def load_state_dict(self, state: Any) -> None:
        """Refuse the saved state, not its own."""
        if state != self.state_dict():
            raise RuntimeError("I won't")


class RefusingModel(nn.Sequential):
    """A model that refuses at the very end."""

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Refuse before anything is copied."""
        raise RuntimeError("I won't")


def everything(run: SmallRun) -> Any:
    """Return all that a refused restore must leave as it is, streams included."""
    streams = capture_rng()
    return copy.deepcopy({name: part.state_dict() for name, part in run.parts().items()} | {"rng": streams})


LATE = {
    "the second optimizer": lambda run: {"optimizer": [run.optimizer, Refusing()]},
    "the second average": lambda run: {"ema": {"a": run.ema, "b": Refusing()}},
    "the second scaler": lambda run: {"scaler": [run.scaler, Refusing()]},
    "the model": lambda run: {"model": RefusingModel(*run.model)},
}


@pytest.mark.parametrize("late", LATE)
def test_when_a_late_part_refuses_all_earlier_ones_are_as_before(late: str) -> None:
    """Whatever refuses, no part and no random stream keeps anything of the checkpoint."""
    source = trained()
    saved = copy.deepcopy(parts(source, **LATE[late](source)).capture())
    for key in ("optimizer", "ema", "scaler"):
        for name, one in saved[key].items() if isinstance(saved[key], dict) else ():
            if one == {"a": 1}:
                saved[key][name] = {"a": 2}
    run = trained(1, seed=8)
    random.gauss(0, 1)
    before = everything(run)
    with pytest.raises(ResumeMismatchError, match="I won't"):
        restore(parts(run, **LATE[late](run)), saved, "x.pth", complete=True)
    assert same(everything(run), before)


def test_streams_that_cannot_be_restored_leave_everything_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that needs numpy where there is none changes nothing."""
    import sys

    saved = copy.deepcopy(parts(trained()).capture())
    run = trained(1, seed=8)
    before = everything(run)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "numpy", None)
        with pytest.raises(ResumeMismatchError, match="numpy"):
            restore(parts(run), saved, "x.pth", complete=True)
    del saved["rng"]["python"]
    with pytest.raises(ResumeMismatchError, match="rng"):
        restore(parts(run), saved, "x.pth", complete=True)
    assert same(everything(run), before)


def broken(saved: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return for each way to differ the changed state and the line that tells it."""
    model = dict(saved["model"])
    extra, lacking, odd = {**model, "new": torch.ones(1)}, dict(model), {**model, "0.bias": 3}
    del lacking["0.bias"]
    wide = {**model, "0.bias": torch.ones(9)}
    groups = {"state": {}, "param_groups": [{"params": [0]}]}
    several = {"a": saved["optimizer"]}
    no_state = "optimizer: the checkpoint holds no optimizer state there"
    fewer = "optimizer: parameters per group are [1] in the checkpoint, [6] here"
    lacks = "this run has it, the checkpoint has not"
    return {
        "extra tensor": (saved | {"model": extra}, "model.new: not in this run's model"),
        "missing tensor": (saved | {"model": lacking}, "model.0.bias: not in the checkpoint"),
        "other shape": (saved | {"model": wide}, "model.0.bias: (9,) in the checkpoint, (8,) here"),
        "no tensor": (saved | {"model": odd}, "model.0.bias: a int in the checkpoint, a tensor here"),
        "no model": (saved | {"model": [1]}, "model: the checkpoint holds a list there"),
        "other groups": (saved | {"optimizer": groups}, fewer),
        "no optimizer": (saved | {"optimizer": {"a": 1}}, no_state),
        "several optimizers": (saved | {"optimizer": several}, no_state),
        "no scaler": ({k: v for k, v in saved.items() if k != "scaler"}, f"scaler: {lacks}"),
        "no streams": ({k: v for k, v in saved.items() if k != "rng"}, f"rng: {lacks}"),
        "other average": (saved | {"ema": {"a": 1}}, "ema.module.0.bias: not in the checkpoint"),
    }  # fmt: skip


WAYS = [
    "extra tensor", "missing tensor", "other shape", "no tensor", "no model", "other groups", "no optimizer",
    "several optimizers", "no scaler", "no streams", "other average",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_differences_are_listed_and_nothing_is_changed(way: str) -> None:
    """A checkpoint of another run's shape is refused with a line for each difference."""
    saved, line = broken(copy.deepcopy(parts(trained()).capture()))[way]
    run = trained(1, seed=8)
    before = everything(run)
    with pytest.raises(ResumeMismatchError) as caught:
        restore(parts(run), saved, "/runs/x.pth", complete=True)
    assert line in caught.value.details
    assert line in str(caught.value)
    assert "/runs/x.pth" in str(caught.value)
    assert "MODEL.PRETRAINED" in str(caught.value)
    assert same(everything(run), before)


def test_every_difference_is_listed_at_once() -> None:
    """Who repairs one does not meet the next only at the next start."""
    saved = copy.deepcopy(parts(trained()).capture())
    del saved["scaler"], saved["model"]["0.bias"], saved["model"]["0.weight"]
    with pytest.raises(ResumeMismatchError) as caught:
        restore(parts(SmallRun()), saved, "x.pth", complete=True)
    assert len(caught.value.details) == 3


def test_a_part_that_only_the_checkpoint_has_is_a_difference() -> None:
    """A scaler that would be forgotten is told, not dropped; None stands for no such part."""
    run = trained()
    saved = copy.deepcopy(parts(run).capture())
    fewer = RunParts(**(run.parts() | {"scaler": None}))
    with pytest.raises(ResumeMismatchError, match="scaler: the checkpoint has it, this run has not"):
        restore(fewer, saved, "x.pth", complete=True)
    restore(fewer, saved | {"scaler": None}, "x.pth", complete=True)


def test_an_incomplete_checkpoint_of_others_may_lack_what_is_not_essential() -> None:
    """Files of earlier versions hold no streams, position, scaler or average; model and optimizer they do."""
    saved = copy.deepcopy(parts(trained()).capture())
    old = {key: saved[key] for key in ("model", "optimizer", "lr_scheduler")}
    missing = restore(parts(SmallRun()), old, "x.pth", complete=False)
    assert sorted(missing) == ["data", "ema", "rng", "scaler"]
    del old["optimizer"]
    with pytest.raises(ResumeMismatchError, match="optimizer: this run has it"):
        restore(parts(SmallRun()), old, "x.pth", complete=False)


def test_skipped_parts_are_left_alone() -> None:
    """What the user wants fresh is neither compared nor restored."""
    saved = copy.deepcopy(parts(trained()).capture())
    run = trained(1, seed=8)
    before = copy.deepcopy(run.optimizer.state_dict())
    restore(parts(run), saved | {"optimizer": "junk"}, "x.pth", complete=True, skip=frozenset({"optimizer"}))
    assert same(run.optimizer.state_dict(), before)
    assert same(dict(run.model.state_dict()), dict(saved["model"]))


def optimized(model: nn.Module, *, state_dtype: torch.dtype) -> torch.optim.Optimizer:
    """Return an optimizer whose state has another dtype than its bf16 parameters."""
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for state in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.randn(state[name].shape, dtype=torch.float64).to(state_dtype)
    return optimizer


def test_optimizer_state_keeps_its_dtype_beside_bf16_parameters(tmp_path: Path) -> None:
    """32-bit averages of 16-bit weights come back with all their bits, which torch alone would cut."""
    model = nn.Linear(5, 3).bfloat16()
    optimizer = optimized(model, state_dtype=torch.float32)
    saved = through_a_file(RunParts(model=model, optimizer=optimizer).capture(), tmp_path)
    other = nn.Linear(5, 3).bfloat16()
    fresh = torch.optim.AdamW(other.parameters(), foreach=False)
    restore(RunParts(model=other, optimizer=fresh), saved, "x.pth", complete=True)
    assert same(fresh.state_dict(), optimizer.state_dict())
    assert fresh.state[other.weight]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("container", [list, tuple, dict])
def test_several_optimizers_and_schedules_are_kept_apart(container: Any, tmp_path: Path) -> None:
    """Lists, tuples and dicts of parts come back each to its own."""

    def make(seed: int) -> tuple[nn.Module, Any, Any, list[Any]]:
        torch.manual_seed(seed)
        model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 3)])
        first = torch.optim.SGD(model[0].parameters(), lr=0.1 * seed, momentum=0.9)
        second = torch.optim.AdamW(model[1].parameters(), lr=0.2 * seed)
        schedules = [torch.optim.lr_scheduler.StepLR(one, 1) for one in (first, second)]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) * seed
        for act in (first, second, *schedules):
            act.step()
        both = [first, second]
        if container is dict:
            return model, {"a": first, "b": second}, dict(zip("ab", schedules, strict=True)), both + schedules
        return model, container(both), container(schedules), both + schedules

    model, optimizers, schedules, singles = make(1)
    saved = through_a_file(
        RunParts(model=model, optimizer=optimizers, lr_scheduler=schedules).capture(), tmp_path
    )
    other, others, other_schedules, other_singles = make(2)
    restore(RunParts(model=other, optimizer=others, lr_scheduler=other_schedules), saved, "x", complete=True)
    for mine, restored in zip(singles, other_singles, strict=True):
        assert same(restored.state_dict(), mine.state_dict())
    with pytest.raises(ResumeMismatchError, match="optimizer"):
        restore(
            RunParts(model=other, optimizer=singles[0], lr_scheduler=other_schedules),
            saved,
            "x",
            complete=True,
        )


class Compiled(nn.Module):
    """Stands in for what torch.compile returns: the model under `_orig_mod`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model


def test_wrappers_are_seen_through(tmp_path: Path) -> None:
    """Names carry no prefix of a compile or data-parallel wrapper, so any of them resumes from any other."""
    model = nn.Linear(2, 2)
    wrapped = [
        Compiled(model),
        nn.DataParallel(model),
        nn.DataParallel(Compiled(model)),
        Compiled(nn.DataParallel(model)),
    ]
    for one in wrapped:
        saved = RunParts(model=one).capture()
        assert sorted(saved["model"]) == ["bias", "weight"]
        other = nn.Linear(2, 2)
        restore(RunParts(model=Compiled(other)), through_a_file(saved, tmp_path), "x", complete=True)
        assert torch.equal(other.weight, model.weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_real_compile_wrapper_is_seen_through() -> None:
    """What torch.compile itself returns carries no prefix either."""
    model = torch.compile(nn.Linear(2, 2))
    assert sorted(RunParts(model=model).capture()["model"]) == ["bias", "weight"]


def test_a_part_without_a_state_is_refused_when_the_run_starts() -> None:
    """What can't be saved is told at once, not at the first save."""
    with pytest.raises(ConfigError, match=r"lr_scheduler.*state_dict"):
        RunParts(model=nn.Linear(1, 1), lr_scheduler=object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ResumableLoader"):
        RunParts(model=nn.Linear(1, 1), loader=iter([1]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="b needs"):
        RunParts(model=nn.Linear(1, 1), optimizer={"a": torch.optim.SGD([torch.ones(1)]), "b": 3})  # type: ignore[dict-item]


def test_progress_counts_and_survives() -> None:
    """Steps and epochs are counted as they are stored."""
    progress = Progress().after_step().after_step().after_epoch().after_step()
    assert progress == Progress(epoch=1, step=3, step_in_epoch=1)
    again = Progress.from_checkpoint({"progress": progress.to_plain()}, Path("x.pth"))
    assert (again.epoch, again.step, again.step_in_epoch, again.resumed_from) == (1, 3, 1, Path("x.pth"))


@pytest.mark.parametrize(
    ("saved", "name", "expected"),
    [
        ({"epoch": 4, "iteration": 90}, "latest.pth", (5, 90)),
        ({"epoch": 4, "training_progress": {}}, "latest.pth", (5, 0)),
        ({"epoch": 4}, "ckpt_epoch_4.pth", (5, 0)),
        ({"epoch": 4, "step": 90}, "x.pth", (4, 90)),
        ({"epoch": 4}, "x.pth", (4, 0)),
        ({}, "x.pth", (0, 0)),
    ],
)
def test_progress_of_files_of_others(saved: dict[str, Any], name: str, expected: tuple[int, int]) -> None:
    """Earlier linnaeus named the epoch just trained, from 0; others' epochs are taken as they stand."""
    progress = Progress.from_checkpoint(saved, Path(name))
    assert (progress.epoch, progress.step) == expected
