"""What a run asks for on batches of crops: palettes by rule, shares and mosaics."""

import numpy as np
import pytest
import torch

from ctnet.data.crop_batches import CropBatch, CropBatches, Requests
from ctnet.data.dataset import open_source
from ctnet.data.sample import Sample
from ctnet.data.sampling import StepDraws
from ctnet.rules import R1, R2, R3, RRND, get_rule
from ctnet.tasks import DEFAULT_TASKS


@pytest.fixture
def source(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return open_source("compositemt", write_photographs(root), "train")


def crops(source, tasks=DEFAULT_TASKS):
    draws = StepDraws(torch.ones(4, dtype=torch.float64), 4, 0)
    return CropBatches(source, tasks, draws, 32, (0.6, 1.0))[0]


@pytest.fixture
def batch(source):
    return crops(source)


def blank(labeled, size=32):
    n = len(labeled)
    nothing = torch.full((n, size, size), 255)
    return CropBatch(Sample(torch.zeros(n, 3, size, size), nothing, {}, torch.zeros(n, 5)), labeled)


def palettes(rule, batch, tasks=DEFAULT_TASKS, step=0, **changes):
    return Requests(rule, tasks, **changes).ask(batch, step).palette


@pytest.mark.parametrize("rule", ["R2", "R3", "single:normals"])
def test_rules_without_chance(batch, rule):
    rule = get_rule(rule)
    found = palettes(rule, batch)
    for n in range(4):
        expected = rule.palette((32, 32), labels=batch.sample.labels["seg"][n].numpy())
        assert np.array_equal(found[n].numpy(), expected.ids)
    beyond = ~batch.sample.inside
    assert beyond.any()
    if rule.needs_labels:
        assert (found[beyond] == 255).all()


def test_no_rule_asks_for_nothing(batch):
    assert (palettes(None, batch) == 255).all()


def test_semantic_rules_serve_networks_without_segmentation(source):
    tasks = ("parts", "edges", "saliency", "normals")
    batch = crops(source, tasks)
    found = palettes(R3, batch, tasks)
    for n in range(4):
        classes = batch.sample.labels["seg"][n].numpy()
        assert np.array_equal(found[n].numpy(), R3.palette((32, 32), None, classes, tasks).ids)


def test_mosaics_have_four_rectangles():
    found = palettes(R1, blank(torch.ones(500, 5, dtype=torch.bool)))
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
def test_tasks_are_drawn_by_their_shares(rule):
    labeled = torch.tensor([[True, False, True, True, True]]).repeat(2000, 1)
    shares = {"seg": 3, "parts": 9, "saliency": 0, "normals": 4}
    found = palettes(rule, blank(labeled, 8), task_shares=shares)
    counts = torch.bincount(found[:, 0, 0], minlength=5) / 2000
    expected = torch.tensor([3, 0, 1, 0, 4]) / 8
    torch.testing.assert_close(counts, expected, rtol=0, atol=0.05)
    assert set(found.unique().tolist()) == {0, 2, 4}


@pytest.mark.parametrize("rule", [R1, RRND])
def test_images_without_labels_are_asked_for_nothing(rule):
    labeled = torch.ones(3, 5, dtype=torch.bool)
    labeled[1] = False
    found = palettes(rule, blank(labeled))
    assert (found[1] == 255).all() and (found[[0, 2]] < 5).all()


def test_pixels_without_a_class_are_asked_for_nothing(batch):
    batch.sample.labels["seg"][:] = 255
    assert (palettes(R2, batch) == 255).all()
    # Mosaics need no class map.
    assert (palettes(R2, batch, mosaic_fraction=1.0) < 5).all()


def test_a_fraction_of_mosaics(batch):
    single = get_rule("single:seg")
    found = torch.cat(
        [palettes(single, batch, step=step, mosaic_fraction=0.5) for step in range(60)]
    )
    # A mosaic of four times seg is rare.
    assert 0.35 < (found != 0).flatten(1).any(1).float().mean() < 0.65
    assert torch.equal(palettes(RRND, batch, step=3), palettes(RRND, batch, step=3))
    assert not torch.equal(palettes(RRND, batch, step=3), palettes(RRND, batch, step=4))
    assert not torch.equal(palettes(RRND, batch, step=3), palettes(RRND, batch, step=3, seed=1))
