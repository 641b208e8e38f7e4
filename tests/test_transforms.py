"""Joint augmentation: images, labels and validity stay together, and normals turn with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as TF

from ctnet.data import transforms
from ctnet.data.transforms import (
    Normals,
    Strength,
    Validity,
    as_training_tensors,
    training_transform,
)

CLASSES = (0, 3, 7, 15, 20)
"""Ids with gaps: a mean of two of them is mostly no id at all."""


def blocks(height: int, width: int, side: int, seed: int = 0) -> np.ndarray:
    """Class ids that are constant on squares."""
    shape = (-(-height // side), -(-width // side))
    ids = np.random.default_rng(seed).choice(np.array(CLASSES, np.uint8), shape)
    return ids.repeat(side, 0).repeat(side, 1)[:height, :width]


def make_sample(height: int, width: int, side: int = 8) -> dict[str, Tensor]:
    """A sample whose red channel and saliency are the class id times 12, normals random."""
    ids = torch.from_numpy(blocks(height, width, side))[None]
    noise = torch.from_numpy(
        np.random.default_rng(1).integers(0, 256, (5, height, width), dtype=np.uint8)
    )
    return {
        "image": tv_tensors.Image(torch.cat([ids * 12, noise[:2]])),
        "seg": tv_tensors.Mask(ids),
        "saliency": Strength(ids * 12),
        "normals": Normals(noise[2:]),
        "valid": Validity(torch.ones(2, height, width, dtype=torch.uint8)),
    }


def augment(
    sample: dict[str, Tensor], seed: int, size: int, scale: tuple[float, float], long_side: int
) -> dict[str, np.ndarray]:
    torch.manual_seed(seed)
    found = as_training_tensors(training_transform(size, scale, long_side)(sample))
    assert all(type(value) is Tensor and value.dtype == torch.uint8 for value in found.values())
    return {name: value.numpy() for name, value in found.items()}


@pytest.fixture
def true_colors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "JITTER", 0.0)


def test_a_flip_negates_x_of_the_normals_alone() -> None:
    every_value = torch.arange(256, dtype=torch.uint8).repeat(3, 2, 1)
    flipped = TF.horizontal_flip(Normals(every_value))
    assert type(flipped) is Normals
    mirrored = every_value.flip(2)
    assert torch.equal(flipped[0].as_subclass(Tensor), 255 - mirrored[0])
    assert torch.equal(flipped[1:].as_subclass(Tensor), mirrored[1:])
    # Stored v becomes 255 - v: exactly the opposite of n = v / 127.5 - 1, without rounding.
    x, turned = mirrored[0].double() / 127.5 - 1, flipped[0].as_subclass(Tensor).double()
    torch.testing.assert_close(turned / 127.5 - 1, -x, rtol=0, atol=1e-15)
    assert torch.equal(TF.horizontal_flip(flipped).as_subclass(Tensor), every_value)
    assert every_value[0, 0, 0] == 0


@pytest.mark.parametrize("kind", [tv_tensors.Image, tv_tensors.Mask, Strength, Validity])
def test_a_flip_only_mirrors_the_rest(kind: type[Tensor]) -> None:
    values = torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)
    flipped = TF.horizontal_flip(kind(values))
    assert type(flipped) is kind
    assert torch.equal(flipped.as_subclass(Tensor), values.flip(2))


def test_whole_augmentation_against_an_independent_flip(true_colors: None) -> None:
    sample = make_sample(32, 32)
    sample["valid"][1, :, :9] = 0
    plain = {name: value.as_subclass(Tensor).numpy().copy() for name, value in sample.items()}
    mirrored = {name: value[:, :, ::-1].copy() for name, value in plain.items()}
    mirrored["normals"][0] = 255 - mirrored["normals"][0]
    seen = []
    for seed in range(12):
        found = augment(sample, seed, 32, (1, 1), 32)
        flipped = not np.array_equal(found["seg"], plain["seg"])
        for name, expected in (mirrored if flipped else plain).items():
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        seen.append(flipped)
    assert 2 < sum(seen) < 10


def test_beyond_the_image_nothing_is_labeled(true_colors: None) -> None:
    sample = make_sample(24, 32)
    for seed in range(6):
        found = augment(sample, seed, 64, (1, 1), 32)
        assert {value.shape[1:] for value in found.values()} == {(64, 64)}
        inside = found["valid"][0] == 1
        assert np.array_equal(found["valid"][1] == 1, inside)
        assert inside.sum() == 24 * 32
        rows, columns = inside.any(1).nonzero()[0], inside.any(0).nonzero()[0]
        assert (len(rows), len(columns)) == (24, 32)
        assert (np.diff(rows) == 1).all()
        assert (np.diff(columns) == 1).all()
        assert (found["seg"][0][~inside] == 255).all()
        assert set(np.unique(found["seg"][0][inside])) <= set(CLASSES)
        assert (found["image"][:, ~inside] == 127).all()


def test_scales_span_the_range_and_keep_the_aspect() -> None:
    sample = make_sample(20, 40)
    widths, ratios = [], []
    for seed in range(40):
        inside = augment(sample, seed, 96, (0.5, 1.5), 60)["valid"][0] == 1
        widths.append(int(inside.any(0).sum()))
        ratios.append(inside.any(1).sum() / inside.any(0).sum())
    assert 30 <= min(widths) < 40
    assert 80 < max(widths) <= 90
    np.testing.assert_allclose(ratios, 0.5, atol=0.03)


def test_class_maps_never_interpolate() -> None:
    sample = make_sample(40, 56, side=3)
    sample["seg"][:, :6] = 255
    for seed in range(20):
        found = augment(sample, seed, 32, (0.4, 1.7), 56)
        assert set(np.unique(found["seg"])) <= {*CLASSES, 255}
        assert set(np.unique(found["valid"])) <= {0, 1}


def test_strengths_are_resampled_smoothly() -> None:
    checkerboard = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255
    sample = make_sample(64, 64)
    sample["saliency"] = Strength(checkerboard[None].to(torch.uint8))
    small = augment(sample, 0, 32, (0.5, 0.5), 64)["saliency"]
    # Antialiased, so that the halves mix; picking the nearest would leave 0 or 255.
    assert np.abs(small[0, 2:-2, 2:-2].astype(int) - 127).max() < 20
    step = torch.zeros(1, 64, 64, dtype=torch.uint8)
    step[:, :, 32:] = 255
    sample["saliency"] = Strength(step)
    large = augment(sample, 0, 128, (2, 2), 64)["saliency"][0].astype(int)
    rises = np.abs(np.diff(large, axis=1))
    assert 50 < rises.max() < 130
    assert (rises.sum(1) == 255).all()


def test_images_and_labels_stay_aligned(true_colors: None) -> None:
    sample = make_sample(48, 64, side=12)
    for seed in range(12):
        found = augment(sample, seed, 64, (0.7, 1.6), 64)
        inside = found["valid"][0] == 1
        red, ids = found["image"][0].astype(int), found["seg"][0].astype(int)
        assert np.array_equal(inside, ids != 255)
        difference = np.abs(red - found["saliency"][0])[inside]
        assert difference.max() <= 1
        # Inside a block, where interpolation has nothing to mix, red spells the class.
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(ids, 3, mode="edge"), (7, 7))
        plain = inside & (windows == ids[..., None, None]).all((2, 3))
        assert plain.sum() > 200
        assert np.abs(red - 12 * ids)[plain].max() <= 1


def test_colors_change_and_labels_do_not() -> None:
    sample = make_sample(32, 32)
    red = set()
    for seed in range(5):
        found = augment(sample, seed, 32, (1, 1), 32)
        red.add(int(found["image"][0].astype(int).sum()))
        assert sorted(found["saliency"].ravel()) == sorted(sample["saliency"].flatten().tolist())
    assert len(red) == 5
