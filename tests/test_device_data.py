"""Photographs in the device's memory: crops, colors and palettes of whole batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as TF

from ctnet.data.dataset import CompositeDataset, Sample, open_source
from ctnet.data.device_data import Crops, DeviceData, batch_palettes, draw_crops
from ctnet.rules import R1, R2, RRND, get_rule
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.config import TrainConfig
from ctnet.training.shared_batches import SharedBatches

CPU = torch.device("cpu")


@pytest.fixture
def source(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return open_source("compositemt", write_photographs(root), "train")


@pytest.fixture
def data(source):
    return DeviceData(source, DEFAULT_TASKS, CPU)


def crop(n, scale=1.0, left=0.0, top=0.0, flip=False, color=(1.0, 1.0, 1.0)):
    def full(value):
        return torch.full((n,), value)

    return Crops(full(scale), full(left), full(top), full(flip), torch.tensor(color).repeat(n, 1))


def test_a_crop_at_scale_one_is_a_piece_of_the_image(data, source):
    batch = data.batch([2, 0], crop(2, left=8.0, top=3.0), 32)
    whole = CompositeDataset(source, None)
    for n, index in enumerate((2, 0)):
        expected = whole[index]
        rows, columns = slice(3, 35), slice(8, 40)
        torch.testing.assert_close(batch.image[n], expected.image[:, rows, columns])
        assert torch.equal(batch.valid[n], expected.valid[:, rows, columns])
        for name in DEFAULT_TASKS:
            wanted = expected.labels[name][..., rows, columns]
            torch.testing.assert_close(batch.labels[name][n], wanted, rtol=0, atol=1e-5)
    assert (batch.palette == 255).all()


def test_a_mirrored_crop_mirrors_the_normals_too(data):
    plain, mirrored = (data.batch([1], crop(1, flip=flip), 32) for flip in (False, True))
    torch.testing.assert_close(mirrored.image, plain.image.flip(3))
    assert torch.equal(mirrored.labels["seg"], plain.labels["seg"].flip(2))
    normals = plain.labels["normals"].flip(3) * torch.tensor([-1.0, 1, 1])[:, None, None]
    torch.testing.assert_close(mirrored.labels["normals"], normals)


def test_an_enlarged_crop_repeats_classes(data):
    small, large = data.batch([3], crop(1), 20), data.batch([3], crop(1, scale=2.0), 40)
    repeated = small.labels["seg"].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(large.labels["seg"], repeated)
    assert large.labels["normals"].norm(dim=1).sub(1).abs().max() < 1e-5


def test_nothing_is_labeled_beyond_the_image(data):
    batch = data.batch([0], crop(1, left=-8.0, top=-4.0), 64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[4:44, 8:56] = True
    assert torch.equal(batch.valid[0, 2], inside)
    assert (batch.labels["seg"][0][~inside] == 255).all()
    assert (batch.labels["parts"][0][~inside] == 255).all()
    assert batch.image[0][:, ~inside].sub(127 / 255).abs().max() < 1e-6


@pytest.mark.parametrize("factors", [(0.7, 1.0, 1.0), (1.0, 1.3, 1.0), (1.0, 1.0, 0.7), (1.2,) * 3])
def test_colors_change_as_torchvision_has_it(data, factors):
    plain = data.batch([0, 1], crop(2), 32).image
    found = data.batch([0, 1], crop(2, color=factors), 32).image
    expected = TF.adjust_brightness(plain, factors[0])
    expected = TF.adjust_contrast(expected, factors[1])
    expected = TF.adjust_saturation(expected, factors[2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_crops_lie_in_images_that_have_room():
    sizes = torch.tensor([[100, 300], [40, 50]]).repeat(200, 1)
    crops = draw_crops(np.random.default_rng(0), sizes, 64, (0.75, 1.25))
    side = 64 / crops.scale
    assert crops.scale.min() >= 0.75 and crops.scale.max() <= 1.25
    for corner, room in ((crops.top, sizes[:, 0] - side), (crops.left, sizes[:, 1] - side)):
        low, high = torch.minimum(room, torch.zeros(400)), torch.maximum(room, torch.zeros(400))
        assert ((corner >= low - 1e-4) & (corner <= high + 1e-4)).all()
    assert 0.4 < crops.flip.float().mean() < 0.6


def test_a_batch_depends_on_seed_and_step_alone(data):
    config = TrainConfig("x", crop_size=32, batch_size=3, scale_range=(0.5, 1.0))
    weights = torch.ones(4, dtype=torch.float64)
    first, second = (SharedBatches(data, config, weights)[5] for _ in range(2))
    assert torch.equal(first.sample.image, second.sample.image)
    assert torch.equal(first.labeled, second.labeled)
    for other in (replace(config, seed=1), config):
        step = 5 if other.seed else 6
        image = SharedBatches(data, other, weights)[step].sample.image
        assert not torch.equal(first.sample.image, image)


def test_labels_that_are_missing(write_photographs, tmp_path):
    root = tmp_path / "missing"
    root.mkdir()
    index = write_photographs(root) / "index.csv"
    rows = [line.split(",") for line in index.read_text().splitlines()]
    for name in ("seg", "normals"):
        rows[1][rows[0].index(name)] = ""
    index.write_text("\n".join(",".join(row) for row in rows))
    data = DeviceData(open_source("compositemt", root, "train"), DEFAULT_TASKS, CPU)
    assert data.labeled(torch.tensor([0, 1])).tolist() == [
        [False, True, True, True, False], [True] * 5,
    ]  # fmt: skip
    batch = data.batch([0, 1], crop(2), 32)
    assert not batch.valid[0, [0, 4]].any() and batch.valid[1, 4].all()
    assert (batch.labels["seg"][0] == 255).all()


@pytest.fixture
def sample(data):
    return data.batch([0, 1, 2, 3], crop(4), 32)


def palettes(rule, sample, weights, tasks=DEFAULT_TASKS, seed=0):
    return batch_palettes(rule, sample, weights, np.random.default_rng(seed), tasks)


@pytest.mark.parametrize("rule", ["R2", "R3", "single:normals"])
def test_palettes_of_rules_without_chance(sample, rule):
    rule = get_rule(rule)
    found = palettes(rule, sample, torch.ones(4, 5))
    for n in range(4):
        expected = rule.palette((32, 32), labels=sample.labels["seg"][n].numpy())
        assert np.array_equal(found[n].numpy(), expected.ids)


def test_semantic_palettes_of_networks_without_segmentation(source):
    tasks = ("parts", "edges", "saliency", "normals")
    sample = DeviceData(source, tasks, CPU).batch([0], crop(1), 32)
    found = palettes(get_rule("R3"), sample, torch.ones(1, 4), tasks)
    expected = get_rule("R3").palette((32, 32), labels=sample.labels["seg"][0].numpy(), tasks=tasks)
    assert np.array_equal(found[0].numpy(), expected.ids)


def blank(n, size=32):
    return Sample(
        torch.zeros(n, 3, size, size), torch.full((n, size, size), 255), {}, torch.zeros(n, 5)
    )


def test_mosaics_have_four_rectangles():
    found = palettes(R1, blank(500), torch.ones(500, 5))
    rows, columns = [], []
    for ids in found:
        across = (ids[:, 1:] != ids[:, :-1]).nonzero()[:, 1].unique() + 1
        down = (ids[1:] != ids[:-1]).nonzero()[:, 0].unique() + 1
        assert len(across) <= 1 and len(down) <= 1
        rows += down.tolist()
        columns += across.tolist()
    for cuts in (rows, columns):
        assert min(cuts) == 8 and max(cuts) == 24
    assert np.corrcoef(rows[:200], columns[:200])[0, 1] < 0.3


@pytest.mark.parametrize("rule", [R1, RRND])
def test_tasks_are_drawn_by_their_weights(rule):
    weights = torch.tensor([[3.0, 0, 1, 0, 4]]).repeat(2000, 1)
    found = palettes(rule, blank(2000, 8), weights)
    shares = torch.bincount(found[:, 0, 0], minlength=5) / 2000
    expected = torch.tensor([3, 0, 1, 0, 4]) / 8
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.05)
    assert set(found.unique().tolist()) == {0, 2, 4}


@pytest.mark.parametrize("rule", [R1, RRND])
def test_images_without_labels_are_asked_for_nothing(rule):
    weights = torch.ones(3, 5)
    weights[1] = 0
    found = palettes(rule, blank(3), weights)
    assert (found[1] == 255).all() and (found[[0, 2]] < 5).all()


def test_pixels_without_a_class_are_asked_for_nothing(sample):
    sample.labels["seg"][:] = 255
    assert (palettes(R2, sample, torch.ones(4, 5)) == 255).all()
