"""Counts of classes with and without a teacher, and what a run writes of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctnet import create
from ctnet.data.balance import class_balance
from ctnet.data.dataset import open_source
from ctnet.data.sampling import count_classes
from ctnet.data.wrapped import CachedSource, quarter_of_memory
from ctnet.tasks import DEFAULT_TASKS, VOC_CLASSES
from ctnet.training.config import TrainConfig
from ctnet.training.losses import balanced_class_weights
from ctnet.training.trainer import Trainer

HEIGHT, WIDTH = 20, 30


def write(path: Path, *blocks: tuple[int, int]) -> np.ndarray:
    """Writes a class map of (class, pixels) blocks, 255 elsewhere."""
    ids = np.full(HEIGHT * WIDTH, 255, np.uint8)
    start = 0
    for cls, pixels in blocks:
        ids[start : start + pixels] = cls
        start += pixels
    Image.fromarray(ids.reshape(HEIGHT, WIDTH)).save(path)
    return ids.reshape(HEIGHT, WIDTH)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two photographs with class maps, one without, all with a teacher."""
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "split", "source", "annotators", *DEFAULT_TASKS])
        writer.writeheader()
        for name, seg in (("a", "true"), ("b", "true"), ("c", "")):
            row = {"id": name, "split": "train", "source": "voc", "seg": seg, "parts": "true"}
            writer.writerow(row)
            noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / f"{name}.image.jpg")
            write(tmp_path / f"{name}.parts.png", (0, 400), (6, 200))
    write(tmp_path / "a.seg.png", (0, 300), (8, 99))
    write(tmp_path / "b.seg.png", (0, 100), (8, 500))
    write(tmp_path / "a.segteacher.png", (1, 500))
    write(tmp_path / "b.segteacher.png", (1, 600))
    write(tmp_path / "c.segteacher.png", (0, 350), (15, 150))
    return tmp_path


@pytest.mark.parametrize(
    ("use", "pixels", "photographs"),
    [
        ("none", {0: 400, 8: 599}, {0: 2, 8: 1}),
        ("missing", {0: 750, 8: 599, 15: 150}, {0: 3, 8: 1, 15: 1}),
        # Of the teacher's 500 pixels of class 1 in "a", 399 are labeled.
        ("everywhere", {0: 750, 1: 101, 8: 599, 15: 150}, {0: 3, 1: 1, 8: 1, 15: 1}),
    ],
)
def test_balance_with_and_without_a_teacher(root: Path, use, pixels, photographs) -> None:  # type: ignore[no-untyped-def]
    source = CachedSource(
        open_source("compositemt", root, "train", (*DEFAULT_TASKS, "foreground"), use)
    )
    balance = class_balance(source, "seg", count_classes(source, "seg"))
    for found, expected in (
        (balance.used.pixels, pixels),
        (balance.used.photographs, photographs),
    ):
        assert {cls: n for cls, n in enumerate(found.tolist()) if n} == expected
    assert (balance.own is None) == (use == "none")
    if balance.own is not None:
        assert balance.own.pixels[[0, 1, 8, 15]].tolist() == [400, 0, 599, 0]
    parts = class_balance(source, "parts", count_classes(source, "parts"))
    assert parts.own is None and parts.used.photographs.tolist() == [3, 0, 0, 0, 0, 0, 3]


def test_a_cache_keeps_what_there_is_room_for(root: Path) -> None:
    source = open_source("compositemt", root, "train")
    sizes = [sum(array.nbytes for array in source.load(i).values()) for i in range(2)]
    for room, kept in ((sum(sizes), [True, True]), (sizes[0], [True, False]), (0, [False, False])):
        cached = CachedSource(source, most_bytes=room)
        first = [cached.load(index) for index in range(2)]
        again = [cached.load(index) for index in range(2)]
        assert [one is other for one, other in zip(first, again, strict=True)] == kept
        for one, other in zip(first, again, strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)
    assert 1 << 28 < quarter_of_memory() < 1 << 44


def test_a_run_writes_its_balance_and_weighs_by_it(root: Path, tmp_path: Path, tiny) -> None:  # type: ignore[no-untyped-def]
    config = TrainConfig(
        "x", create("ctn", decoder=tiny).config, data=str(root), teacher="everywhere",
        pretrained_encoder=False, class_weight_power=0.5, crop_size=32, steps=1, batch_size=2,
        workers=0, device="cpu",
    )  # fmt: skip
    trainer = Trainer(config, tmp_path / "run")
    trainer.train()
    with (tmp_path / "run/classes.csv").open(newline="") as file:
        rows = {(row["task"], row["class"]): row for row in csv.DictReader(file)}
    assert len(rows) == 21 + 7
    aeroplane, cat = (rows["seg", VOC_CLASSES[cls]] for cls in (1, 8))
    names = "photographs", "pixels", "photographs_without_teacher", "pixels_without_teacher"
    assert [aeroplane[name] for name in names] == ["1", "101", "0", "0"]
    assert [cat[name] for name in names] == ["1", "599", "1", "599"]
    assert rows["parts", "background"]["pixels_without_teacher"] == "1200"
    expected = balanced_class_weights(count_classes(trainer.source, "seg").sum(0), 0.5)
    weights = trainer.loss.class_weights["seg"]
    assert weights.tolist() == expected.tolist() and weights[2] > weights[1] > weights[8]
