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

from ctnet.data.crop_batches import CropBatches
from ctnet.data.dataset import open_source
from ctnet.data.label_source import LabelSource
from ctnet.data.sampling import (
    Balance,
    ClassDraws,
    Draw,
    StepDraws,
    count_classes,
    sampling_weights,
)
from ctnet.tasks import DEFAULT_TASKS, VOC_CLASSES

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
    weights = sampling_weights(source, None, source_weights)
    return weights, ClassDraws.create(share, count_classes(source, "seg"), weights)


def steps(
    weights: torch.Tensor, size: int, steps: range, seed: int, draws: ClassDraws | None = None
) -> list[Draw]:
    found = StepDraws(weights, size, seed, draws)
    return [draw for step in steps for draw in found[step]]


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
    drawn = steps(weights, 8, range(500), 3, draws)
    focus = Counter(draw.focus for draw in drawn)
    assert focus[255] / 4000 == pytest.approx(0.5, abs=0.03)
    assert focus[BUS] / 4000 == pytest.approx(0.25, abs=0.03)
    assert all(draw.image >= COMMON for draw in drawn if draw.focus == BUS)
    assert all(draw.image < COMMON for draw in drawn if draw.focus == DOG)
    buses = sum(draw.image >= COMMON for draw in drawn) / 4000
    assert buses == pytest.approx(0.5 * RARE / (COMMON + RARE) + 0.25, abs=0.03)
    resumed = steps(weights, 8, range(200, 500), 3, draws)
    assert resumed == drawn[1600:]
    plain = steps(weights, 8, range(500), 3)
    assert {draw.focus for draw in plain} == {255}
    kept = [(a, b) for a, b in zip(drawn, plain, strict=True) if a.focus == 255]
    assert all(a == b for a, b in kept)


def test_sources_are_limited_where_they_are_drawn_less_often(source: LabelSource) -> None:
    weights, draws = plan(source, 1.0, caltech=0.25)
    drawn = steps(weights, 8, range(400), 0, draws)
    buses = Counter(draw.image for draw in drawn if draw.focus == BUS)
    # One photograph from voc beside two at a quarter of its weight.
    assert buses[COMMON] / buses.total() == pytest.approx(1 / 1.5, abs=0.04)
    _, often = plan(source, 1.0, caltech=5.0)
    np.testing.assert_allclose(often.weights[0][COMMON:], [1 / 3] * 3)


def test_the_balance_of_the_log_is_that_of_the_draws(source: LabelSource) -> None:
    weights, draws = plan(source, 0.4, caltech=0.5)
    counts = count_classes(source, "seg")
    balance = Balance.compute(source, "seg", counts, weights, draws)
    drawn = [d.image for d in steps(weights, 6, range(1500), 1, draws)]
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


@pytest.mark.parametrize("size", [32, 96])
def test_crops_hold_the_class_that_they_are_drawn_for(source: LabelSource, size: int) -> None:
    weights, draws = plan(source, 1.0)
    found = StepDraws(weights, 8, 0, draws)
    batches = CropBatches(source, ("seg",), found, size, (0.8, 3.0))
    for step in range(8):
        focus = [draw.focus for draw in found[step]]
        labels = batches[step].sample.labels["seg"]
        assert set(focus) <= {BUS, DOG}
        assert all(bool((seg == c).any()) for seg, c in zip(labels, focus, strict=True))


def test_rare_classes_fill_more_pixels_of_the_crops(source: LabelSource) -> None:
    def share(draws: ClassDraws | None) -> float:
        batches = CropBatches(source, ("seg",), StepDraws(weights, 8, 0, draws), 32, (1.0, 2.0))
        seen = torch.cat([batches[step].sample.labels["seg"].flatten() for step in range(60)])
        counts = torch.bincount(seen, minlength=256)
        return float(counts[BUS] / counts[:21].sum())

    weights, draws = plan(source, 0.5)
    before, after = share(None), share(draws)
    assert 0 < before < 0.01
    assert after > 8 * before


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
