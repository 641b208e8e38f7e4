"""Labels of every kind of file: read right, or refused by the file's name."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import ctnet
from ctnet.cli.main import main
from ctnet.data.crop_batches import CropBatches, RequestedBatches, Requests
from ctnet.data.dataset import open_source
from ctnet.data.label_files import LabelError, read_class_map, read_normals, read_strength
from ctnet.data.sampling import StepDraws
from ctnet.evaluation.evaluate import evaluate
from ctnet.rules import get_rule
from ctnet.tasks import DEFAULT_TASKS, TASKS, TaskSpec, get_task

SEG = get_task("seg")


@pytest.fixture
def ids():
    """Class ids with all classes and the border that VOC leaves out."""
    found = np.random.default_rng(0).integers(0, 21, (20, 30), np.uint8)
    found[:2] = 255
    return found


def voc_colors():
    """VOC's color map by its published rule: bits of the id, spread over the channels."""
    table = np.zeros((256, 3), np.uint8)
    for number in range(256):
        rest, color = number, [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                color[channel] |= (rest >> channel & 1) << 7 - place
            rest >>= 3
        table[number] = color
    return table


class TestClassMaps:
    @pytest.mark.parametrize(
        "kind",
        ["gray", "16 bits", "16 bits, 65535", "voc", "voc, other order", "rgb", "rgba", "tiff"],
    )
    def test_the_same_ids_from_every_kind_of_picture(self, tmp_path, ids, kind):
        path, colors = tmp_path / "map.png", voc_colors()
        if kind == "gray":
            Image.fromarray(ids).save(path)
        elif kind.startswith("16 bits"):
            border = 65535 if "65535" in kind else 255
            Image.fromarray(np.where(ids == 255, border, ids).astype(np.uint16)).save(path)
        elif kind == "tiff":
            path = tmp_path / "map.tif"
            Image.fromarray(ids.astype(np.uint16)).save(path)
        elif kind == "voc":
            picture = Image.fromarray(ids)
            picture.putpalette(colors.ravel().tolist())
            picture.save(path)
        elif kind == "voc, other order":
            order = np.random.default_rng(1).permutation(256)
            picture = Image.fromarray(np.argsort(order).astype(np.uint8)[ids])
            picture.putpalette(colors[order].ravel().tolist())
            picture.save(path)
        else:
            rgb = colors[ids]
            if kind == "rgba":
                alpha = np.where(ids == 255, 0, 255).astype(np.uint8)
                rgb = np.dstack([rgb, alpha])
            Image.fromarray(rgb).save(path)
        assert np.array_equal(read_class_map(path, SEG), ids)

    def test_black_and_white_is_two_classes(self, tmp_path):
        mask = np.random.default_rng(0).random((9, 17)) < 0.5
        Image.fromarray(mask).save(tmp_path / "mask.png")
        assert np.array_equal(read_class_map(tmp_path / "mask.png", SEG), mask.astype(np.uint8))

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (np.full((4, 4), 21, np.uint8), r"class ids 21; seg has 21 classes, 0 to 20"),
            (np.full((4, 4), 1000, np.uint16), r"class ids 1000"),
            (np.full((4, 4, 3), 77, np.uint8), "mode RGB in colors that are not those"),
            (np.full((4, 4, 2), 3, np.uint8), "mode LA"),
        ],
    )
    def test_what_would_be_read_wrongly_is_refused_by_name(self, tmp_path, values, message):
        path = tmp_path / "cat_7.png"
        Image.fromarray(values).save(path)
        with pytest.raises(LabelError, match=message) as caught:
            read_class_map(path, SEG)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
    def test_damaged_files(self, tmp_path, content):
        path = tmp_path / "cat_7.png"
        path.write_bytes(content)
        for read in (lambda x: read_class_map(x, SEG), read_strength, read_normals):
            with pytest.raises(LabelError, match=r"cat_7\.png cannot be read"):
                read(path)
        with pytest.raises(FileNotFoundError):
            read_class_map(tmp_path / "missing.png", SEG)


class TestStrengthsAndNormals:
    def test_strengths(self, tmp_path):
        values = np.random.default_rng(0).integers(0, 256, (8, 9), np.uint8)
        pictures = {
            "gray.png": values,
            "wide.png": values.astype(np.uint16) * 257,
            "rgb.png": np.dstack([values] * 3),
        }
        for name, picture in pictures.items():
            Image.fromarray(picture).save(tmp_path / name)
            assert np.array_equal(read_strength(tmp_path / name), values), name
        Image.fromarray(values > 99).save(tmp_path / "mask.png")
        assert np.array_equal(read_strength(tmp_path / "mask.png"), (values > 99) * 255)

    def test_colors_are_no_strength_and_gray_no_normals(self, tmp_path):
        Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "rgb.png")
        Image.new("L", (4, 4)).save(tmp_path / "gray.png")
        with pytest.raises(LabelError, match=r"rgb\.png has colors"):
            read_strength(tmp_path / "rgb.png")
        with pytest.raises(LabelError, match=r"gray\.png is a picture of mode L"):
            read_normals(tmp_path / "gray.png")
        assert read_normals(tmp_path / "rgb.png").shape == (4, 4, 3)


@pytest.fixture
def root(write_photographs, tmp_path):
    return write_photographs(tmp_path, splits=("train", "train", "train", "val"))


def rewrite(root, change):
    """Changes the rows of a data set's index."""
    with (root / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in map(change, rows) if row is not None]
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return rows


class TestDataSets:
    def test_a_label_of_another_size_is_named(self, root):
        path = next(root.glob("*.parts.png"))
        Image.new("L", (7, 5)).save(path)
        source = open_source("compositemt", root, "train")
        index = list(source.ids).index(path.name.partition(".")[0])
        with pytest.raises(LabelError, match=r"parts\.png has 5 x 7 pixels, its photograph"):
            source.load(index)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_worker_says_it_in_one_line(self, root, workers):
        for path in root.glob("*.seg.png"):
            path.write_bytes(b"broken")
        source = open_source("compositemt", root, "train")
        draws = StepDraws(torch.ones(len(source.ids)), 2, 0)
        crops = CropBatches(source, DEFAULT_TASKS, draws, 32, (1.0, 1.0))
        batches = RequestedBatches(crops, Requests(get_rule("R1"), DEFAULT_TASKS))
        loader = DataLoader(batches, batch_size=None, sampler=range(3), num_workers=workers)
        with pytest.raises(LabelError) as caught:
            next(iter(loader))
        assert str(caught.value).startswith(str(root)) and len(str(caught.value).splitlines()) == 1

    def test_photographs_are_turned_as_in_predict(self, root):
        source = open_source("compositemt", root, "train")
        path = root / f"{source.ids[0]}.image.jpg"
        with Image.open(path) as picture:
            pixels = picture.convert("RGB")
        wanted = np.array(pixels)
        exif = pixels.getexif()
        exif[274] = 6  # To be turned by a quarter to the right.
        turned = pixels.transpose(Image.Transpose.ROTATE_90)
        turned.save(path, quality=100, subsampling=0, exif=exif)
        found = source.load(0)["image"]
        assert found.shape == wanted.shape
        assert np.abs(found.astype(int) - wanted).mean() < 3
        assert np.array_equal(found, ctnet.images.load_image(path))

    @pytest.mark.parametrize("style", ["bom", "semicolons", "no source", "spaces"])
    def test_indices_as_programs_write_them(self, root, style):
        wanted = open_source("compositemt", root, "train")
        index = root / "index.csv"
        text = index.read_text()
        if style == "bom":
            index.write_bytes(b"\xef\xbb\xbf" + text.encode())
        elif style == "semicolons":
            index.write_text(text.replace(",", ";"))
        elif style == "spaces":
            index.write_text(text.replace(",", " , "))
        else:
            left_out = ("source", "annotators")
            rewrite(root, lambda row: {k: v for k, v in row.items() if k not in left_out})
        source = open_source("compositemt", root, "train")
        assert source.ids == wanted.ids
        assert [source.kind(0, task) for task in DEFAULT_TASKS] == [
            wanted.kind(0, task) for task in DEFAULT_TASKS
        ]
        if style == "no source":
            assert source.origin(0) == "own" and source.annotators(0) is None

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("name,split\na,train\n", r"index\.csv has no column id; its columns are name, split"),
            ("", "no column id and no column split"),
            ("id,split,seg\na,train\n", "line 2: other than the 3 columns"),
            ("id,split\na,train\nb,train,true\n", "line 3: other than the 2 columns"),
            ("id,split\n,train\n", "line 2: no id"),
        ],
    )
    def test_bad_indices_are_named_with_the_line(self, tmp_path, text, message):
        (tmp_path / "index.csv").write_text(text)
        with pytest.raises(ValueError, match=message):
            open_source("compositemt", tmp_path, "train")

    def test_any_source_is_measured(self, root):
        model = ctnet.load("ctn-r1")
        rewrite(root, lambda row: row | {"source": "drone"})
        source = open_source("compositemt", root, "val")
        assert "drone" in source.measured_on("seg", False)
        assert "seg" in evaluate(model, source, progress=False).scores

    def test_measuring_nothing_is_an_error(self, root, tmp_path, capsys):
        rewrite(root, lambda row: row | dict.fromkeys(DEFAULT_TASKS, ""))
        words = ["--data", str(root), "--out", str(tmp_path / "results")]
        for name in ("ctn-r1", "palette-r2"):
            assert main(["eval", name, "--rule", "R2", *words]) == 1
            assert "nothing to measure: no photograph of" in capsys.readouterr().err
        assert not (tmp_path / "results").exists()

    def test_an_own_tasks_column_is_read(self, root, monkeypatch):
        spec = TaskSpec("clothes", "Clothes", "classes", (9, 9, 9), ("none", "hat"))
        monkeypatch.setitem(TASKS, "clothes", spec)
        rows = rewrite(root, lambda row: row | {"clothes": "true"})
        label = None
        for row in rows:
            with Image.open(root / f"{row['id']}.image.jpg") as picture:
                label = np.arange(picture.width * picture.height).reshape(picture.size[::-1]) % 2
            Image.fromarray(label.astype(np.uint8)).save(root / f"{row['id']}.clothes.png")
        source = open_source("compositemt", root, "train")
        assert source.kind(0, "clothes") == "true"
        assert np.array_equal(source.load(0)["clothes"], label)
        assert source.measured_on("clothes", False) == ("voc",)
        (root / f"{rows[0]['id']}.clothes.png").unlink()
        with pytest.raises(FileNotFoundError, match="clothes"):
            source.load(0)


def test_large_photographs_are_measured_at_the_working_size(root):
    """What counts is the prediction: enlarged photographs have the figures of small ones."""
    model = ctnet.load("ctn-r1")
    source = open_source("compositemt", root, "val")
    small = source.load(0)
    big = {name: np.repeat(np.repeat(x, 4, 0), 4, 1) for name, x in small.items()}
    height, width = small["image"].shape[:2]

    class Enlarged:
        def __getattr__(self, name):
            return getattr(source, name)

        def load(self, index):
            return big

    side = max(height, width)
    result = evaluate(model, Enlarged(), tasks=["seg"], progress=False, long_side=side)
    wanted = model.predict(big["image"], "single:seg", side).labels["seg"]
    there = big["seg"] != 255
    for number, iou in enumerate(result.scores["seg"]["iou"]):
        ours, truth = (wanted == number) & there, (big["seg"] == number) & there
        union = (ours | truth).sum()
        if union:
            assert iou == pytest.approx(100 * (ours & truth).sum() / union, abs=0.01)


def test_training_sees_photographs_at_the_working_size(root):
    source = open_source("compositemt", root, "train")
    size = source.load(0)["image"].shape[:2]
    for path in root.glob("*.*.*"):
        with Image.open(path) as picture:
            large = picture.resize((size[1] * 12, size[0] * 12), Image.Resampling.NEAREST)
        large.save(path)
    before, after = (
        open_source("compositemt", root, "train", working_size=x).load(0) for x in (False, True)
    )
    assert max(before["image"].shape) > 320
    for name, values in after.items():
        assert max(values.shape[:2]) == 320, name
        assert values.dtype == before[name].dtype
    assert set(np.unique(after["seg"])) <= set(np.unique(before["seg"]))
    assert after["edges"].max() == before["edges"].max()
