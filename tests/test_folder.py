"""A folder of photographs and labels as a data set: read, checked, converted, learned from."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image
from torch.utils.data import DataLoader

import ctnet
from ctnet.cli.main import main
from ctnet.data.check import check_data
from ctnet.data.classes_file import read_classes
from ctnet.data.crop_batches import CropBatches, RequestedBatches, Requests
from ctnet.data.dataset import find_layout, open_source
from ctnet.data.folder import FolderSource
from ctnet.data.label_files import LabelError, NoPhotographsError
from ctnet.data.sampling import StepDraws
from ctnet.models.base import create
from ctnet.models.checkpoint import save_checkpoint
from ctnet.rules import R1
from ctnet.tasks import TASKS, get_task, register_task

NAMES = ("background", "hat", "shirt", "trousers")
COLORS = ((0, 0, 0), (230, 25, 75), (60, 180, 75), (255, 225, 25))


@pytest.fixture(autouse=True)
def forget_tasks():
    yield
    for name in [name for name in TASKS if name not in ctnet.tasks.DEFAULT_TASKS]:
        del TASKS[name]


def draw_mask(number, size=(40, 48)):
    """Class ids (H,W) with all four classes."""
    ids = np.zeros(size, np.uint8)
    top = 2 + number % 5
    for row, value in enumerate((1, 2, 3)):
        ids[top + 10 * row : top + 10 * row + 10, 10:38] = value
    return ids


def write_photograph(root, stem, number, suffix=".jpg"):
    (root / "images").mkdir(parents=True, exist_ok=True)
    colors = np.array(COLORS, np.uint8)[draw_mask(number)]
    Image.fromarray(colors // 2 + 60).save(root / "images" / f"{stem}{suffix}")


def write_mask(root, stem, values, task="clothing", colors=None):
    (root / task).mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(values)
    if colors is not None:
        picture = Image.fromarray(values, "P")
        picture.putpalette([channel for color in colors for channel in color])
    picture.save(root / task / f"{stem}.png")


@pytest.fixture
def data(tmp_path):
    """12 photographs with gray masks of four classes of a task of its own."""
    root = tmp_path / "wardrobe"
    for number in range(12):
        write_photograph(root, f"p{number}", number, (".jpg", ".png", ".webp")[number % 3])
        write_mask(root, f"p{number}", draw_mask(number))
    names = ", ".join(f'"{name}"' for name in NAMES)
    (root / "classes.toml").write_text(f"[clothing]\nnames = [{names}]\n")
    return root


class TestReading:
    def test_layouts_are_found_out(self, data, tmp_path):
        assert find_layout(data) == "folder"
        assert open_source("auto", data, "train").name == "wardrobe"
        with pytest.raises(ValueError, match=r"is no data set.*images/"):
            find_layout(tmp_path)
        with pytest.raises(FileNotFoundError, match="no folder"):
            find_layout(tmp_path / "missing")

    def test_labels_and_kinds(self, data):
        source = FolderSource(data, "train")
        assert source.tasks == ("clothing",)
        assert source.specs["clothing"].classes == NAMES
        for index, stem in enumerate(source.ids):
            found = source.load(index)
            assert found["image"].shape == (40, 48, 3)
            np.testing.assert_array_equal(found["clothing"], draw_mask(int(stem[1:])))
            assert (source.kind(index, "clothing"), source.kind(index, "seg")) == ("true", "")

    def test_splits_part_the_photographs_and_stay(self, data):
        train, val = (FolderSource(data, split).ids for split in ("train", "val"))
        assert len(val) == 2 and not {*train} & {*val} and len(train) == 10
        assert FolderSource(data, "val").ids == val
        assert len(FolderSource(data, "val", 0.5).ids) == 6
        with pytest.raises(NoPhotographsError, match="for val"):
            FolderSource(data, "val", 0.0)

    def test_val_file(self, data):
        (data / "val.txt").write_text("p3\np4.png\n\n")
        assert FolderSource(data, "val").ids == ["p3", "p4"]
        (data / "val.txt").write_text("p3\nq\n")
        assert "lists 'q'" in str(FolderSource(data, "val").problems[0])

    def test_tasks_that_ctnet_knows(self, data):
        write_mask(data, "p1", np.full((40, 48), 15, np.uint8), "seg")
        write_mask(data, "p1", np.full((40, 48), 200, np.uint8), "saliency")
        write_mask(data, "p1", np.full((40, 48, 3), 128, np.uint8), "normals")
        source = FolderSource(data, "train")
        assert set(source.tasks) == {"clothing", "normals", "saliency", "seg"}
        found = source.load(source.ids.index("p1"))
        assert (found["seg"] == 15).all() and (found["saliency"] == 200).all()
        assert found["normals"].shape == (40, 48, 3)

    def test_without_a_declaration_the_masks_tell_the_classes(self, data):
        (data / "classes.toml").unlink()
        for number in range(12):
            write_mask(data, f"p{number}", draw_mask(number), colors=COLORS)
        task = FolderSource(data, "train").specs["clothing"]
        assert task.classes == ("clothing 0", "clothing 1", "clothing 2", "clothing 3")
        assert task.class_colors == COLORS


class TestDeclaredClasses:
    def declare(self, data, extra):
        names = ", ".join(f'"{name}"' for name in NAMES)
        (data / "classes.toml").write_text(f"[clothing]\nnames = [{names}]\n{extra}\n")

    def test_ids_and_ignored_values(self, data):
        self.declare(data, "ids = [0, 100, 150, 200]\nignore = [7]")
        for number in range(12):
            values = np.array([0, 100, 150, 200], np.uint8)[draw_mask(number)]
            values[0] = 7
            write_mask(data, f"p{number}", values)
        expected = draw_mask(0)
        expected[0] = 255
        source = FolderSource(data, "train", 0.0)
        np.testing.assert_array_equal(source.load(0)["clothing"], expected)

    @pytest.mark.parametrize("indexed", [False, True], ids=["RGB", "indexed, other order"])
    def test_colors(self, data, indexed):
        hexes = ", ".join(f'"#{r:02x}{g:02x}{b:02x}"' for r, g, b in COLORS)
        self.declare(data, f"colors = [{hexes}]" + ("\nids = [50, 51, 52, 53]" if indexed else ""))
        for number in range(12):
            ids = draw_mask(number)
            if indexed:
                write_mask(data, f"p{number}", 3 - ids, colors=COLORS[::-1])
            else:
                write_mask(data, f"p{number}", np.array(COLORS, np.uint8)[ids])
        source = FolderSource(data, "train", 0.0)
        np.testing.assert_array_equal(source.load(0)["clothing"], draw_mask(0))

    def test_some_classes_of_a_known_task(self, tmp_path):
        write_photograph(tmp_path, "a", 0)
        write_mask(tmp_path, "a", (draw_mask(0) > 0).astype(np.uint8), "seg")
        (tmp_path / "classes.toml").write_text('[seg]\nnames = ["background", "person"]\n')
        label = FolderSource(tmp_path, "train", 0.0).load(0)["seg"]
        np.testing.assert_array_equal(label, np.where(draw_mask(0) > 0, 15, 0))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("clothing = 3", "every task is a table"),
            ("[clothing]\nname = []", "unknown key 'name' of clothing; did you mean 'names'"),
            ('[clothing]\nnames = ["a"]', "two different classes or more"),
            ('[clothing]\nnames = ["a", "b"]\nids = [1]', "2 names and the ids"),
            ('[clothing]\nnames = ["a", "b"]\nids = [1, 255]', "none of them ignored or 255"),
            ('[clothing]\nnames = ["a", "b"]\ncolors = ["red"]', "2 names and 1 colors"),
            ('[clothing]\nnames = ["a", "b"]\ncolors = ["red", "gren"]', "'gren' .* no color"),
            ('[seg]\nnames = ["background", "persn"]', "no class 'persn'; did you mean 'person'"),
            ('[depth]\nkind = "probabilty"', "unknown kind 'probabilty'"),
            ('[depth]\nkind = "probability"\nnames = ["a", "b"]', "no classes"),
            ("[clothing", "classes.toml"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, text, message):
        path = tmp_path / "classes.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_classes(path)


def spoil(kind, data):
    """Makes one file unusable; returns what the report says of it."""
    if kind == "damaged photograph":
        (data / "images/p1.png").write_bytes(b"no picture")
        return "images/p1.png"
    if kind == "damaged mask":
        (data / "clothing/p1.png").write_bytes(b"no picture")
        return "clothing/p1.png"
    if kind == "other size":
        write_mask(data, "p1", draw_mask(1, (40, 47)))
        return "clothing/p1.png"
    if kind == "unknown id":
        write_mask(data, "p1", np.full((40, 48), 9, np.uint8))
        return "has the values 9"
    if kind == "all unlabeled":
        write_mask(data, "p1", np.full((40, 48), 255, np.uint8))
        return "labels nothing"
    if kind == "two of a stem":
        write_photograph(data, "p1", 1, ".jpg")
        return "has the stem of"
    write_mask(data, "q", draw_mask(1))
    return "has no photograph of its stem"


KINDS = ["damaged photograph", "damaged mask", "other size", "unknown id", "all unlabeled",
         "two of a stem", "no photograph"]  # fmt: skip


class TestChecking:
    def test_report(self, data):
        report = check_data(data)
        assert (report.train, report.val, report.problems) == (10, 2, ())
        (count,) = report.tasks
        assert count.photographs == 12
        expected = sum(np.bincount(draw_mask(n).ravel(), minlength=4) for n in range(12))
        assert count.pixels == tuple(expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_problems_are_named(self, data, kind, capsys):
        said = spoil(kind, data)
        assert main(["data", "check", str(data)]) == 1
        shown = capsys.readouterr().out
        assert said in shown and "problems: 1" in shown

    def test_command_line(self, data, capsys):
        assert main(["data", "check", str(data)]) == 0
        shown = capsys.readouterr().out
        assert "10 photographs to train on, 2 to validate on" in shown
        assert "trousers" in shown and "problems: none" in shown

    def test_nothing_to_learn_from(self, tmp_path):
        (tmp_path / "images").mkdir()
        with pytest.raises(FileNotFoundError, match="holds no photographs"):
            check_data(tmp_path)
        write_photograph(tmp_path, "a", 0)
        with pytest.raises(ValueError, match="has no labels"):
            check_data(tmp_path)

    def test_other_layouts(self, write_photographs, tmp_path):
        report = check_data(write_photographs(tmp_path))
        assert report.train and {count.task.name for count in report.tasks} >= {"seg", "parts"}


SMALL = ["--steps", "2", "--batch-size", "2", "--crop-size", "32", "--device", "cpu"]


@pytest.fixture
def checkpoint(tmp_path):
    model = create("ctn", "efficientnet_lite0", TINY)
    return f"local-dir:{save_checkpoint(model.eval(), tmp_path / 'start')}"


class TestLearning:
    def test_from_nothing_to_a_network_that_knows_the_classes(
        self, data, checkpoint, tmp_path, capsys
    ):
        out = tmp_path / "run"
        words = ["--data", str(data), "--add-task", "clothing", "--like", "parts"]
        assert main(["finetune", checkpoint, *words, "--out", str(out), *SMALL]) == 0
        assert "before" in capsys.readouterr().out
        TASKS.pop("clothing")
        model = ctnet.load(f"local-dir:{out / 'checkpoint'}")
        assert model.tasks[-1] == "clothing" and get_task(model.tasks[-1]).classes == NAMES
        labels = model.predict(data / "images/p0.jpg", "single:clothing").labels["clothing"]
        assert labels.shape == (40, 48) and labels.max() < 4
        old, new = ctnet.load(checkpoint).state_dict(), model.state_dict()
        assert all((value == new[name]).all() for name, value in old.items())
        with Image.open(out / "predictions.png") as sheet:
            assert sheet.height > 100
        where = f"local-dir:{out / 'checkpoint'}"
        words = ["eval", where, "--data", str(data), "--rule", "single:clothing"]
        assert main([*words, "--out", str(tmp_path / "results")]) == 0

    def test_in_python_with_everything_learning(self, data, checkpoint, tmp_path):
        model = ctnet.finetune(
            checkpoint, data, tmp_path / "run", add_task="clothing", train_all=True, steps=2,
            batch_size=2, crop_size=32, device="cpu", workers=0,
        )  # fmt: skip
        before = ctnet.load(checkpoint).state_dict()
        assert not (
            before["decoder.head.weight"] == model.state_dict()["decoder.head.weight"]
        ).all()

    def test_without_photographs_to_validate_on(self, data, checkpoint, tmp_path, capsys):
        words = ["finetune", checkpoint, "--data", str(data), "--add-task", "clothing"]
        assert main([*words, "--out", str(tmp_path / "run"), "--val-share", "0", *SMALL]) == 0
        assert "not compared" in capsys.readouterr().out

    def test_epochs(self, data, checkpoint, tmp_path):
        words = ["finetune", checkpoint, "--data", str(data), "--add-task", "clothing", *SMALL[2:]]
        assert main([*words, "--out", str(tmp_path / "run"), "--epochs", "0.4"]) == 0
        assert json.loads((tmp_path / "run/run.json").read_text())["step"] == 2

    def test_bad_files_stop_it_before_it_begins_or_are_left_out(
        self, data, checkpoint, tmp_path, capsys
    ):
        spoil("unknown id", data)
        words = ["finetune", checkpoint, "--data", str(data), "--add-task", "clothing"]
        words += ["--out", str(tmp_path / "run"), *SMALL]
        assert main(words) != 0
        said = capsys.readouterr().err
        assert "clothing/p1.png" in said and "--skip-bad" in said
        with pytest.warns(UserWarning, match="left out.*p1"):
            assert main([*words, "--skip-bad"]) == 0
        config = json.loads((tmp_path / "run/run.json").read_text())["config"]
        assert config["skip"] == ["p1"]

    def test_unknown_tasks_are_refused(self, data, checkpoint, tmp_path):
        with pytest.raises(ValueError, match=r"'clothng'.*did you mean 'clothing'"):
            ctnet.finetune(checkpoint, data, tmp_path / "run", add_task="clothng")

    def test_rules_map_own_classes(self, data, checkpoint, tmp_path):
        rule = tmp_path / "tidy.toml"
        rule.write_text('reads = "clothing"\n[classes]\nhat = "edges"\nshirt = "clothing"\n')
        model = ctnet.finetune(
            checkpoint, data, tmp_path / "run", add_task="clothing", rule=str(rule),
            train_all=True, steps=2, batch_size=2, crop_size=32, device="cpu", workers=0,
        )  # fmt: skip
        found = model.predict(data / "images/p0.jpg", str(rule))
        classes = model.predict(data / "images/p0.jpg", "single:clothing").labels["clothing"]
        expected = np.full(classes.shape, 255)
        expected[classes == 1], expected[classes == 2] = 2, 5
        np.testing.assert_array_equal(found.palette.ids, expected)
        rule.write_text('reads = "saliency"\n[classes]\nhat = "edges"\n')
        with pytest.raises(ValueError, match="reads the class map of 'saliency'"):
            model.predict(data / "images/p0.jpg", str(rule))


def test_processes_that_are_started_anew_know_the_task(data):
    source = FolderSource(data, "train")
    register_task(source.specs["clothing"])
    tasks = ("seg", "clothing")
    draws = StepDraws(torch.ones(len(source.ids)), 1, 0)
    crops = CropBatches(source, tasks, draws, 32, (1.0, 1.0))
    batches = RequestedBatches(crops, Requests(R1, tasks))
    loader = DataLoader(
        batches, batch_size=None, sampler=[3], num_workers=1, multiprocessing_context="spawn"
    )
    sample = next(iter(loader))
    assert torch.equal(sample.labels["clothing"], batches[3].labels["clothing"])
    assert torch.equal(sample.palette, batches[3].palette)


def test_masks_of_another_mode_are_refused(data):
    write_mask(data, "p0", np.zeros((40, 48, 3), np.uint8) + 77)
    with pytest.raises(LabelError, match=r"p0\.png.*colors"):
        FolderSource(data, "train", 0.0).load(0)
