"""Prediction on any image, at the image's own size."""

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ctnet import defaults
from ctnet.labels import class_anchors, decode, task_values
from ctnet.models.base import CompositeModel, create
from ctnet.models.config import ModelConfig
from ctnet.palette import Palette
from ctnet.prediction.colors import colorize
from ctnet.rules import RULES, get_rule
from ctnet.tasks import DEFAULT_TASKS, TASKS, VOC_CLASSES, get_task

PERSON = VOC_CLASSES.index("person")
ANSWERS = {"seg": PERSON, "parts": 3, "edges": 0.0474, "saliency": 0.9526, "normals": (0, 0.6, 0.8)}
"""What :class:`Constant` answers for each task."""


class Encoder:
    """Counts its calls."""

    mean, std = (0.0,) * 3, (1.0,) * 3

    def __init__(self):
        self.calls = 0

    def __call__(self, image):
        self.calls += 1
        return []


class Recorder(CompositeModel):
    """Keeps the palettes and composites of the working size."""

    def __init__(self, config):
        super().__init__(config)
        self.scale = nn.Parameter(torch.ones(()))
        self.encoder, self.palettes, self.composites = Encoder(), [], []

    @property
    def encoders(self):
        return [self.encoder]

    def inference(self):
        """There is nothing to fuse."""
        return nullcontext()

    def decode_padded(self, features, palette):
        height, width = features.size
        composite = self.answer(features.image * self.scale, palette)
        self.palettes.append(palette[0, :height, :width])
        self.composites.append(composite[0, :, :height, :width])
        return composite

    def answer(self, image, palette):
        raise NotImplementedError


class Constant(Recorder):
    """Gives every task one answer, far from that of every other task."""

    def answer(self, image, palette):
        def toward(task, class_id):
            anchor = torch.tensor(class_anchors(len(TASKS[task].classes))[class_id])
            return ((anchor - 0.5) * 20).tolist()

        outputs = torch.full((256, 3), 1e4)
        for i, name in enumerate(self.tasks):
            outputs[i] = torch.tensor({
                "seg": toward("seg", PERSON), "parts": toward("parts", 3), "edges": [-3.0] * 3,
                "saliency": [3.0] * 3, "normals": [0.0, 6.0, 8.0],
            }[name])  # fmt: skip
        return outputs[palette].permute(0, 3, 1, 2) + 0 * image


class Varied(Recorder):
    """Answers that differ from cell to cell, huge ones for one task."""

    def answer(self, image, palette):
        generator = torch.Generator().manual_seed(0)
        values = 3 * torch.randn(image.shape, generator=generator) + 0 * image
        return values * (1 + 50 * (palette == 3))[:, None]


@pytest.fixture
def ctn():
    torch.manual_seed(0)
    return create("ctn").eval()


@pytest.fixture
def constant():
    return Constant(ModelConfig())


@pytest.fixture
def photo(rng):
    def make(height, width):
        return rng.integers(0, 256, (height, width, 3)).astype(np.uint8)

    return make


def check_shapes(prediction, size, tasks=None):
    assert prediction.image.shape == (*size, 3)
    assert prediction.palette.size == size
    assert set(prediction.labels) == set(prediction.palette.requested())
    for name, values in prediction.labels.items():
        asked = prediction.palette.mask(name)
        if get_task(name).kind == "classes":
            assert (values.shape, values.dtype) == (size, np.uint8)
            assert values[asked].max() < len(TASKS[name].classes)
            assert (values[~asked] == 255).all()
            continue
        assert values.dtype == np.float32
        assert (values[~asked] == 0).all()
        if get_task(name).kind == "normals":
            assert values.shape == (*size, 3)
            np.testing.assert_allclose(np.linalg.norm(values[asked], axis=1), 1, atol=1e-5)
        else:
            assert values.shape == size
            assert values.min() >= 0
            assert values.max() <= 1


def check_constant(prediction):
    for name, values in prediction.labels.items():
        found = values[prediction.palette.mask(name)]
        wanted = np.broadcast_to(np.array(ANSWERS[name]), found.shape)
        np.testing.assert_allclose(found, wanted, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    "size", [(1, 1), (1, 2), (31, 33), (96, 70), (1, 700), (700, 3), (401, 530), (320, 321)]
)
@pytest.mark.parametrize("rule", ["mosaic", "random", "R2", "single:normals"])
def test_any_size(ctn, photo, size, rule):
    prediction = ctn.predict(photo(*size), rule, long_side=64)
    check_shapes(prediction, size)


@pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
@pytest.mark.parametrize("rule", ["mosaic", "random"])
def test_own_size_equals_decode(photo, system, rule):
    torch.manual_seed(0)
    model = create(system).eval()
    image = photo(40, 53)
    prediction = model.predict(image, rule, long_side=53, seed=4)
    with torch.no_grad(), model.inference():
        tensor = (torch.from_numpy(image).permute(2, 0, 1)[None] / 255).contiguous(
            memory_format=torch.channels_last
        )
        composite = model(tensor, prediction.palette)
    wanted = decode(composite, prediction.palette.tensor()[None], model.tasks)
    assert list(prediction.labels) == list(wanted)
    for name, labels in wanted.items():
        values = labels.values[0].numpy()
        found = prediction.labels[name]
        np.testing.assert_array_equal(
            found, values.transpose(1, 2, 0) if found.ndim == 3 else values
        )


def palettes(size):
    height, width = size
    generator = np.random.default_rng(1)
    tiny = Palette.single("seg", size)
    for i, task in enumerate(DEFAULT_TASKS[1:]):
        tiny = tiny.paint_box((1 + 2 * i, 1, 2 + 2 * i, 2), task)
    crowded = Palette.random(size, generator).paint_box((0, 0, width - 9, height), "seg")
    thin = Palette.empty(size).paint_box((0, 5, width, 6), "edges")
    return {
        "mosaic": Palette.mosaic(size, generator),
        "random": Palette.random(size, generator),
        "tiny regions that share a working cell": tiny,
        "tiny regions at the border": crowded,
        "thin lines, else nothing": thin.paint_box((7, 0, 8, height), "normals"),
        "one pixel": Palette.empty(size).paint_box((0, 0, 1, 1), "saliency"),
        "nothing": Palette.empty(size),
    }


@pytest.mark.parametrize("kind", palettes((40, 40)))
@pytest.mark.parametrize("size", [(300, 401), (20, 900), (640, 33)])
def test_nothing_bleeds_between_tasks(constant, photo, kind, size):
    """Every task's answer is constant: whatever else comes out is another task's."""
    palette = palettes(size)[kind]
    prediction = constant.predict(photo(*size), palette, long_side=40)
    check_shapes(prediction, size)
    check_constant(prediction)
    asked = {palette.tasks[i] for i in constant.palettes[-1].unique() if i != 255}
    assert asked == set(palette.requested())


def interpolated(composite, cells, row, column, size, task):
    """Literal normalized bilinear interpolation at one pixel; None without a cell in reach."""
    small = cells.shape
    y = (row + 0.5) * small[0] / size[0] - 0.5
    x = (column + 0.5) * small[1] / size[1] - 0.5
    total, weights = 0, 0
    for i in range(small[0]):
        for j in range(small[1]):
            # Beyond the outermost centers, the outermost cells count in full.
            at_y, at_x = np.clip(y, 0, small[0] - 1), np.clip(x, 0, small[1] - 1)
            weight = max(0, 1 - abs(at_y - i)) * max(0, 1 - abs(at_x - j))
            if weight > 1e-9 and cells[i, j]:
                total = (
                    total + weight * task_values(composite[None, :, i, j].double(), task)[0].numpy()
                )
                weights += weight
    return total / weights if weights > 1e-2 else None


@pytest.mark.parametrize("rule", ["mosaic", "random"])
def test_normalized_interpolation(photo, rng, rule):
    model = Varied(ModelConfig())
    size = (70, 111)
    prediction = model.predict(photo(*size), rule, long_side=37, seed=7)
    composite, ids = model.composites[-1].detach(), model.palettes[-1]
    assert ids.shape == (23, 37)
    compared = 0
    for row, column in zip(rng.integers(70, size=80), rng.integers(111, size=80), strict=True):
        task_id = prediction.palette.ids[row, column]
        task = get_task(prediction.palette.tasks[task_id])
        wanted = interpolated(composite, ids == task_id, row, column, size, task)
        if wanted is None:
            continue
        found = prediction.labels[task.name][row, column]
        if task.kind == "classes":
            assert wanted[found] >= wanted.max() - 1e-3
        elif task.kind == "normals":
            if (length := np.linalg.norm(wanted)) < 0.05:
                continue
            np.testing.assert_allclose(found, wanted / length, atol=1e-2)
        else:
            np.testing.assert_allclose(found, wanted[0], atol=1e-3)
        compared += 1
    assert compared > 30


def test_large_photograph(ctn, photo):
    """12 megapixels with 21 classes, without an array of (21,3000,4000)."""
    image = photo(3000, 4000)
    before = peak_memory()
    prediction = ctn.predict(image, "single:seg", long_side=96)
    grown = peak_memory() - before
    assert prediction.labels["seg"].shape == (3000, 4000)
    assert prediction.labels["seg"].max() < 21
    assert grown < 600e6


def peak_memory():
    resource = pytest.importorskip("resource")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def test_working_size(constant, photo):
    for size, long_side, working in (
        ((60, 90), 45, (30, 45)),
        ((60, 90), 90, (60, 90)),
        ((60, 90), 500, (60, 90)),
        ((900, 2), 40, (40, 1)),
    ):
        constant.predict(photo(*size), "single:seg", long_side)
        assert constant.palettes[-1].shape == working
    constant.predict(photo(8, 2 * defaults.LONG_SIDE), "single:seg")
    assert constant.palettes[-1].shape == (4, defaults.LONG_SIDE)


@pytest.mark.parametrize("long_side", [31, 1, -5])
def test_bad_long_side(constant, photo, long_side):
    with pytest.raises(ValueError, match="at least 32"):
        constant.predict(photo(5, 5), long_side=long_side)


def test_seed(constant, photo):
    image = photo(50, 60)
    found = [constant.predict(image, "mosaic", seed=seed).palette for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("rule", ["R2", "R3"])
def test_semantic_rules_read_the_models_own_segmentation(constant, photo, rule):
    prediction = constant.predict(photo(80, 50), rule, long_side=40)
    assert prediction.palette == Palette.single("parts", (80, 50))  # person everywhere
    check_constant(prediction)
    assert constant.encoder.calls == 1
    assert len(constant.palettes) == 2


def test_semantic_rules_on_a_varied_segmentation(photo):
    model = Varied(ModelConfig())
    image = photo(60, 90)
    classes = model.predict(image, "single:seg", long_side=45).labels["seg"]
    assert len(np.unique(classes)) > 5
    prediction = model.predict(image, RULES["R2"], long_side=45)
    assert prediction.palette == RULES["R2"].palette((60, 90), labels=classes)
    check_shapes(prediction, (60, 90))


def test_ways_to_give_a_palette(constant, photo, tmp_path):
    image, size = photo(50, 60), (50, 60)
    palette = Palette.mosaic(size, np.random.default_rng(5))
    palette.save(tmp_path / "palette.png")
    (tmp_path / "rule.toml").write_text('[classes]\nperson = "normals"\n')
    for given, wanted in (
        (palette, palette),
        (tmp_path / "palette.png", palette),
        (str(tmp_path / "palette.png"), palette),
        (get_rule("single:edges"), Palette.single("edges", size)),
        (str(tmp_path / "rule.toml"), Palette.single("normals", size)),
        (tmp_path / "rule.toml", Palette.single("normals", size)),
    ):
        prediction = constant.predict(image, given)
        assert prediction.palette == wanted
        check_constant(prediction)


@pytest.mark.parametrize(
    ("palette", "error", "message"),
    [
        ("mosaik", ValueError, "did you mean 'mosaic'"),
        ("single:segg", ValueError, "did you mean 'seg'"),
        ("absent.png", FileNotFoundError, r"absent\.png"),
        ("absent.toml", FileNotFoundError, r"absent\.toml"),
        (Palette.single("seg", (5, 6)), ValueError, r"\(5, 6\).*\(6, 5\)"),
        (Palette.single("seg", (6, 5), ("seg",)), ValueError, "the palette's tasks are"),
        (np.zeros((6, 5), np.uint8), ValueError, "Palette"),
        (None, ValueError, "NoneType"),
    ],
)
def test_bad_palettes(constant, photo, palette, error, message):
    with pytest.raises(error, match=message):
        constant.predict(photo(6, 5), palette)


def test_palette_file_with_an_unknown_id(constant, photo, tmp_path):
    Image.new("L", (5, 6), 9).save(tmp_path / "palette.png")
    with pytest.raises(ValueError, match=r"unknown task ids \[9\]"):
        constant.predict(photo(6, 5), tmp_path / "palette.png")


def test_model_with_fewer_tasks(photo):
    model = Constant(ModelConfig(tasks=("normals", "edges")))
    prediction = model.predict(photo(80, 60), "random", long_side=40)
    assert set(prediction.labels) == {"normals", "edges"}
    check_constant(prediction)
    with pytest.raises(ValueError, match="does not make"):
        model.predict(photo(8, 6), "R2")
    with pytest.raises(ValueError, match="unknown task 'seg'"):
        model.predict(photo(8, 6), get_rule("single:seg"))


def test_kinds_of_image(ctn, photo, tmp_path):
    image = photo(40, 30)
    Image.fromarray(image).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    wanted = ctn.predict(image, "single:normals")
    for source in (
        tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.fromarray(image), image / 255,
        tensor, tensor / 255,
    ):  # fmt: skip
        prediction = ctn.predict(source, "single:normals")
        np.testing.assert_array_equal(prediction.image, image)
        np.testing.assert_array_equal(prediction.labels["normals"], wanted.labels["normals"])
    assert wanted.name == "image"
    assert ctn.predict(tmp_path / "photo.png").name == "photo"


def test_bad_images(constant, tmp_path):
    with pytest.raises(FileNotFoundError, match="no image at"):
        constant.predict(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="NaN"):
        constant.predict(torch.full((3, 4, 4), torch.nan))


def test_several_images(ctn, photo):
    images = [photo(40, 30), photo(12, 90)]
    found = ctn.predict(images, "mosaic", long_side=64, seed=3)
    assert [prediction.name for prediction in found] == ["image0", "image1"]
    for image, prediction in zip(images, found, strict=True):
        alone = ctn.predict(image, "mosaic", long_side=64, seed=3)
        assert prediction.palette == alone.palette
        for name, values in alone.labels.items():
            np.testing.assert_array_equal(prediction.labels[name], values)
    assert ctn.predict([], "mosaic") == []


def test_batches(constant, photo):
    images = np.stack([photo(40, 30), photo(40, 30)])
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    for batch in (images, tensor, tensor / 255, tuple(images)):
        found = constant.predict(batch, "single:seg")
        for image, prediction in zip(images, found, strict=True):
            np.testing.assert_array_equal(prediction.image, image)


def test_model_is_left_as_it_was(photo):
    torch.manual_seed(0)
    model = create("ctn").train()
    model.encoder.eval()
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.predict(photo(40, 30))
    with pytest.raises(ValueError):
        model.predict(photo(40, 30), Palette.single("seg", (2, 2)))
    assert [module.training for module in model.modules()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    model(torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32).long()).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(ctn, photo, dtype):
    check_shapes(ctn.to(dtype).predict(photo(50, 80), "random", long_side=40), (50, 80))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_broken_weights(constant, photo, value):
    constant.scale.data.fill_(value)
    with pytest.raises(ValueError, match="weights are broken"):
        constant.predict(photo(5, 5))


def test_save(photo, tmp_path):
    model = Varied(ModelConfig())
    prediction = model.predict(photo(60, 90), "random", long_side=45)
    folder = tmp_path / "new" / "out"
    paths = prediction.save(folder)
    views = {"edges_view", "saliency_view", "normals_view"}
    assert set(paths) == {"composite", "overlay", "palette", *DEFAULT_TASKS} | views
    assert {path.name for path in folder.iterdir()} == {path.name for path in paths.values()}
    assert paths["composite"].name == "image_composite.png"
    assert Palette.load(paths["palette"]) == prediction.palette
    for name, values in prediction.labels.items():
        if name == "normals":
            assert paths[name].name == "image_normals.npy"
            np.testing.assert_array_equal(np.load(paths[name]), values)
            continue
        stored = Image.open(paths[name])
        if get_task(name).kind == "classes":
            assert stored.mode == "P"
            np.testing.assert_array_equal(np.array(stored), values)
            colors = np.array(stored.convert("RGB"))
            for class_id in (3, 5):
                assert (colors[values == class_id] == TASKS[name].class_colors[class_id]).all()
        else:
            assert stored.mode.startswith("I;16")
            np.testing.assert_allclose(np.array(stored) / 65535, values, atol=1e-5)
    assert Image.open(paths["composite"]).size == (90, 60)
    assert prediction.draw().tobytes() == Image.open(paths["composite"]).tobytes()
    assert prediction.overlay().tobytes() == Image.open(paths["overlay"]).tobytes()
    for name in ("edges", "saliency", "normals"):
        seen, values = np.array(Image.open(paths[f"{name}_view"])), prediction.labels[name]
        asked = prediction.palette.mask(name)
        np.testing.assert_array_equal(seen[asked], colorize(values[asked], TASKS[name]))
        # "No" and "not asked" differ: the hatch is of two light grays.
        assert {tuple(color) for color in seen[~asked]} <= {(238, 238, 238), (214, 214, 214)}


def test_save_writes_only_what_was_asked(constant, photo, tmp_path):
    paths = constant.predict(photo(6, 5), "single:edges").save(tmp_path, "cat")
    assert set(paths) == {"composite", "overlay", "palette", "edges", "edges_view"}
    assert paths["edges"] == tmp_path / "cat_edges.png"


def test_bad_places_to_save(constant, photo, tmp_path):
    prediction = constant.predict(photo(6, 5), "single:edges")
    for name in ("", "a/b", "../b"):
        with pytest.raises(ValueError, match="stem"):
            prediction.save(tmp_path, name)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        prediction.save(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
