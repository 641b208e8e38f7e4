"""Palettes: building, editing, checking, files."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ctnet.palette import Palette, read_ids
from ctnet.rules import single
from ctnet.tasks import DEFAULT_TASKS, TASKS, Task

SIZES = [(1, 1), (1, 2), (2, 1), (3, 3), (4, 5), (1, 300), (300, 1), (7, 640), (40, 400), (64, 64)]
CHI2 = {2: 13.82, 4: 18.47, 24: 51.18}
"""99.9 % quantiles of the chi-square distribution by degrees of freedom."""


def chi_square(draws, values):
    """Distance of draws from a uniform draw among values."""
    expected = len(draws) / len(values)
    return sum((np.count_nonzero(draws == v) - expected) ** 2 / expected for v in values)


def changes(ids, axis):
    """Where neighboring rows (axis 0) or columns (axis 1) of ids differ."""
    return np.flatnonzero(np.diff(ids.astype(int), axis=axis).any(axis=1 - axis)) + 1


def polygon_distance(corners, size):
    """Signed distance of every pixel's middle to a polygon's border, positive inside."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    inside, nearest = np.zeros(size, bool), np.full(size, np.inf)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        dx, dy = x1 - x0, y1 - y0
        along = ((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)
        along = along.clip(0, 1)
        nearest = np.minimum(nearest, np.hypot(x - x0 - along * dx, y - y0 - along * dy))
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / dy * dx)
    return np.where(inside, nearest, -nearest)


@pytest.fixture
def palette(rng):
    """A palette with all five tasks and pixels that ask for nothing."""
    return Palette(np.append(np.arange(5), 255)[rng.integers(6, size=(12, 17))])


class TestChecks:
    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (np.zeros((0, 4), int), r"non-empty \(H,W\)"),
            (np.zeros(4, int), r"shape \(4,\)"),
            (np.zeros((1, 4, 4), int), r"shape \(1, 4, 4\)"),
            (np.zeros((4, 4)), "whole numbers; got float64"),
            (np.zeros((4, 4), bool), "whole numbers; got bool"),
            (np.full((4, 4), 5), r"unknown task ids \[5\].*0 = seg.*4 = normals, 255 = nothing"),
            (np.array([[0, 256, -1, 7]]), r"unknown task ids \[-1, 7, 256\]"),
        ],
    )
    def test_bad_ids(self, ids, message):
        with pytest.raises(ValueError, match=message):
            Palette(ids)

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64])
    def test_any_whole_numbers(self, dtype):
        palette = Palette(np.array([[0, 4], [2, 1]], dtype))
        assert palette.ids.dtype == np.uint8
        assert palette.ids.tolist() == [[0, 4], [2, 1]]

    def test_ids_follow_the_tasks(self):
        assert Palette(np.ones((2, 2), int), ["edges", "seg"]).requested() == ("seg",)
        with pytest.raises(ValueError, match="0 = edges, 1 = seg, 255"):
            Palette(np.full((2, 2), 2), ["edges", "seg"])

    @pytest.mark.parametrize("size", [(0, 3), (3, 0), (-1, 3), (3,), (3, 3, 3)])
    @pytest.mark.parametrize(
        "build",
        [
            lambda size: Palette.empty(size),
            lambda size: Palette.single("seg", size),
            lambda size: Palette.random(size, np.random.default_rng(0)),
            lambda size: Palette.single("seg", (4, 4)).resize(size),
        ],
    )
    def test_bad_size(self, size, build):
        with pytest.raises(ValueError, match="height, width"):
            build(size)

    @pytest.mark.parametrize("size", [(0, 3), (3, 0)])
    def test_bad_size_of_a_mosaic(self, size, rng):
        with pytest.raises(ValueError, match="height, width"):
            Palette.mosaic(size, rng)

    @pytest.mark.parametrize(
        "use",
        [
            lambda p, rng: p.mask("normal"),
            lambda p, rng: p.task_id("normal"),
            lambda p, rng: p.fill("normal"),
            lambda p, rng: p.replace("normal", "seg"),
            lambda p, rng: p.replace("seg", "normal"),
            lambda p, rng: p.paint_box((0, 0, 1, 1), "normal"),
            lambda p, rng: Palette.single("normal", (2, 2)),
            lambda p, rng: Palette.from_masks([("normal", np.ones((2, 2), bool))]),
            lambda p, rng: Palette.mosaic((2, 2), rng, among=("normal",)),
            lambda p, rng: Palette.random((2, 2), rng, among=("seg", "normal")),
        ],
    )
    def test_unknown_task_names_the_nearest(self, palette, use, rng):
        with pytest.raises(ValueError, match="'normal'; did you mean 'normals'"):
            use(palette, rng)


class TestValue:
    def test_ids_cannot_be_written(self, palette):
        with pytest.raises(ValueError, match="read-only"):
            palette.ids[0, 0] = 1
        with pytest.raises(dataclasses.FrozenInstanceError):
            palette.ids = np.zeros((2, 2))

    def test_source_stays_apart(self):
        source = np.zeros((2, 2), np.uint8)
        palette = Palette(source)
        source[:] = 3
        assert palette.requested() == ("seg",)
        assert source.flags.writeable

    @pytest.mark.parametrize(
        "edit",
        [
            lambda p: p.fill("edges"),
            lambda p: p.fill(None),
            lambda p: p.paint(p.ids != 3, "seg"),
            lambda p: p.paint_box((0, 0, 5, 5), "edges"),
            lambda p: p.paint_polygon([(0, 0), (9, 0), (4, 9)], None),
            lambda p: p.replace("seg", "parts"),
            lambda p: p.resize((5, 5)),
        ],
    )
    def test_edits_leave_the_original(self, palette, edit):
        before = palette.ids.copy()
        edited = edit(palette)
        assert isinstance(edited, Palette)
        assert edited != palette
        assert not edited.ids.flags.writeable
        np.testing.assert_array_equal(palette.ids, before)

    def test_equality(self, palette):
        assert palette == Palette(palette.ids.copy())
        assert palette != Palette(palette.ids, (*DEFAULT_TASKS[1:], "seg"))
        assert palette != palette.resize((12, 18))
        assert palette != "palette"
        with pytest.raises(TypeError, match="unhashable"):
            hash(palette)

    def test_says_what_it_holds(self):
        palette = Palette.empty((4, 10)).paint_box((0, 0, 5, 4), "edges")
        assert palette.size == (4, 10)
        assert palette.requested() == ("edges",)
        assert palette.shares() == {"edges": 0.5}
        assert repr(palette) == "Palette(4x10: edges 50%)"
        assert repr(Palette.empty((1, 1))) == "Palette(1x1: nothing asked)"
        assert palette.task_id("normals") == 4

    def test_masks_split_the_image(self, palette):
        masks = np.stack([palette.mask(task) for task in DEFAULT_TASKS])
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks.sum(0), palette.ids != 255)
        np.testing.assert_array_equal(masks[3], palette.ids == 3)
        assert sum(palette.shares().values()) == pytest.approx((palette.ids != 255).mean())

    def test_tensor(self, palette):
        tensor = palette.tensor()
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == palette.ids.tolist()
        tensor[0, 0] = 1 - tensor[0, 0]
        assert tensor.tolist() != palette.ids.tolist()


class TestBuild:
    @pytest.mark.parametrize("task", DEFAULT_TASKS)
    @pytest.mark.parametrize("size", SIZES[:5])
    def test_single(self, task, size):
        palette = Palette.single(task, size)
        assert palette.size == size
        assert (palette.ids == DEFAULT_TASKS.index(task)).all()

    def test_empty(self):
        palette = Palette.empty((3, 4))
        assert (palette.ids == 255).all()
        assert palette.requested() == ()
        assert palette.shares() == {}

    @pytest.mark.parametrize("size", SIZES)
    def test_mosaic_splits_in_the_middle_half(self, size):
        for seed in range(40):
            palette = Palette.mosaic(size, np.random.default_rng(seed))
            assert palette.size == size
            for axis, length in enumerate(size):
                places = changes(palette.ids, axis)
                assert len(places) <= 1
                assert (places >= math.floor(length / 4)).all()
                assert (places <= math.ceil(length * 3 / 4)).all()

    def test_mosaic_splits_spread_over_each_axis(self):
        size = (40, 400)
        found = [Palette.mosaic(size, np.random.default_rng(seed)).ids for seed in range(400)]
        for axis, length in enumerate(size):
            places = np.concatenate([changes(ids, axis) for ids in found])
            assert places.min() <= 0.28 * length
            assert places.max() >= 0.72 * length
            assert places.mean() == pytest.approx(length / 2, rel=0.05)

    @pytest.mark.parametrize("among", [None, ("seg", "edges", "normals")])
    def test_mosaic_draws_each_corner_uniformly(self, among):
        values = [DEFAULT_TASKS.index(task) for task in among or DEFAULT_TASKS]
        found = np.stack(
            [
                Palette.mosaic((8, 8), np.random.default_rng(seed), among=among).ids
                for seed in range(800)
            ]
        )
        corners = found[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        assert set(np.unique(corners)) == set(values)
        for corner in corners.T:
            assert chi_square(corner, values) < CHI2[len(values) - 1]
        if among is None:
            pairs = corners[:, 0] * 5 + corners[:, 3]
            assert chi_square(pairs, range(25)) < CHI2[24]

    @pytest.mark.parametrize("among", [None, ("parts", "saliency", "normals")])
    def test_random_draws_each_pixel_uniformly(self, rng, among):
        ids = Palette.random((120, 200), rng, among=among).ids
        values = [DEFAULT_TASKS.index(task) for task in among or DEFAULT_TASKS]
        assert set(np.unique(ids)) == set(values)
        assert chi_square(ids.ravel(), values) < CHI2[len(values) - 1]
        if among is None:
            for first, second in [(ids[:, ::2], ids[:, 1::2]), (ids[::2], ids[1::2])]:
                assert chi_square((first * 5 + second).ravel(), range(25)) < CHI2[24]

    @pytest.mark.parametrize("build", [Palette.mosaic, Palette.random])
    def test_chance_comes_from_the_generator(self, build):
        first, again, other = (build((30, 40), np.random.default_rng(s)) for s in (1, 1, 2))
        assert first == again
        assert first != other

    @pytest.mark.parametrize("build", [Palette.mosaic, Palette.random])
    def test_drawing_from_no_task(self, build, rng):
        with pytest.raises(ValueError, match="no task to draw from"):
            build((4, 4), rng, among=())

    @pytest.mark.parametrize("build", [Palette.mosaic, Palette.random])
    def test_drawing_keeps_the_ids_of_the_tasks(self, build, rng):
        tasks = ("normals", "edges", "seg")
        palette = build((9, 9), rng, tasks, ["seg"])
        assert palette.tasks == tasks
        assert (palette.ids == 2).all()

    def test_masks_paint_one_over_the_other(self, rng):
        first, second = rng.random((2, 6, 7)) < 0.5
        palette = Palette.from_masks([("seg", first), ("normals", second)])
        expected = np.where(second, 4, np.where(first, 0, 255))
        np.testing.assert_array_equal(palette.ids, expected)

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            ([], "at least one"),
            ([("seg", np.ones((2, 2, 2), bool))], "height, width"),
            ([("seg", np.ones((2, 2), int))], r"bool \(2, 2\); got int64"),
            ([("seg", np.ones((2, 2), bool)), ("seg", np.ones((2, 3), bool))], r"bool \(2, 3\)"),
        ],
    )
    def test_bad_masks(self, masks, message):
        with pytest.raises(ValueError, match=message):
            Palette.from_masks(masks)

    @pytest.mark.parametrize("background", [None, "edges"])
    def test_boxes_paint_over_the_background(self, background):
        boxes = [("seg", (1, 2, 5, 4)), ("parts", (4, 3, 99, 99)), ("normals", (-5, -5, 1, 1))]
        palette = Palette.empty((6, 8)).fill(background)
        for task, box in boxes:
            palette = palette.paint_box(box, task)
        expected = np.full((6, 8), 255 if background is None else 2)
        expected[2:4, 1:5] = 0
        expected[3:, 4:] = 1
        expected[0, 0] = 4
        np.testing.assert_array_equal(palette.ids, expected)

    @pytest.mark.parametrize("box", [(9, 9, 12, 12), (-9, -9, 0, 0), (-3, 2, 0, 4)])
    def test_box_outside_paints_nothing(self, box):
        assert Palette.empty((6, 8)).paint_box(box, "seg") == Palette.empty((6, 8))

    @pytest.mark.parametrize("box", [(3, 3, 3, 5), (3, 3, 5, 3), (5, 3, 3, 5), (3, 5, 5, 3)])
    def test_empty_box(self, box):
        with pytest.raises(ValueError, match="positive sides"):
            Palette.empty((6, 8)).paint_box(box, "seg")

    @pytest.mark.parametrize(
        "corners",
        [
            [(2, 3), (30, 8), (12, 28)],
            [(2.4, 3.7), (30.2, 3.7), (30.2, 20.1), (2.4, 20.1)],
            [(20, 2), (24, 30), (4, 12), (36, 12), (10, 30)],
            [(3, 3), (30, 3), (30, 12), (12, 12), (12, 28), (3, 28)],
            [(-10, -10), (20, 5), (60, 15), (10, 60)],
            [(20 + 14 * math.cos(t / 20), 16 + 14 * math.sin(t / 20)) for t in range(125)],
        ],
        ids=["triangle", "fractions", "star", "L", "beyond", "disc"],
    )
    def test_polygons_fill_to_within_a_pixels_diagonal(self, corners):
        distance = polygon_distance(corners, (32, 40))
        palette = Palette.single("seg", (32, 40)).paint_polygon(corners, "edges")
        sure = np.abs(distance) > math.sqrt(2)
        assert (sure & (distance > 0)).sum() > 30
        assert set(np.unique(palette.ids)) == {0, 2}
        np.testing.assert_array_equal((palette.ids == 2)[sure], (distance > 0)[sure])

    def test_polygons_paint_one_over_the_other_border_included(self):
        square = [(1, 1), (4, 1), (4, 3), (1, 3)]
        moved = [(x + 2, y) for x, y in square]
        expected = np.full((5, 8), 255)
        expected[1:4, 1:5] = 0
        expected[1:4, 3:7] = 4
        palette = Palette.empty((5, 8)).paint_polygon(square, "seg")
        palette = palette.paint_polygon(moved, "normals")
        np.testing.assert_array_equal(palette.ids, expected)

    @pytest.mark.parametrize(
        ("corners", "message"),
        [
            ([], "three corners; got 0"),
            ([(0, 0), (5, 5)], "three corners; got 2"),
            ([(0, 0), (5, 5), (math.nan, 2)], "finite"),
            ([(0, 0), (5, 5), (math.inf, 2)], "finite"),
        ],
    )
    def test_bad_polygon(self, corners, message):
        with pytest.raises(ValueError, match=message):
            Palette.empty((6, 8)).paint_polygon(corners, "seg")

    def test_own_tasks(self):
        tasks = ("normals", "seg")
        for palette in (
            Palette.single("seg", (2, 3), tasks),
            Palette.empty((2, 3), tasks).paint_box((0, 0, 3, 2), "seg"),
            Palette.empty((2, 3), tasks).paint_polygon([(0, 0), (2, 0), (2, 1), (0, 1)], "seg"),
            Palette.from_masks([("seg", np.ones((2, 3), bool))], tasks),
        ):
            assert palette.tasks == tasks
            assert (palette.ids == 1).all()


class TestEdit:
    @pytest.mark.parametrize("task", [None, "parts"])
    def test_paint(self, palette, rng, task):
        mask = rng.random(palette.size) < 0.4
        value = 255 if task is None else 1
        painted = palette.paint(mask, task)
        np.testing.assert_array_equal(painted.ids, np.where(mask, value, palette.ids))

    @pytest.mark.parametrize(
        "mask",
        [np.ones((12, 16), bool), np.ones((12, 17), int), np.ones((1, 12, 17), bool), True],
    )
    def test_bad_mask(self, palette, mask):
        with pytest.raises(ValueError, match=r"a mask for this palette is bool \(12, 17\)"):
            palette.paint(mask, "seg")

    @pytest.mark.parametrize(
        ("old", "new", "ids"),
        [
            ("seg", "normals", (0, 4)),
            (None, "parts", (255, 1)),
            ("edges", None, (2, 255)),
            ("seg", "seg", (0, 0)),
        ],
    )
    def test_replace(self, palette, old, new, ids):
        expected = np.where(palette.ids == ids[0], ids[1], palette.ids)
        np.testing.assert_array_equal(palette.replace(old, new).ids, expected)

    @pytest.mark.parametrize("task", [None, "saliency"])
    def test_fill(self, palette, task):
        filled = palette.fill(task)
        assert filled.size == palette.size
        assert (filled.ids == (255 if task is None else 3)).all()

    @pytest.mark.parametrize("size", [(12, 17), (24, 34), (5, 40), (1, 1), (36, 3), (100, 7)])
    def test_resize_takes_the_nearest_pixel(self, palette, size):
        rows, columns = (
            np.floor((np.arange(new) + 0.5) * old / new).astype(int)
            for new, old in zip(size, palette.size, strict=True)
        )
        expected = palette.ids[rows[:, None], columns]
        np.testing.assert_array_equal(palette.resize(size).ids, expected)
        assert palette.resize(size).tasks == palette.tasks


class TestFiles:
    @pytest.mark.parametrize("tasks", [DEFAULT_TASKS, DEFAULT_TASKS[::-1]])
    @pytest.mark.parametrize("name", ["palette.png", "PALETTE.PNG"])
    def test_round_trip(self, palette, tmp_path, name, tasks):
        palette = Palette(palette.ids, tasks)
        palette.save(tmp_path / name)
        assert Palette.load(tmp_path / name, tasks) == palette

    @pytest.mark.parametrize("size", [(1, 1), (1, 37), (37, 1)])
    def test_round_trip_of_slim_palettes(self, rng, tmp_path, size):
        palette = Palette.random(size, rng)
        palette.save(str(tmp_path / "p.png"))
        assert Palette.load(str(tmp_path / "p.png")) == palette

    def test_file_holds_ids_in_the_tasks_colors(self, palette, tmp_path):
        palette.save(tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.array(image), palette.ids)
            pixels = np.array(image.convert("RGB"))
        for i, name in enumerate(DEFAULT_TASKS):
            assert (pixels[palette.ids == i] == TASKS[name].color).all()
        assert (pixels[palette.ids == 255] == 255).all()

    @pytest.mark.parametrize("mode", ["L", "P"])
    def test_reads_what_other_programs_write(self, palette, tmp_path, mode):
        image = Image.fromarray(palette.ids)
        if mode == "P":
            image.putpalette(bytes(range(256)) * 3)
        image.save(tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as written:
            assert written.mode == mode
        assert Palette.load(tmp_path / "p.png") == palette

    def test_class_maps_are_read_alike(self, tmp_path):
        ids = np.arange(256, dtype=np.uint8).reshape(8, 32)
        Image.fromarray(ids).save(tmp_path / "classes.png")
        np.testing.assert_array_equal(read_ids(tmp_path / "classes.png"), ids)

    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_reads_indices_of_few_bits(self, tmp_path, rng, bits):
        ids = rng.integers(min(2**bits, 5), size=(6, 9)).astype(np.uint8)
        image = Image.fromarray(ids)
        image.putpalette(bytes(range(3 * 2**bits)))
        image.save(tmp_path / "p.png", bits=bits)
        assert Palette.load(tmp_path / "p.png") == Palette(ids)

    @pytest.mark.parametrize("suffix", ["jpg", "gif", "", "png.tif"])
    def test_written_as_png_only(self, palette, tmp_path, suffix):
        path = tmp_path / f"p.{suffix}"
        with pytest.raises(ValueError, match=r"written as \.png"):
            palette.save(path)
        assert not path.exists()

    def test_color_of_an_unknown_task(self, tmp_path):
        palette = Palette.single("depth", (2, 2), ("depth",))
        with pytest.raises(ValueError, match="unknown task 'depth'"):
            palette.save(tmp_path / "p.png")

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
    def test_other_colors_are_refused(self, tmp_path, mode):
        Image.new(mode, (4, 4), (9, 255) if mode == "LA" else (9, 9, 9)).save(tmp_path / "p.png")
        with pytest.raises(ValueError, match="has colors that are none of a task: #090909; a pal"):
            Palette.load(tmp_path / "p.png")

    def test_16_bit_values_are_no_ids(self, tmp_path):
        Image.new("I;16", (4, 4)).save(tmp_path / "p.png")
        with pytest.raises(ValueError, match="holds I;16 colors; ids are read from an indexed"):
            Palette.load(tmp_path / "p.png")

    @pytest.mark.parametrize("suffix", ["png", "gif", "webp"])
    @pytest.mark.parametrize("form", ["RGB", "RGBA", "own table", "shuffled table"])
    def test_what_an_editor_saved_is_read_as_it_looks(self, palette, rng, tmp_path, suffix, form):
        palette.save(tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as image:
            looks = image.convert("RGB")
        if form == "own table":
            looks = looks.quantize(8, dither=Image.Dither.NONE)
        elif form == "shuffled table":
            order = rng.permutation(256)
            with Image.open(tmp_path / "p.png") as image:
                looks = image.remap_palette(order.tolist())
        elif form == "RGBA":
            looks = looks.convert("RGBA")
            looks.putalpha(Image.fromarray((palette.ids != 255).astype(np.uint8) * 255))
        lossless = {"lossless": True} if suffix == "webp" else {}
        looks.save(tmp_path / f"edited.{suffix}", **lossless)
        assert Palette.load(tmp_path / f"edited.{suffix}") == palette

    def test_smoothed_edges_are_refused(self, tmp_path):
        halves = Palette.single("seg", (20, 20)).paint_box((0, 0, 11, 20), "parts")
        halves.save(tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as image:
            small = image.convert("RGB").resize((7, 7), Image.Resampling.BILINEAR)
        small.save(tmp_path / "small.png")
        with pytest.raises(ValueError, match="without smoothed edges"):
            Palette.load(tmp_path / "small.png")
        small.quantize(64).save(tmp_path / "small.png")
        with pytest.raises(ValueError, match="without smoothed edges"):
            Palette.load(tmp_path / "small.png")

    def test_unknown_ids_in_a_file(self, tmp_path):
        Image.fromarray(np.array([[0, 9]], np.uint8)).save(tmp_path / "p.png")
        with pytest.raises(ValueError, match=r"unknown task ids \[9\]"):
            Palette.load(tmp_path / "p.png")

    def test_ids_are_read_by_the_models_tasks(self, tmp_path):
        Palette.single("normals", (2, 2)).save(tmp_path / "p.png")
        with pytest.raises(ValueError, match=r"unknown task ids \[4\].*0 = seg, 1 = parts, 255"):
            Palette.load(tmp_path / "p.png", DEFAULT_TASKS[:2])

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no image of ids at .*absent\.png"):
            Palette.load(tmp_path / "absent.png")

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
    def test_no_image(self, tmp_path, content):
        (tmp_path / "p.png").write_bytes(content)
        with pytest.raises(ValueError, match="is no image of ids"):
            Palette.load(tmp_path / "p.png")

    def test_folder(self, tmp_path):
        with pytest.raises(ValueError, match="is no image of ids"):
            Palette.load(tmp_path)

    @pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
    def test_cut_off_file(self, rng, tmp_path, share):
        Palette.random((60, 60), rng).save(tmp_path / "p.png")
        content = (tmp_path / "p.png").read_bytes()
        (tmp_path / "p.png").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="is no image of ids"):
            Palette.load(tmp_path / "p.png")


@pytest.mark.parametrize("number", [float, np.float32, np.float64, np.int64, torch.tensor])
def test_boxes_of_any_numbers(number):
    canvas = Palette.empty((6, 8))
    box = [number(edge) for edge in (1, 2, 5, 4)]
    assert canvas.paint_box(box, "seg") == canvas.paint_box((1, 2, 5, 4), "seg")
    drawn = canvas.paint_box((0.6, 1.4, 4.5, 3.6), "seg").mask("seg")
    middles = [[0.6 <= x + 0.5 < 4.5 and 1.4 <= y + 0.5 < 3.6 for x in range(8)] for y in range(6)]
    np.testing.assert_array_equal(drawn, middles)


@pytest.mark.parametrize("task", list(Task))
def test_tasks_of_the_enumeration_are_names(task):
    palette = Palette.single(task, (4, 4)).paint_box((0, 0, 2, 2), Task.SEG)
    assert palette == Palette.single(task.value, (4, 4)).paint_box((0, 0, 2, 2), "seg")
    assert palette.task_id(task) == list(Task).index(task)
    assert palette.replace(task, None).shares().get(task.value) is None
    assert single(task).palette((2, 2)).requested() == (task.value,)


@pytest.mark.parametrize("size", [("4", "5"), (4.0, 5), 4, None, (4, 5, 3), (0, 4)])
def test_bad_sizes_are_refused(size):
    with pytest.raises(ValueError, match="two whole numbers of at least 1"):
        Palette.empty(size)


def test_tasks_are_no_single_name():
    with pytest.raises(ValueError, match="tasks are several names"):
        Palette(np.zeros((2, 2), int), tasks="seg")
