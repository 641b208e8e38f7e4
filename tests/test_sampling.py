"""What is drawn: rare classes often, held-out photographs never; every figure counted anew."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ctnet.data.dataset import CompositeDataset, StepSampler, open_source, sampling_weights
from ctnet.data.device_data import DeviceData
from ctnet.data.label_source import LabelSource
from ctnet.data.sampling import Balance, ClassDraws, count_classes
from ctnet.data.transforms import training_transform
from ctnet.tasks import DEFAULT_TASKS, VOC_CLASSES
from ctnet.training.config import TrainConfig
from ctnet.training.shared_batches import SharedBatches

BUS, DOG, PERSON = (VOC_CLASSES.index(name) for name in ("bus", "dog", "person"))
SIZE = (64, 96)
COMMON, RARE = 57, 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> LabelSource:
    """60 photographs: a dog on most, a small bus on three, of which two are from ``caltech``."""
    root = tmp_path_factory.mktemp("photographs")
    columns = ["id", "split", "source", "annotators", *DEFAULT_TASKS]
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for number in range(COMMON + RARE):
            origin = "caltech" if number >= COMMON + 1 else "voc"
            name = f"{origin}_{number}"
            writer.writerow({"id": name, "split": "train", "source": origin, "seg": "true"})
            seg = np.zeros(SIZE, np.uint8)
            if number < COMMON:
                seg[:, :48] = DOG
                seg[0, 0] = PERSON
            else:
                seg[50:62, 80:92] = BUS
            seg[-1] = 255
            Image.fromarray(seg).save(root / f"{name}.seg.png")
            Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / f"{name}.image.jpg")
    return open_source("compositemt", root, "train")


def plan(
    source: LabelSource, share: float, **source_weights: float
) -> tuple[torch.Tensor, ClassDraws]:
    weights = sampling_weights(CompositeDataset(source, None), source_weights)
    return weights, ClassDraws.create(share, count_classes(source, "seg"), weights)


def test_pixels_are_counted_on_each_photograph(source: LabelSource) -> None:
    counts = count_classes(source, "seg")
    assert counts.shape == (COMMON + RARE, 21)
    assert counts[0, [0, DOG, PERSON]].tolist() == [63 * 48, 63 * 48 - 1, 1]
    assert counts[COMMON, BUS] == 144
    assert counts.sum() == (COMMON + RARE) * 63 * 96
    assert not count_classes(source, "parts").any()


def test_drawn_classes_come_equally_often(source: LabelSource) -> None:
    weights, draws = plan(source, 0.5)
    # One pixel of a person does not make a photograph of a person.
    assert draws.classes == (BUS, DOG)
    drawn = [d for batch in StepSampler(weights, 8, range(500), 3, draws) for d in batch]
    focus = Counter(draw.focus for draw in drawn)
    assert focus[255] / 4000 == pytest.approx(0.5, abs=0.03)
    assert focus[BUS] / 4000 == pytest.approx(0.25, abs=0.03)
    assert all(draw.image >= COMMON for draw in drawn if draw.focus == BUS)
    assert all(draw.image < COMMON for draw in drawn if draw.focus == DOG)
    buses = sum(draw.image >= COMMON for draw in drawn) / 4000
    assert buses == pytest.approx(0.5 * RARE / (COMMON + RARE) + 0.25, abs=0.03)
    resumed = [d for batch in StepSampler(weights, 8, range(200, 500), 3, draws) for d in batch]
    assert resumed == drawn[1600:]
    plain = [d for batch in StepSampler(weights, 8, range(500), 3) for d in batch]
    assert {draw.focus for draw in plain} == {255}
    kept = [(a, b) for a, b in zip(drawn, plain, strict=True) if a.focus == 255]
    assert all(a == b for a, b in kept)


def test_sources_are_limited_where_they_are_drawn_less_often(source: LabelSource) -> None:
    weights, draws = plan(source, 1.0, caltech=0.25)
    drawn = [d for batch in StepSampler(weights, 8, range(400), 0, draws) for d in batch]
    buses = Counter(draw.image for draw in drawn if draw.focus == BUS)
    # One photograph from voc beside two at a quarter of its weight.
    assert buses[COMMON] / buses.total() == pytest.approx(1 / 1.5, abs=0.04)
    _, often = plan(source, 1.0, caltech=5.0)
    np.testing.assert_allclose(often.weights[0][COMMON:], [1 / 3] * 3)


def test_the_balance_of_the_log_is_that_of_the_draws(source: LabelSource) -> None:
    weights, draws = plan(source, 0.4, caltech=0.5)
    counts = count_classes(source, "seg")
    balance = Balance.compute(source, "seg", counts, weights, draws)
    drawn = [d.image for batch in StepSampler(weights, 6, range(1500), 1, draws) for d in batch]
    maps = [source.load(index)["seg"] for index in range(COMMON + RARE)]
    seen = np.bincount(drawn, minlength=COMMON + RARE)
    for when, times in ((0, np.ones(COMMON + RARE)), (1, seen)):
        for number in (0, DOG, BUS):
            has = np.array([(seg == number).sum() >= 100 for seg in maps])
            share = float((times * has).sum() / times.sum())
            assert balance.photographs[when, number] == pytest.approx(share, abs=0.02)
        counts_by_hand = [np.bincount(seg.ravel(), minlength=256) for seg in maps]
        pixels = sum(t * found for t, found in zip(times, counts_by_hand, strict=True))
        np.testing.assert_allclose(balance.pixels[when], pixels[:21] / pixels[:21].sum(), atol=0.01)
        caltech = times[COMMON + 1 :].sum() / times.sum()
        assert balance.sources["caltech"][when] == pytest.approx(caltech, abs=0.02)
    assert balance.photographs[1, BUS] > 4 * balance.photographs[0, BUS]
    text = str(balance)
    assert "bus" in text and "caltech 3.3 -> " in text


def test_the_balance_is_written(source: LabelSource, tmp_path: Path) -> None:
    weights, draws = plan(source, 0.4)
    counts = count_classes(source, "seg")
    Balance.compute(source, "seg", counts, weights, draws).write(tmp_path / "balance.csv")
    with (tmp_path / "balance.csv").open(newline="") as file:
        rows = {(row["what"], row["name"]): row for row in csv.DictReader(file)}
    assert len(rows) == 2 + 2 * 21
    assert float(rows["photographs", "bus"]["before"]) == pytest.approx(RARE / (COMMON + RARE))
    total = sum(float(row["after"]) for (what, _), row in rows.items() if what == "pixels")
    assert total == pytest.approx(1, abs=1e-4)


def test_crops_hold_the_class_that_they_are_drawn_for(source: LabelSource) -> None:
    dataset = CompositeDataset(source, None, transform=training_transform(32, (0.25, 0.6)))
    for seed in range(40):
        for index, focus in ((COMMON, BUS), (0, DOG)):
            labels = dataset[index, seed, focus].labels["seg"]
            assert labels.shape == (32, 32)
            assert (labels == focus).any()
    without = [bool((dataset[COMMON, seed].labels["seg"] == BUS).any()) for seed in range(40)]
    assert not all(without)
    # What a photograph does not have, or loses when it is made smaller, does not stop it.
    assert dataset[0, 1, BUS].labels["seg"].shape == (32, 32)


def test_rare_classes_fill_more_pixels_of_the_crops(source: LabelSource) -> None:
    dataset = CompositeDataset(source, None, transform=training_transform(32, (0.3, 0.6)))

    def share(draws: ClassDraws | None) -> float:
        sampler = StepSampler(weights, 8, range(60), 0, draws)
        counts = torch.zeros(256, dtype=torch.int64)
        for draw in (d for batch in sampler for d in batch):
            counts += torch.bincount(dataset[draw].labels["seg"].flatten(), minlength=256)
        return float(counts[BUS] / counts[:21].sum())

    weights, draws = plan(source, 0.5)
    before, after = share(None), share(draws)
    assert 0 < before < 0.01
    assert after > 8 * before


def test_crops_on_the_device_hold_the_class_too(source: LabelSource) -> None:
    data = DeviceData(source, ("seg",), torch.device("cpu"))
    weights, draws = plan(source, 1.0)
    config = TrainConfig("x", crop_size=32, batch_size=8, scale_range=(0.8, 3.0))
    for size in (32, 96):
        config = TrainConfig("x", crop_size=size, batch_size=8, scale_range=(0.8, 3.0))
        shared = SharedBatches(data, config, weights, draws)
        for step in range(8):
            steps = range(step, step + 1)
            focus = [d.focus for d in next(iter(StepSampler(weights, 8, steps, 0, draws)))]
            labels = shared[step].sample.labels["seg"]
            assert set(focus) <= {BUS, DOG}
            assert all(bool((seg == c).any()) for seg, c in zip(labels, focus, strict=True))


def test_a_balance_without_classes_is_refused(source: LabelSource) -> None:
    counts = count_classes(source, "parts")
    with pytest.raises(
        ValueError, match="class_balanced_fraction needs photographs with 100 pixels"
    ):
        ClassDraws.create(0.5, counts, torch.ones(COMMON + RARE))


NAMES = [f"photo_{number}" for number in range(200)]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 photographs of nothing."""
    root = tmp_path_factory.mktemp("many")
    columns = ["id", "split", "source", "annotators", *DEFAULT_TASKS]
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for name in NAMES:
            writer.writerow({"id": name, "split": "train", "source": "voc", "saliency": "true"})
            Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / f"{name}.image.jpg")
            Image.fromarray(np.zeros((32, 32), np.uint8)).save(root / f"{name}.saliency.jpg")
    return root


def test_a_fixed_twentieth_is_held_out(many: Path) -> None:
    parts = {split: open_source("compositemt", many, split) for split in ("held-in", "held-out")}
    held_out = {n for n in NAMES if int(hashlib.sha256(n.encode()).hexdigest()[:8], 16) % 20 == 0}
    assert set(parts["held-out"].ids) == held_out
    assert set(parts["held-in"].ids) == set(NAMES) - held_out
    assert 4 <= len(held_out) <= 16
    for split, part in parts.items():
        assert part.split == split
        assert part.name == "CompositeMT-mini"
        for index in range(len(part.ids)):
            assert part.load(index).keys() == {"image", "saliency"}
            assert (part.origin(index), part.kind(index, "saliency")) == ("voc", "true")
            assert part.kind(index, "seg") == "" and part.annotators(index) is None


def test_parts_of_train_read_the_right_files(
    tmp_path: Path, write_photographs: Callable[..., Path]
) -> None:
    root = write_photographs(tmp_path, splits=("train",) * 30)
    whole = open_source("compositemt", root, "train")
    found = {}
    for split in ("held-in", "held-out"):
        part = open_source("compositemt", root, split, ("seg", "foreground"))
        for index, name in enumerate(part.ids):
            found[name] = part.load(index)
            assert "foreground" in found[name]
    assert set(found) == set(whole.ids)
    for index, name in enumerate(whole.ids):
        for key, array in whole.load(index).items():
            np.testing.assert_array_equal(found[name][key], array)


def test_too_few_photographs_to_hold_some_out(
    tmp_path: Path, write_photographs: Callable[..., Path]
) -> None:
    root = write_photographs(tmp_path, splits=("train",) * 2)
    with pytest.raises(ValueError, match=r"none of the 2 photographs .* is held-out: too few"):
        open_source("compositemt", root, "held-out")
