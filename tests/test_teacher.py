"""A teacher's labels: where they are used, where they must not be, errors."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ctnet import create
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.crop_batches import CropBatches
from ctnet.data.dataset import CompositeDataset, open_source
from ctnet.data.pascal_mt import PascalMT
from ctnet.data.sampling import StepDraws, count_classes, sampling_weights
from ctnet.data.teacher import TeacherSource
from ctnet.data.wrapped import CachedSource
from ctnet.evaluation.evaluate import evaluate
from ctnet.rules import R2
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.config import TrainConfig
from ctnet.training.finetune import finetune
from ctnet.training.trainer import Trainer

SIZE = HEIGHT, WIDTH = 24, 32
LABELED, BARE, VAL = 0, 1, 2
OWN = np.full(SIZE, 8, np.uint8)
OWN[:, 16:] = 255
TEACHER = np.full(SIZE, 15, np.uint8)
TEACHER[:, 24:] = 255
FILLED = np.full(SIZE, 8, np.uint8)
FILLED[:, 16:], FILLED[:, 24:] = 15, 255


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A train photograph with a class map, one with saliency alone, and a val photograph."""
    rows = [("a", "train", "voc", "true"), ("b", "train", "ecssd", ""), ("c", "val", "voc", "true")]
    with (tmp_path / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "split", "source", "annotators", *DEFAULT_TASKS])
        writer.writeheader()
        for name, split, source, seg in rows:
            row = {"id": name, "split": split, "source": source, "seg": seg, "saliency": "true"}
            writer.writerow(row)
    for seed, (name, split, _, seg) in enumerate(rows):
        noise = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}.image.jpg")
        Image.fromarray(noise[..., 0]).save(tmp_path / f"{name}.saliency.jpg")
        if seg:
            Image.fromarray(OWN).save(tmp_path / f"{name}.seg.png")
        if split == "train":
            Image.fromarray(TEACHER).save(tmp_path / f"{name}.segteacher.png")
    return tmp_path


@pytest.mark.parametrize(
    ("use", "labels", "kinds"),
    [
        ("none", [OWN, None], ["true", ""]),
        ("missing", [OWN, TEACHER], ["true", "distilled"]),
        ("everywhere", [FILLED, TEACHER], ["distilled", "distilled"]),
    ],
)
def test_the_teacher_fills_what_it_should(root: Path, use, labels, kinds) -> None:  # type: ignore[no-untyped-def]
    source = open_source("compositemt", root, "train", teacher=use)
    for index, label in enumerate(labels):
        found = source.load(index).get("seg")
        assert (found is None) == (label is None)
        np.testing.assert_array_equal(found, label)
    assert [source.kind(index, "seg") for index in range(2)] == kinds
    assert [source.kind(index, "saliency") for index in range(2)] == ["true", "true"]
    assert source.name == "CompositeMT-mini" and source.origin(BARE) == "ecssd"
    assert source.measured_on("seg", semantic=False) == ("voc", "coco")


def test_own_labels_stay_at_hand(root: Path) -> None:
    source = TeacherSource(CompositeMTMini(root, "train"), "everywhere")
    np.testing.assert_array_equal(source.own_label(LABELED, "seg"), OWN)
    assert source.own_label(BARE, "seg") is None
    np.testing.assert_array_equal(source.own_label(BARE, "saliency"), source.load(BARE)["saliency"])


@pytest.mark.parametrize("use", ["missing", "everywhere"])
def test_evaluation_cannot_have_a_teacher(root: Path, use) -> None:  # type: ignore[no-untyped-def]
    # Not even where someone put a file.
    Image.fromarray(TEACHER).save(root / "c.segteacher.png")
    with pytest.raises(ValueError, match="training alone; got the split 'val'"):
        open_source("compositemt", root, "val", teacher=use)
    with pytest.raises(ValueError, match="training alone; got the split 'held-out'"):
        open_source("compositemt", root, "held-out", teacher=use)
    with pytest.raises(ValueError, match="training alone; got the split 'val'"):
        TeacherSource(CompositeMTMini(root, "val"), use)
    source = open_source("compositemt", root, "val")
    np.testing.assert_array_equal(source.load(0)["seg"], OWN)
    assert source.kind(0, "seg") == "true"
    result = evaluate(create("ctn").eval(), source, "S", progress=False)
    assert result.labels["seg"] == ("true",)


def test_training_with_a_teacher_validates_without(
    root: Path, tmp_path: Path, tiny, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    Image.fromarray(TEACHER).save(root / "c.segteacher.png")
    read: list[str] = []
    teacher = CompositeMTMini.teacher

    def watch(self: CompositeMTMini, index: int) -> np.ndarray:
        read.append(f"{self.split} {self.ids[index]}")
        return teacher(self, index)

    monkeypatch.setattr(CompositeMTMini, "teacher", watch)
    finetune(
        create("ctn", decoder=tiny), root, tmp_path / "run", "single:seg", teacher="everywhere",
        crop_size=32, batch_size=2, steps=1, workers=0, device="cpu", source_weights={},
        validate_images=5,
    )  # fmt: skip
    assert set(read) == {"train a", "train b"}


def test_rules_and_sampling_read_the_teacher(root: Path) -> None:
    plain = CompositeDataset(open_source("compositemt", root, "train"), R2)
    taught = CompositeDataset(open_source("compositemt", root, "train", teacher="missing"), R2)
    assert (plain[BARE].palette == 255).all()
    sample = taught[BARE]
    parts = DEFAULT_TASKS.index("parts")
    np.testing.assert_array_equal(sample.palette, np.where(TEACHER == 15, parts, 255))
    np.testing.assert_array_equal(sample.valid[0], TEACHER != 255)
    assert sampling_weights(plain.source, R2, {}).tolist() == [1, 0]
    assert sampling_weights(taught.source, R2, {}).tolist() == [1, 1]
    seen = count_classes(taught.source, "seg")
    assert seen[BARE, 15] == (TEACHER == 15).sum() > 0


def test_crops_and_derived_labels_have_the_teacher_too(root: Path) -> None:
    tasks = (*DEFAULT_TASKS, "foreground")
    source = open_source("compositemt", root, "train", tasks, "missing")
    found = source.load(BARE)
    np.testing.assert_array_equal(found["foreground.valid"], TEACHER != 255)
    assert source.kind(BARE, "foreground") == "distilled"
    draws = StepDraws(sampling_weights(source, R2, {}), 2, 0)
    places = [draw.image for draw in draws[5]]
    batch = CropBatches(source, tasks, draws, 64, (1.0, 1.0))[5]
    seg = batch.sample.labels["seg"][places.index(BARE)]
    assert set(seg.unique().tolist()) <= {15, 255}
    assert (seg == 15).any()
    assert batch.labeled[:, 0].tolist() == [True, True]


def test_missing_files_are_named(root: Path) -> None:
    (root / "b.segteacher.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"b\.segteacher\.png: unpack teacher-seg\.tar"):
        open_source("compositemt", root, "train", teacher="missing")
    (root / "a.segteacher.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.segteacher\.png and 1 more"):
        open_source("compositemt", root, "train", teacher="everywhere")
    assert "seg" not in open_source("compositemt", root, "train").load(BARE)


def test_only_files_that_are_needed_must_be_there(root: Path) -> None:
    (root / "a.segteacher.png").unlink()
    source = open_source("compositemt", root, "train", teacher="missing")
    np.testing.assert_array_equal(source.load(LABELED)["seg"], OWN)


def test_class_maps_that_are_distilled_need_no_file(root: Path) -> None:
    index = root / "index.csv"
    index.write_text(index.read_text().replace("a,train,voc,,true", "a,train,inet,,distilled"))
    (root / "a.segteacher.png").unlink()
    source = open_source("compositemt", root, "train", teacher="everywhere")
    np.testing.assert_array_equal(source.load(LABELED)["seg"], OWN)
    np.testing.assert_array_equal(source.load(BARE)["seg"], TEACHER)
    assert source.kind(LABELED, "seg") == "distilled" and source.origin(LABELED) == "inet"


def test_bad_teachers_are_refused(root: Path, tmp_path: Path) -> None:
    source = CompositeMTMini(root, "train")
    with pytest.raises(ValueError, match="unknown use of a teacher 'all'"):
        TeacherSource(source, "all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown use of a teacher 'missin'; did you mean"):
        open_source("compositemt", root, "train", teacher="missin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="CompositeMT-mini has no teacher"):
        TeacherSource(CachedSource(source))
    with pytest.raises(ValueError, match="unknown teacher 'deeplab'"):
        TrainConfig("x", teacher="deeplab")  # type: ignore[arg-type]
    Image.fromarray(TEACHER[:, :20]).save(root / "b.segteacher.png")
    with pytest.raises(ValueError, match=r"b\.segteacher\.png is \(24, 20\).*\(24, 32\)"):
        open_source("compositemt", root, "train", teacher="missing").load(BARE)


def test_other_layouts_have_no_teacher(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "ImageSets/Context"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Context/train.txt").write_text("one\n")
    with pytest.raises(ValueError, match="PASCAL-MT has no teacher"):
        TeacherSource(PascalMT(tmp_path, "train"))


def test_a_run_with_another_teacher_is_another_run(root: Path, tmp_path: Path, tiny) -> None:  # type: ignore[no-untyped-def]
    model = create("ctn", decoder=tiny)
    config = TrainConfig(
        "x", model.config, data=str(root), rule="single:seg", teacher="missing", crop_size=32,
        batch_size=2, steps=1, workers=0, device="cpu", pretrained_encoder=False,
    )  # fmt: skip
    Trainer(config, tmp_path / "run").train()
    assert Trainer(config, tmp_path / "run").step == 1
    with pytest.raises(ValueError, match="differs in teacher"):
        Trainer(replace(config, teacher="everywhere"), tmp_path / "run")
