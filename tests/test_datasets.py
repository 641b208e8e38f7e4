"""Both data sets on tiny trees: values, validity, palettes, determinism, sampling."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from ctnet import create
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.crop_batches import CropBatches
from ctnet.data.dataset import CompositeDataset, open_source
from ctnet.data.label_source import LabelSource
from ctnet.data.pascal_mt import PascalMT, decode_colors, region_boundaries
from ctnet.data.sampling import StepDraws, sampling_weights
from ctnet.evaluation.evaluate import evaluate
from ctnet.rules import R1, R2, R3, RRND, Rule, get_rule, single
from ctnet.tasks import DEFAULT_TASKS, TASKS, VOC_CLASSES

HEIGHT, WIDTH = 30, 40
SEG, PARTS, EDGES, SALIENCY, NORMALS, NOTHING = 0, 1, 2, 3, 4, 255
TASK_OF_CLASS = {
    R2.name: {"person": PARTS, "cat": SEG, "sofa": NORMALS, "bus": SALIENCY, "background": EDGES},
    R3.name: {"person": PARTS, "cat": SALIENCY, "sofa": NORMALS, "bus": NORMALS,
              "background": EDGES},
}  # fmt: skip


def rectangles(values: list[int], dtype: type = np.uint8) -> np.ndarray:
    """Vertical stripes of equal width, one a value."""
    stripes = np.array(values)[np.arange(WIDTH) * len(values) // WIDTH]
    return np.broadcast_to(stripes, (HEIGHT, WIDTH)).astype(dtype)


def photograph(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT)))


def stored_normals(seed: int) -> np.ndarray:
    normals = np.random.default_rng(seed).normal((0, 0, 2), size=(HEIGHT, WIDTH, 3))
    normals /= np.linalg.norm(normals, axis=2, keepdims=True)
    return np.round((normals + 1) * 127.5).astype(np.uint8)


CAT, PERSON, SOFA, BUS = (VOC_CLASSES.index(name) for name in ("cat", "person", "sofa", "bus"))
SEG_STRIPES = [0, PERSON, CAT, 255, SOFA, BUS]
PARTS_STRIPES = [0, 1, 6, 255]


@pytest.fixture(scope="module")
def mini_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four samples in the layout of CompositeMT-mini, each with other labels."""
    root = tmp_path_factory.mktemp("compositemt")

    def save(name: str, array: np.ndarray) -> None:
        Image.fromarray(array).save(root / name, quality=95)

    rows = [
        ("voc_a", "train", "voc", "", "true", "distilled", "distilled", "distilled", ""),
        ("nyu_b", "train", "nyu", "", "true", "", "true", "", "true"),
        ("ecssd_c", "train", "ecssd", "", "", "", "", "true", ""),
        ("bsds_d", "val", "bsds", "3", "", "", "true", "", ""),
    ]
    columns = "id split shard source width height annotators seg parts edges saliency normals"
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns.split())
        for name, split, source, annotators, *kinds in rows:
            writer.writerow([name, split, "train-00", source, WIDTH, HEIGHT, annotators, *kinds])
    for seed, row in enumerate(rows):
        save(f"{row[0]}.image.jpg", photograph(seed))
    save("voc_a.seg.png", rectangles(SEG_STRIPES))
    save("voc_a.parts.png", rectangles(PARTS_STRIPES))
    save("voc_a.edges.jpg", rectangles([0, 80, 255]))
    save("voc_a.saliency.jpg", rectangles([10, 200]))
    save("nyu_b.seg.png", rectangles([255, SOFA]))
    save("nyu_b.edges.png", rectangles([0, 128, 255, 0]))
    save("nyu_b.normals.jpg", stored_normals(1))
    save("ecssd_c.saliency.jpg", rectangles([255, 0]))
    save("bsds_d.edges.png", rectangles([0, 85, 170, 255]))
    save("bsds_d.annotators.png", rectangles([0, 0b001, 0b101, 0b111], np.uint16))
    return root


VOC_RGB = dict(zip(VOC_CLASSES, TASKS["seg"].class_colors, strict=True))
PARTS_RGB = list(TASKS["seg"].class_colors[:7])
BORDER = (224, 224, 192)
CONTEXT = {"person": 5, "sofa": 7, "grass": 9, "unknown": 11, "tvmonitor": 13}
NYU = {"sofa": 83, "person": 331, "unknown": 20, "television": 172}
REGIONS = [CONTEXT["grass"], CONTEXT["sofa"], CONTEXT["tvmonitor"], CONTEXT["unknown"]]


def paint(colors: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(colors, np.uint8)[rectangles(list(range(len(colors))))]


def write_color_map(path: Path, colors: list[tuple[int, int, int]]) -> None:
    """Writes colors as PASCAL-MT does: tab-separated blue, green, red in ascending order."""
    np.savetxt(path, sorted(color[::-1] for color in colors), "%d", "\t")


@pytest.fixture
def mt_root(tmp_path: Path) -> Path:
    """Three samples in the layout of PASCAL-MT: all labels, no people, no labels."""
    root = tmp_path / "PASCAL_MT"
    for folder in (
        "JPEGImages", "semantic_segmentation", "human_parts", "normals_distilled",
        "saliency_distilled", "pascal-context/trainval", "ImageSets/Context", "colourmaps", "json",
    ):  # fmt: skip
        (root / folder).mkdir(parents=True)
    for seed, name in enumerate(("2008_1", "2008_2", "2008_3")):
        Image.fromarray(photograph(seed)).save(root / "JPEGImages" / f"{name}.jpg")
    (root / "ImageSets/Context/train.txt").write_text("2008_1\n2008_2\n")
    (root / "ImageSets/Context/val.txt").write_text("2008_3\n\n")
    write_color_map(root / "colourmaps/colourmap_seg21.txt", [*VOC_RGB.values()])
    write_color_map(root / "colourmaps/colourmap_parts7.txt", PARTS_RGB)
    (root / "json/context_classes.json").write_text(json.dumps(CONTEXT))
    (root / "json/nyu_classes.json").write_text(json.dumps(NYU))

    def save(folder: str, name: str, array: np.ndarray) -> None:
        Image.fromarray(array).save(root / folder / f"{name}.png")

    names = ["background", "person", "cat", "sofa", "bus"]
    seg = paint([*(VOC_RGB[name] for name in names), BORDER])
    save("semantic_segmentation", "2008_1", seg)
    save("human_parts", "2008_1", paint([*PARTS_RGB, (1, 2, 3)]))
    save("human_parts", "2008_2", paint([PARTS_RGB[0]]))
    save("normals_distilled", "2008_1", stored_normals(1))
    save("saliency_distilled", "2008_1", rectangles([0, 100, 255]))
    regions = rectangles(REGIONS, np.uint16)
    savemat(root / "pascal-context/trainval/2008_1.mat", {"LabelMap": regions})
    savemat(root / "pascal-context/trainval/2008_2.mat", {"LabelMap": regions})
    return root


def test_compositemt_files_are_read_as_they_are(mini_root: Path) -> None:
    source = CompositeMTMini(mini_root, "train")
    assert list(source.ids) == ["voc_a", "nyu_b", "ecssd_c"]
    assert [source.kind(i, "seg") for i in range(3)] == ["true", "true", ""]
    voc, nyu, ecssd = (source.load(i) for i in range(3))
    assert voc.keys() == {"image", "seg", "parts", "edges", "saliency"}
    assert nyu.keys() == {"image", "seg", "edges", "edges.valid", "normals"}
    assert ecssd.keys() == {"image", "saliency"}
    np.testing.assert_array_equal(voc["seg"], rectangles(SEG_STRIPES))
    np.testing.assert_array_equal(voc["parts"], rectangles(PARTS_STRIPES))
    np.testing.assert_allclose(voc["edges"], rectangles([0, 80, 255]), atol=12)
    np.testing.assert_array_equal(nyu["edges.valid"], rectangles([1, 0, 1, 1], bool))
    with Image.open(mini_root / "nyu_b.normals.jpg") as image:
        np.testing.assert_array_equal(nyu["normals"], np.array(image))


def test_compositemt_annotators_are_bits(mini_root: Path) -> None:
    humans = CompositeMTMini(mini_root, "val").annotators(0)
    assert humans is not None
    for human, stripes in zip(humans, ([0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1]), strict=True):
        np.testing.assert_array_equal(human, rectangles(stripes, bool))
    assert CompositeMTMini(mini_root, "train").annotators(0) is None


def test_compositemt_sources_and_errors(mini_root: Path, tmp_path: Path) -> None:
    assert list(CompositeMTMini(mini_root, "train", ["nyu", "voc"]).ids) == ["voc_a", "nyu_b"]
    with pytest.raises(FileNotFoundError, match=r"no index\.csv"):
        CompositeMTMini(tmp_path, "train")
    with pytest.raises(ValueError, match="split 'test'"):
        CompositeMTMini(mini_root, "test")
    with pytest.raises(ValueError, match="nothing"):
        CompositeMTMini(mini_root, "train", ["bsds"])


def test_sample_of_everything_but_normals(mini_root: Path) -> None:
    source = CompositeMTMini(mini_root, "train")
    sample = CompositeDataset(source, single("seg"))[0]
    raw = source.load(0)
    assert sample.image.dtype == torch.float32
    np.testing.assert_allclose(sample.image.permute(1, 2, 0), raw["image"] / 255, atol=1e-6)
    assert sample.palette.dtype == torch.int64
    assert (sample.palette == SEG).all()
    assert sample.labels["seg"].dtype == torch.int64
    np.testing.assert_array_equal(sample.labels["seg"], rectangles(SEG_STRIPES))
    np.testing.assert_array_equal(sample.valid[SEG], rectangles(SEG_STRIPES) != 255)
    np.testing.assert_array_equal(sample.valid[PARTS], rectangles(PARTS_STRIPES) != 255)
    np.testing.assert_allclose(sample.labels["edges"], raw["edges"] / 255, atol=1e-6)
    assert sample.valid.shape == (5, HEIGHT, WIDTH)
    assert sample.valid[EDGES].all()
    assert sample.valid[SALIENCY].all()
    assert not sample.valid[NORMALS].any()
    assert sample.labels["normals"].shape == (3, HEIGHT, WIDTH)


def test_unlabeled_edges_of_nyu_do_not_count(mini_root: Path) -> None:
    sample = CompositeDataset(CompositeMTMini(mini_root, "train"), R1)[1]
    np.testing.assert_array_equal(sample.valid[EDGES], rectangles([1, 0, 1, 1], bool))
    np.testing.assert_array_equal(sample.labels["edges"] == 1, rectangles([0, 0, 1, 0], bool))
    assert sample.valid[NORMALS].all()
    norms = sample.labels["normals"].norm(dim=0)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    assert not sample.valid[[PARTS, SALIENCY]].any()


def test_pascal_mt_labels(mt_root: Path) -> None:
    source = PascalMT(str(mt_root), "train")
    assert list(source.ids) == ["2008_1", "2008_2"]
    found = source.load(0)
    labels = {"seg", "parts", "edges", "saliency", "normals", "normals.valid"}
    assert found.keys() == {"image", *labels}
    assert found["image"].shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(found["seg"], rectangles([0, 15, 8, 18, 6, 255]))
    np.testing.assert_array_equal(found["parts"], rectangles([0, 1, 2, 3, 4, 5, 6, 255]))
    np.testing.assert_array_equal(found["saliency"], rectangles([0, 100, 255]))
    np.testing.assert_array_equal(found["normals"], stored_normals(1))
    np.testing.assert_array_equal(found["normals.valid"], rectangles([0, 1, 1, 0], bool))
    edges = found["edges"] == 255
    assert set(np.unique(found["edges"])) == {0, 255}
    # Thinning shortens lines by a pixel at the border.
    assert (edges[1:-1].sum(1) == 3).all()
    assert all(edges[1:-1, [column - 1, column]].any(1).all() for column in (10, 20, 30))


def test_pascal_mt_says_what_its_labels_are(mt_root: Path) -> None:
    source = PascalMT(mt_root, "train")
    kinds = {task: [source.kind(i, task) for i in range(2)] for task in DEFAULT_TASKS}
    assert kinds == {
        "seg": ["true", ""], "parts": ["true", "true"], "edges": ["true", "true"],
        "saliency": ["distilled", ""], "normals": ["distilled", ""],
    }  # fmt: skip
    assert source.kind(0, "depth") == ""
    # Normals count only on regions of classes that their teacher has seen.
    (mt_root / "pascal-context/trainval/2008_1.mat").unlink()
    assert source.kind(0, "normals") == ""
    assert source.origin(0) == "pascal"
    assert source.measured_on("seg", semantic=True) == ("pascal",)
    assert source.annotators(0) is None


def test_models_can_be_measured_on_pascal_mt(mt_root: Path) -> None:
    source = PascalMT(mt_root, "train")
    result = evaluate(create("ctn").eval(), source, "R2", progress=False)
    assert result.data == "PASCAL-MT"
    assert result.scores["seg"]["images"] == 1
    assert result.labels["seg"] == ("true",)
    assert result.labels["normals"] == ("distilled",)


def test_open_source_by_layout(mini_root: Path, mt_root: Path) -> None:
    assert open_source("compositemt", mini_root, "train").name == "CompositeMT-mini"
    assert open_source("pascal-mt", mt_root, "val").name == "PASCAL-MT"
    with pytest.raises(ValueError, match="unknown layout 'pascal'; did you mean 'pascal-mt'"):
        open_source("pascal", mt_root, "val")
    with pytest.raises(FileNotFoundError, match=r"PASCAL_MT\.zip"):
        open_source("pascal-mt", mini_root, "train")


def test_pascal_mt_numbers_every_class_as_voc_does(mt_root: Path) -> None:
    stripes = paint([*VOC_RGB.values()])
    Image.fromarray(stripes).save(mt_root / "semantic_segmentation/2008_1.png")
    seg = PascalMT(mt_root, "train").load(0)["seg"]
    np.testing.assert_array_equal(seg, rectangles(list(range(21))))


def test_pascal_mt_reads_indexed_pictures(mt_root: Path) -> None:
    indexed = Image.fromarray(rectangles([0, 1, 2])).convert("P")
    indexed.putpalette([*VOC_RGB["dog"], *VOC_RGB["boat"], *BORDER])
    indexed.putdata(rectangles([0, 1, 2]).ravel())
    indexed.save(mt_root / "semantic_segmentation/2008_1.png")
    seg = PascalMT(mt_root, "train").load(0)["seg"]
    np.testing.assert_array_equal(seg, rectangles([12, 4, 255]))


def test_pascal_mt_missing_files_are_missing_labels(mt_root: Path) -> None:
    # No people, hence no parts; no PASCAL-Context regions, hence no normals to be trusted.
    assert PascalMT(mt_root, "train").load(1).keys() == {"image", "edges"}
    assert PascalMT(mt_root, "val").load(0).keys() == {"image"}
    (mt_root / "pascal-context/trainval/2008_1.mat").unlink()
    assert PascalMT(mt_root, "train").load(0).keys() == {"image", "seg", "parts", "saliency"}
    sample = CompositeDataset(PascalMT(mt_root, "val"), R1)[0]
    assert not sample.valid.any()


def test_pascal_mt_crops(mt_root: Path) -> None:
    source = PascalMT(mt_root, "train")
    draws = StepDraws(torch.tensor([1.0] + [0.0] * (len(source.ids) - 1)), 1, 0)
    sample = CropBatches(source, DEFAULT_TASKS, draws, 64, (0.6, 1.2))[3].sample
    assert sample.image.shape == (1, 3, 64, 64)
    assert sample.valid.any(-1).any(-1).all()
    # The background stripe lies on grass, which the normals' teacher has not seen.
    background = sample.labels["seg"] == 0
    assert background.any()
    assert not sample.valid[:, NORMALS][background].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda r: r.rename(r.parent / "away"), FileNotFoundError, "no folder .*ImageSets"),
        (lambda r: (r / "JPEGImages").rename(r / "jpg"), FileNotFoundError, "JPEGImages"),
        (lambda r: (r / "ImageSets/Context/train.txt").write_text("\n"), ValueError, "no images"),
        (lambda r: (r / "colourmaps/colourmap_seg21.txt").unlink(), FileNotFoundError, "seg21"),
        (lambda r: (r / "colourmaps/colourmap_parts7.txt").write_text("0\t0\t0\n"), ValueError,
         "7 rows"),
        (lambda r: (r / "colourmaps/colourmap_parts7.txt").write_text("zero\n"), ValueError,
         "no table of colors"),
        (lambda r: (r / "json/nyu_classes.json").unlink(), FileNotFoundError, "nyu_classes"),
    ],
)  # fmt: skip
def test_pascal_mt_faults_are_named(mt_root: Path, change, error, message: str) -> None:  # type: ignore[no-untyped-def]
    change(mt_root)
    with pytest.raises(error, match=message):
        PascalMT(mt_root, "train")


def test_pascal_mt_unknown_split_names_the_others(mt_root: Path) -> None:
    with pytest.raises(ValueError, match=r"no split 'training'; did you mean 'train'\?.*val"):
        PascalMT(mt_root, "training")


def test_pascal_mt_faults_of_one_sample(mt_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = PascalMT(mt_root, "train")
    Image.fromarray(rectangles([0])[:, :20]).save(mt_root / "saliency_distilled/2008_1.png")
    with pytest.raises(ValueError, match=r"saliency of 2008_1 .*\(30, 20\).*\(30, 40\)"):
        source.load(0)
    savemat(mt_root / "pascal-context/trainval/2008_2.mat", {"Other": 1})
    with pytest.raises(ValueError, match=r"2008_2\.mat has no variable LabelMap"):
        source.load(1)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ModuleNotFoundError, match=r"ctnet\[train\]"):
        source.load(1)
    (mt_root / "JPEGImages/2008_2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="2008_2"):
        source.load(1)


def test_colors_in_any_order_and_outside_the_map() -> None:
    colors = np.array([(9, 0, 0), (0, 0, 9), (255, 255, 255)], np.uint8)
    picture = np.array([[(0, 0, 9), (9, 0, 0)], [(0, 0, 8), (255, 255, 255)]], np.uint8)
    ids = decode_colors(picture, colors, np.array([4, 5, 6], np.uint8))
    np.testing.assert_array_equal(ids, [[5, 4], [255, 6]])


def test_boundaries_lie_between_regions() -> None:
    regions = np.random.default_rng(0).integers(0, 400, (5, 6)).repeat(5, 0).repeat(7, 1)
    touching = np.zeros(regions.shape, bool)
    height, width = regions.shape
    for y in range(height):
        for x in range(width):
            for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if 0 <= v < height and 0 <= u < width:
                    touching[y, x] |= regions[y, x] != regions[v, u]
    found = region_boundaries(regions) == 255
    assert not (found & ~touching).any()
    # Thinned, and yet beside every pair of different neighbors (crossings move by one pixel).
    assert found.sum() < 0.7 * touching.sum()
    near = np.pad(found, 1)
    near = near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:] | found
    assert near[touching].mean() > 0.95
    assert not region_boundaries(np.ones((4, 5), np.int64)).any()


def layouts(request: pytest.FixtureRequest, name: str) -> LabelSource:
    if name == "pascal-mt":
        return PascalMT(request.getfixturevalue("mt_root"), "train")
    return CompositeMTMini(request.getfixturevalue("mini_root"), "train")


@pytest.mark.parametrize("layout", ["compositemt", "pascal-mt"])
@pytest.mark.parametrize("rule", [R2, R3], ids=lambda rule: rule.name)
def test_semantic_palettes(request: pytest.FixtureRequest, layout: str, rule: Rule) -> None:
    sample = CompositeDataset(layouts(request, layout), rule)[0]
    expected = np.full((HEIGHT, WIDTH), NOTHING)
    for name, task in TASK_OF_CLASS[rule.name].items():
        expected[sample.labels["seg"] == VOC_CLASSES.index(name)] = task
    np.testing.assert_array_equal(sample.palette, expected)
    unlabeled = sample.labels["seg"] == 255
    assert unlabeled.any()
    assert (sample.palette[unlabeled] == NOTHING).all()
    assert sample.palette.unique().numel() >= 4


def test_semantic_rules_ask_for_nothing_without_a_class_map(mini_root: Path) -> None:
    dataset = CompositeDataset(CompositeMTMini(mini_root, "train"), R2)
    assert (dataset[2].palette == NOTHING).all()


def test_semantic_rules_serve_networks_without_segmentation(mini_root: Path) -> None:
    tasks = ("edges", "saliency", "normals", "parts")
    source = CompositeMTMini(mini_root, "train")
    with_seg, without = CompositeDataset(source, R3)[0], CompositeDataset(source, R3, tasks)[0]
    assert without.labels.keys() == set(tasks)
    for number, name in enumerate(tasks):
        assert torch.equal(without.palette == number, with_seg.palette == int(TASK_IDS[name]))


TASK_IDS = {name: number for number, name in enumerate(TASKS)}


@pytest.mark.parametrize("layout", ["compositemt", "pascal-mt"])
def test_mosaics_are_four_rectangles_of_labeled_tasks(
    request: pytest.FixtureRequest, layout: str
) -> None:
    source = layouts(request, layout)
    dataset = CompositeDataset(source, R1)
    for index in range(len(dataset)):
        labeled = {TASK_IDS[name] for name in source.load(index) if name in TASK_IDS}
        asked = set()
        for seed in range(30):
            palette = dataset[index, seed].palette
            asked |= set(palette.unique().tolist())
            rows = (palette[1:] != palette[:-1]).any(1).nonzero().flatten() + 1
            columns = (palette[:, 1:] != palette[:, :-1]).any(0).nonzero().flatten() + 1
            assert len(rows) <= 1
            assert len(columns) <= 1
            assert all(HEIGHT / 4 - 1 <= row <= HEIGHT * 3 / 4 + 1 for row in rows)
            assert all(WIDTH / 4 - 1 <= column <= WIDTH * 3 / 4 + 1 for column in columns)
        assert asked == labeled


@pytest.mark.parametrize("layout", ["compositemt", "pascal-mt"])
def test_random_and_single_palettes(request: pytest.FixtureRequest, layout: str) -> None:
    source = layouts(request, layout)
    palette = CompositeDataset(source, RRND)[0, 1].palette
    labeled = {TASK_IDS[name] for name in source.load(0) if name in TASK_IDS}
    assert set(palette.unique().tolist()) == labeled
    shares = torch.bincount(palette.flatten()).float() / palette.numel()
    assert ((shares[list(labeled)] - 1 / len(labeled)).abs() < 0.06).all()
    for name, number in TASK_IDS.items():
        asked = CompositeDataset(source, get_rule(f"single:{name}"))[1].palette
        assert (asked == number).all()
    assert (CompositeDataset(source, None)[0].palette == NOTHING).all()


def test_photographs_repeat_by_index_and_seed(mini_root: Path) -> None:
    dataset = CompositeDataset(CompositeMTMini(mini_root, "train"), R1)
    first = dataset[0, 5].palette
    assert torch.equal(first, dataset[0, 5].palette)
    assert any(not torch.equal(first, dataset[0, seed].palette) for seed in range(6, 12))
    assert torch.equal(dataset[1].palette, dataset[1, 1].palette)


def test_sampling_weights_by_hand(mini_root: Path) -> None:
    source = CompositeMTMini(mini_root, "train")
    # Person, cat, bus and background: 1 of 3 images; sofa: 2 of 3; the third shows no class.
    np.testing.assert_array_equal(sampling_weights(source, R1, {}), [1, 1, 1])
    np.testing.assert_array_equal(sampling_weights(source, R1, {"nyu": 2.5}), [1, 2.5, 1])
    with pytest.raises(ValueError, match="no image is from source 'nyuv2'; did you mean 'nyu'"):
        sampling_weights(source, R1, {"nyuv2": 2.5})
    # R2 cannot ask for anything without a class map.
    np.testing.assert_array_equal(sampling_weights(source, R2, {}), [1, 1, 0])


def test_draws_depend_on_the_step_alone() -> None:
    weights = torch.tensor([1.0, 2.0, 1.0, 0.0, 4.0])
    draws = StepDraws(weights, 3, seed=7)
    batches = [draws[step] for step in range(60)]
    assert batches[20:] == [StepDraws(weights, 3, seed=7)[step] for step in range(20, 60)]
    other = StepDraws(weights, 3, seed=8)
    assert batches != [other[step] for step in range(60)]
    for batch in batches:
        indices = [draw.image for draw in batch]
        assert len(set(indices)) == 3
        assert 3 not in indices
    single = StepDraws(weights, 1, seed=0)
    first = np.bincount([single[step][0].image for step in range(800)])
    np.testing.assert_allclose(first / 800, weights / 8, atol=0.06)
    with pytest.raises(ValueError, match=r"a batch of 5 .* there are 4"):
        StepDraws(weights, 5, seed=0)
