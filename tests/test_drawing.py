"""Labels to pictures."""

import numpy as np
import pytest

from ctnet.palette import Palette
from ctnet.prediction.colors import colorize
from ctnet.prediction.legend import legend
from ctnet.prediction.prediction import Prediction
from ctnet.tasks import TASKS

SIZE = (90, 120)
BOXES = {
    "seg": (0, 0, 40, 45),
    "parts": (40, 0, 80, 45),
    "edges": (80, 0, 120, 45),
    "saliency": (0, 45, 40, 90),
    "normals": (40, 45, 80, 90),
}  # Nothing is asked in the sixth cell.
INSIDE = {name: (box[1] + 20, box[0] + 20) for name, box in BOXES.items()}
NOTHING = (65, 100)


def make_prediction(rng, palette):
    """Random labels, but one value inside each task's box."""
    labels = {}
    for name in palette.requested():
        spec, asked = TASKS[name], palette.mask(name)
        if spec.kind == "classes":
            labels[name] = np.where(asked, np.uint8(2), np.uint8(255))
            labels[name][0, asked[0]] = 1
        elif spec.kind == "probability":
            labels[name] = np.where(asked, np.float32(0.75), np.float32(0))
        else:
            labels[name] = np.zeros((*palette.size, 3), np.float32)
            labels[name][asked] = 0, 0, 1
    image = rng.integers(0, 256, (*palette.size, 3)).astype(np.uint8)
    return Prediction(image, palette, labels)


def legend_of(prediction, **options):
    return legend(prediction.palette, prediction.labels, **options)


@pytest.fixture
def prediction(rng):
    palette = Palette.empty(SIZE)
    for task, box in BOXES.items():
        palette = palette.paint_box(box, task)
    return make_prediction(rng, palette)


def test_each_task_in_its_own_drawing(prediction):
    picture = np.array(prediction.draw())
    assert picture.shape == (*SIZE, 3)
    assert tuple(picture[INSIDE["seg"]]) == TASKS["seg"].class_colors[2]
    assert tuple(picture[INSIDE["parts"]]) == TASKS["parts"].class_colors[2]
    assert tuple(picture[INSIDE["normals"]]) == (166, 166, 255)
    assert picture[INSIDE["edges"]].max() < 128
    assert np.ptp(picture[INSIDE["saliency"]].astype(int)) > 50
    assert picture[NOTHING].min() > 200
    assert np.ptp(picture[NOTHING]) == 0


@pytest.mark.parametrize(
    ("task", "values", "colors"),
    [
        ("seg", [0, 15, 255], [(0, 0, 0), TASKS["seg"].class_colors[15], (255, 255, 255)]),
        ("edges", [0.0, 1.0], [(255, 255, 255), (32, 33, 36)]),
        ("normals", [[1, 0, 0], [0, -1, 0]], [(255, 166, 166), (166, 76, 166)]),
    ],
)
def test_colors(task, values, colors):
    np.testing.assert_array_equal(colorize(np.array(values), TASKS[task]), colors)


@pytest.mark.parametrize(("task", "sign"), [("edges", -1), ("saliency", 1)])
def test_strength_is_monotone_in_brightness(task, sign):
    ramp = colorize(np.linspace(0, 1, 256, dtype=np.float32), TASKS[task]).astype(int)
    brightness = ramp @ (299, 587, 114)
    assert (sign * np.diff(brightness) >= 0).all()
    assert abs(brightness[-1] - brightness[0]) > 200_000


def test_a_white_line_parts_regions_of_different_tasks(prediction):
    picture = np.array(prediction.draw())
    row = INSIDE["seg"][0]
    between = picture[row, 36:44]
    assert (between == 255).all(1).any()
    assert (picture[row, 5:35] == TASKS["seg"].class_colors[2]).all()


def test_no_lines_where_they_would_hide_everything(rng):
    prediction = make_prediction(rng, Palette.random((40, 50), rng))
    picture = np.array(prediction.draw())
    for name, values in prediction.labels.items():
        asked = prediction.palette.mask(name)
        np.testing.assert_array_equal(picture[asked], colorize(values[asked], TASKS[name]))


def find(picture, part):
    """Whether a picture holds another, pixel by pixel, anywhere along its left border."""
    height, width = part.shape[:2]
    return any(
        np.array_equal(picture[top : top + height, left : left + width], part)
        for top in range(40)
        for left in range(40)
    )


@pytest.mark.parametrize(("size", "factor"), [((600, 500), 1), ((48, 40), 10), ((100, 300), 2)])
def test_overlay_without_composite_is_the_photograph(rng, size, factor):
    """Small ones are enlarged by a whole factor."""
    prediction = make_prediction(rng, Palette.single("seg", size))
    page = np.array(prediction.overlay(alpha=0))
    assert find(page, prediction.image.repeat(factor, 0).repeat(factor, 1))


def test_overlay_alone_is_the_composite(rng):
    prediction = make_prediction(rng, Palette.single("normals", (600, 500)))
    assert find(np.array(prediction.overlay(alpha=1)), np.array(prediction.draw()))


def test_overlay_mixes(rng):
    prediction = make_prediction(rng, Palette.single("normals", (500, 490)))
    prediction.image[:] = 0
    assert find(np.array(prediction.overlay(0.5)), np.full((500, 490, 3), (83, 83, 128), np.uint8))


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_bad_alpha(prediction, alpha):
    with pytest.raises(ValueError, match="from 0 to 1"):
        prediction.overlay(alpha)


def test_large_overlays_are_scaled_down(rng):
    prediction = make_prediction(rng, Palette.mosaic((900, 3000), rng))
    page = prediction.overlay()
    assert 1600 < page.width < 2400
    assert page.height < 1400


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 500), (500, 3), (7, 9), (200, 90)])
@pytest.mark.parametrize("rule", ["random", "mosaic", "empty"])
def test_any_size(rng, size, rule):
    make = {"random": Palette.random, "mosaic": Palette.mosaic}.get(rule)
    prediction = make_prediction(rng, make(size, rng) if make else Palette.empty(size))
    assert prediction.draw().size == size[::-1]
    page = prediction.overlay()
    assert page.mode == "RGB"
    assert min(page.size) > 50  # room for text


@pytest.mark.parametrize(("size", "beside"), [((400, 500), True), ((200, 600), False)])
def test_legend_is_beside_or_below(rng, size, beside):
    page = make_prediction(rng, Palette.mosaic(size, rng)).overlay()
    assert (page.width > size[1] + 100) == beside
    assert (page.height > size[0] + 100) == (not beside)


def colors_of(picture):
    return {color for _, color in picture.getcolors(picture.width * picture.height)}


def test_legend_shows_tasks_and_the_classes_that_occur(rng):
    palette = Palette.single("seg", SIZE).paint_box((60, 0, 120, 90), "parts")
    found = colors_of(legend_of(make_prediction(rng, palette)))
    for name in ("seg", "parts"):
        assert TASKS[name].color in found
        shown = [color in found for color in TASKS[name].class_colors[1:]]
        assert shown == [True, True] + [False] * (len(shown) - 2)
    for name in ("saliency", "normals"):
        assert TASKS[name].color not in found


def test_legend_of_all_tasks(prediction):
    found = colors_of(legend_of(prediction))
    assert {spec.color for spec in TASKS.values()} <= found


def test_legend_grows_with_its_content_and_font(rng, prediction):
    one = legend_of(make_prediction(rng, Palette.single("edges", SIZE)))
    both = legend_of(prediction)
    large = legend_of(prediction, font_size=32)
    assert both.height > 2 * one.height
    assert large.height > 1.7 * both.height


def test_legend_wraps(prediction):
    column = legend_of(prediction)
    wrapped = legend_of(prediction, limit=column.height // 2)
    assert wrapped.height <= max(column.height // 2, 200)
    assert wrapped.width > column.width
    line = legend_of(prediction, down=False)
    lines = legend_of(prediction, limit=line.width // 2, down=False)
    assert line.height < lines.height
    assert lines.width <= line.width // 2


def test_many_classes_share_two_columns(rng):
    prediction = make_prediction(rng, Palette.single("seg", SIZE))
    prediction.labels["seg"][:21, 0] = np.arange(21)
    many = legend_of(prediction)
    assert set(TASKS["seg"].class_colors) <= colors_of(many)
    assert many.height < 21 * 16
