"""Crops: images, labels and validity stay together, normals turn with them, batches repeat."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as TF

from ctnet.data.crop_batches import CropBatches, RequestedBatches, Requests
from ctnet.data.crops import CHANCES, Crops, draw_crops
from ctnet.data.dataset import CompositeDataset, open_source
from ctnet.data.photograph_stack import PhotographStack
from ctnet.data.sampling import ClassDraws, StepDraws, count_classes
from ctnet.rules import R1
from ctnet.tasks import DEFAULT_TASKS

CPU = torch.device("cpu")


@pytest.fixture
def source(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return open_source("compositemt", write_photographs(root), "train")


@pytest.fixture
def data(source):
    return PhotographStack.load(source, DEFAULT_TASKS, CPU)


def crop(n, scale=1.0, left=0.0, top=0.0, flip=False, color=(1.0, 1.0, 1.0)):
    def full(value):
        return torch.full((n,), value)

    return Crops(full(scale), full(left), full(top), full(flip), torch.tensor(color).repeat(n, 1))


def test_a_crop_at_scale_one_is_a_piece_of_the_image(data, source):
    batch = data.cut([2, 0], crop(2, left=8.0, top=3.0), 32)
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
    plain, mirrored = (data.cut([1], crop(1, flip=flip), 32) for flip in (False, True))
    torch.testing.assert_close(mirrored.image, plain.image.flip(3))
    assert torch.equal(mirrored.labels["seg"], plain.labels["seg"].flip(2))
    normals = plain.labels["normals"].flip(3) * torch.tensor([-1.0, 1, 1])[:, None, None]
    torch.testing.assert_close(mirrored.labels["normals"], normals)


def test_an_enlarged_crop_repeats_classes(data):
    small, large = data.cut([3], crop(1), 20), data.cut([3], crop(1, scale=2.0), 40)
    repeated = small.labels["seg"].repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(large.labels["seg"], repeated)
    assert large.labels["normals"].norm(dim=1).sub(1).abs().max() < 1e-5


def test_nothing_is_labeled_beyond_the_image(data):
    batch = data.cut([0], crop(1, left=-8.0, top=-4.0), 64)
    inside = torch.zeros(64, 64, dtype=torch.bool)
    inside[4:44, 8:56] = True
    assert torch.equal(batch.valid[0, 2], inside)
    assert (batch.labels["seg"][0][~inside] == 255).all()
    assert (batch.labels["parts"][0][~inside] == 255).all()
    assert batch.image[0][:, ~inside].sub(127 / 255).abs().max() < 1e-6


@pytest.mark.parametrize("factors", [(0.7, 1.0, 1.0), (1.0, 1.3, 1.0), (1.0, 1.0, 0.7), (1.2,) * 3])
def test_colors_change_as_torchvision_has_it(data, factors):
    plain = data.cut([0, 1], crop(2), 32).image
    found = data.cut([0, 1], crop(2, color=factors), 32).image
    expected = TF.adjust_brightness(plain, factors[0])
    expected = TF.adjust_contrast(expected, factors[1])
    expected = TF.adjust_saturation(expected, factors[2])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_crops_lie_in_images_that_have_room():
    sizes = torch.tensor([[100, 300], [40, 50]]).repeat(200, 1)
    crops = draw_crops(np.random.default_rng(0).random((400, CHANCES)), sizes, 64, (0.75, 1.25))
    side = 64 / crops.scale
    assert crops.scale.min() >= 0.75 and crops.scale.max() <= 1.25
    for corner, room in ((crops.top, sizes[:, 0] - side), (crops.left, sizes[:, 1] - side)):
        low, high = torch.minimum(room, torch.zeros(400)), torch.maximum(room, torch.zeros(400))
        assert ((corner >= low - 1e-4) & (corner <= high + 1e-4)).all()
    assert 0.4 < crops.flip.float().mean() < 0.6
    assert 0.7 <= crops.color.min() < 0.72 and 1.28 < crops.color.max() <= 1.3


def test_images_and_labels_stay_aligned(source):
    ids = np.random.default_rng(0).choice(np.array([0, 3, 7, 15, 20], np.uint8), (12, 14))
    ids = ids.repeat(8, 0).repeat(8, 1)
    loaded = {"image": np.stack([ids * 12] * 3, 2), "seg": ids, "saliency": ids * 12}
    data = PhotographStack([loaded], ("seg", "saliency"), CPU)
    for seed in range(20):
        chance = np.random.default_rng(seed).random((1, CHANCES))
        found = data.cut([0], draw_crops(chance, data.sizes, 64, (0.7, 1.6)), 64)
        valid = found.valid[0, 0]
        assert torch.equal(valid, found.inside[0])
        assert set(found.labels["seg"].unique().tolist()) <= {0, 3, 7, 15, 20, 255}
        torch.testing.assert_close(found.labels["saliency"][0, valid], found.uncolored[0, 0, valid])
        # Away from borders between classes both say the same.
        off = (found.uncolored[0, 0] * 255 / 12 - found.labels["seg"][0]).abs() > 0.01
        assert off[valid].float().mean() < 0.25


def batches(source, seed=0, stack=None, rows=slice(None), share=0.5):
    weights = torch.ones(4, dtype=torch.float64)
    classes = ClassDraws.create(share, count_classes(source, "seg"), weights)
    draws = StepDraws(weights, 3, seed, classes)
    return CropBatches(source, DEFAULT_TASKS, draws, 32, (0.5, 1.5), rows, stack)


def same(one, other, **tolerance):
    for name in ("image", "palette", "valid", "uncolored", "inside"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **tolerance)
    for name, label in one.labels.items():
        torch.testing.assert_close(label, other.labels[name], **tolerance)


def test_a_batch_depends_on_seed_and_step_alone(source):
    first, second = (batches(source)[5] for _ in range(2))
    torch.rand(3)
    same(first.sample, second.sample, rtol=0, atol=0)
    assert torch.equal(first.labeled, second.labeled)
    for seed, step in ((1, 5), (0, 6)):
        assert not torch.equal(first.sample.image, batches(source, seed)[step].sample.image)


def test_photographs_on_the_device_give_the_same_batches(source, data):
    for step in range(10):
        there, drawn = (batches(source, stack=stack)[step] for stack in (data, None))
        same(there.sample, drawn.sample, rtol=0, atol=2e-4)
        assert torch.equal(there.labeled, drawn.labeled)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_that_load_give_the_same_batches(source, workers):
    requests = Requests(R1, DEFAULT_TASKS)
    wanted = RequestedBatches(batches(source), requests)
    loader = DataLoader(wanted, batch_size=None, sampler=range(2, 5), num_workers=workers)
    for step, found in zip(range(2, 5), loader, strict=True):
        same(found, wanted[step], rtol=0, atol=0)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(1, 3)])
def test_rows_of_a_batch_are_those_of_the_whole(source, rows):
    requests = Requests(R1, DEFAULT_TASKS, mosaic_fraction=0.5)
    part, whole = (
        RequestedBatches(batches(source, rows=r), requests)[4] for r in (rows, slice(None))
    )
    same(part, whole.select(rows), rtol=0, atol=1e-5)


def test_labels_that_are_missing(write_photographs, tmp_path):
    root = tmp_path / "missing"
    root.mkdir()
    index = write_photographs(root) / "index.csv"
    rows = [line.split(",") for line in index.read_text().splitlines()]
    for name in ("seg", "normals"):
        rows[1][rows[0].index(name)] = ""
    index.write_text("\n".join(",".join(row) for row in rows))
    source = open_source("compositemt", root, "train")
    data = PhotographStack.load(source, DEFAULT_TASKS, CPU)
    draws = StepDraws(torch.ones(4, dtype=torch.float64), 4, 0)
    drawn = [draw.image for draw in draws[0]]
    labeled = CropBatches(source, DEFAULT_TASKS, draws, 32, (1.0, 1.0))[0].labeled
    assert labeled[drawn.index(0)].tolist() == [False, True, True, True, False]
    assert labeled[drawn.index(1)].all()
    batch = data.cut([0, 1], crop(2), 32)
    assert not batch.valid[0, [0, 4]].any() and batch.valid[1, 4].all()
    assert (batch.labels["seg"][0] == 255).all()
