"""COCO instances and PASCAL VOC as folders of photographs and class maps."""

import json

import numpy as np
import pytest
from PIL import Image

from ctnet.cli.main import main
from ctnet.data.check import check_data
from ctnet.data.convert import convert_coco, convert_voc
from ctnet.data.folder import FolderSource
from ctnet.tasks import voc_color

HEIGHT, WIDTH = 30, 40


def write_photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


@pytest.fixture
def coco(tmp_path):
    """Two photographs; on the first a small cup in front of a table, and a crowd of cups."""
    for name in ("a.jpg", "b.jpg"):
        write_photograph(tmp_path / "photos" / name)
    crowd = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * 2, HEIGHT * (WIDTH - 2)]}
    instances = [
        (1, 1, 9, box(10, 10, 20, 20), 100, 0),
        (2, 1, 40, box(5, 5, 35, 25), 600, 0),
        (3, 1, 9, crowd, 60, 1),
        (4, 2, 40, box(0, 0, 40, 30), 1200, 0),
    ]
    content = {
        "images": [
            {"id": number, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH}
            for number, name in ((1, "a"), (2, "b"))
        ],
        "categories": [{"id": 40, "name": "table"}, {"id": 9, "name": "cup"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "segmentation": mask,
             "area": area, "iscrowd": crowded, "bbox": [0, 0, 1, 1]}
            for i, image, category, mask, area, crowded in instances
        ],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


class TestCoco:
    def test_class_maps(self, coco):
        folder = convert_coco(coco / "instances.json", coco / "photos", coco / "data", "kitchen")
        source = FolderSource(folder, "train", 0.0)
        assert source.specs["kitchen"].classes == ("background", "cup", "table")
        first, second = (source.load(index)["kitchen"] for index in range(2))
        expected = np.zeros((HEIGHT, WIDTH), np.uint8)
        expected[5:25, 5:35] = 2
        expected[10:20, 10:20] = 1
        expected[:, :2] = 255
        assert (first != expected).mean() < 0.08, "but for the rasterizing of borders"
        assert (first[12:18, 12:18] == 1).all() and (first[:, :2] == 255).all()
        assert (second[2:-2, 2:-2] == 2).all()

    def test_command_line(self, coco, capsys):
        words = ["data", "convert-coco", str(coco / "instances.json"), "--out", str(coco / "data")]
        assert main([*words, "--images", str(coco / "photos")]) == 0
        assert main(["data", "check", str(coco / "data")]) == 0
        assert "table" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("missing", "no file"),
            ("no JSON", "holds no COCO instances"),
            ("a list", "holds no COCO instances"),
            ("no categories", "has 0 categories"),
            ("full", "holds something already"),
        ],
    )
    def test_bad_input(self, coco, change, message):
        file = coco / "instances.json"
        if change == "missing":
            file.unlink()
        elif change == "no JSON":
            file.write_text("instances")
        elif change == "a list":
            file.write_text("[]")
        elif change == "no categories":
            file.write_text(json.dumps({**json.loads(file.read_text()), "categories": []}))
        else:
            write_photograph(coco / "data" / "x.jpg")
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            convert_coco(file, coco / "photos", coco / "data")


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "SegmentationClass").mkdir(parents=True)
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, stem, number in (("train", "p1", 12), ("val", "p2", 15)):
        write_photograph(root / "JPEGImages" / f"{stem}.jpg")
        ids = np.full((HEIGHT, WIDTH), number, np.uint8)
        ids[0] = 255
        picture = Image.fromarray(ids, "P")
        table = [channel for index in range(256) for channel in voc_color(index)]
        picture.putpalette(table)
        picture.save(root / "SegmentationClass" / f"{stem}.png")
        (lists / f"{split}.txt").write_text(f"{stem}\n")
    return root


class TestVoc:
    def test_class_maps_and_split(self, voc, tmp_path):
        folder = convert_voc(voc, tmp_path / "data")
        for split, number in (("train", 12), ("val", 15)):
            source = FolderSource(folder, split)
            label = source.load(0)["seg"]
            assert len(source.ids) == 1 and (label[1:] == number).all() and (label[0] == 255).all()
        assert not check_data(folder).problems

    def test_command_line(self, voc, tmp_path, capsys):
        assert main(["data", "convert-voc", str(voc), "--out", str(tmp_path / "data")]) == 0
        assert main(["data", "convert-voc", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
        assert "is no folder VOCdevkit/VOC2012" in capsys.readouterr().err
