"""The images of the reference trainer."""

import pytest
import torch

sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn ships the images")

from linnaeus.training._data import load_data  # noqa: E402 - after the skip
from linnaeus.training._options import DataOptions  # noqa: E402


def test_the_images_are_those_of_scikit_learn() -> None:
    """Training and held-out images together are exactly the digits, with their labels and parities."""
    data = load_data(DataOptions())
    truth = sklearn_datasets.load_digits()
    images = torch.cat([data.train.images, data.validation.images]).reshape(-1, 64)
    digits = torch.cat([data.train.labels["digit"], data.validation.labels["digit"]])
    rows = sorted(
        [*image, digit] for image, digit in zip((images * 16).tolist(), digits.tolist(), strict=True)
    )
    assert rows == sorted([*image, int(digit)] for image, digit in zip(truth.data, truth.target, strict=True))
    assert torch.equal(data.train.labels["parity"], data.train.labels["digit"] % 2)


def test_the_split_is_always_the_same() -> None:
    """Loading twice gives the same images held out, whatever the global random stream."""
    first = load_data(DataOptions())
    torch.manual_seed(99)
    second = load_data(DataOptions())
    assert torch.equal(first.validation.images, second.validation.images)


def test_shift_moves_the_image_without_loss_of_size() -> None:
    """A shifted image is a window of the padded one; held-out images are never moved."""
    data = load_data(DataOptions(SHIFT=1))
    torch.manual_seed(0)
    moved = {tuple(data.train[5][0].flatten().tolist()) for _ in range(50)}
    assert len(moved) == 9
    assert {data.train[5][0].shape for _ in range(3)} == {torch.Size([1, 8, 8])}
    assert torch.equal(data.validation[5][0], data.validation.images[5])


def test_images_are_scaled() -> None:
    """IMG_SIZE sets the pixels per side."""
    assert load_data(DataOptions(IMG_SIZE=16)).train.images.shape[-2:] == (16, 16)
