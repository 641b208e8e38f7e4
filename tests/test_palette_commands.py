"""`ctnet palette make | edit | show`."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ctnet
from ctnet.cli.main import main
from ctnet.palette import Palette, read_mask
from ctnet.prediction.drawing import HATCH, draw_palette
from ctnet.rules import get_rule
from ctnet.tasks import TASKS

ROOT = Path(__file__).parents[1]
SIZE = (40, 60)
PETS = '[classes]\nbackground = "edges"\ncat = "seg"\nperson = "normals"\n'


def make(out, *arguments):
    status = main(["palette", "make", *(str(x) for x in arguments), "--out", str(out)])
    assert status == 0
    return Palette.load(out)


@pytest.mark.parametrize("rule", ["R1", "R2", "R3", "Rrnd", "single:edges", "pets.toml"])
def test_a_photographs_palette_is_that_of_predict(model, photo, tmp_path, rule):
    if rule == "pets.toml":
        rule = str(tmp_path / rule)
        (tmp_path / "pets.toml").write_text(PETS)
    arguments = ["--image", photo, "--model", model, "--long-side", 48, "--seed", 4]
    palette = make(tmp_path / "new" / "palette.png", rule, *arguments)
    assert palette == ctnet.load(model).fuse().predict(photo, rule, 48, seed=4).palette
    assert palette.size == SIZE


def test_the_models_segmentation_makes_the_palette(photo, tmp_path):
    """By default that of ctn-r1, on a photograph in which it sees several classes."""
    image = Image.open(ROOT / "examples" / "astronaut.jpg").resize((96, 96))
    image.save(photo)
    (tmp_path / "pets.toml").write_text(PETS)
    classes = ctnet.load("ctn-r1").predict(photo, "single:seg").labels["seg"]
    assert (classes == 15).mean() > 0.2
    for rule in ("R2", str(tmp_path / "pets.toml")):
        palette = make(tmp_path / "palette.png", rule, "--image", photo)
        assert palette == get_rule(rule).palette(classes.shape, labels=classes)
        assert len(palette.requested()) > 1
    assert palette.mask("normals")[classes == 15].all()


def test_auto_is_the_palette_networks_proposal(photo, tmp_path):
    palette = make(tmp_path / "palette.png", "auto", "--image", photo, "--long-side", 48)
    assert palette == ctnet.load("palette-r2").predict(photo, 48)


@pytest.mark.parametrize("rule", ["R2", "R1", "pets.toml"])
def test_palettes_of_class_maps(tmp_path, rule):
    if rule == "pets.toml":
        rule = str(tmp_path / rule)
        (tmp_path / "pets.toml").write_text(PETS)
    labels = np.random.default_rng(1).integers(0, 21, SIZE).astype(np.uint8)
    labels[:5] = 255
    Image.fromarray(labels).save(tmp_path / "labels.png")
    palette = make(tmp_path / "palette.png", rule, "--labels", tmp_path / "labels.png")
    assert palette == get_rule(rule).palette(SIZE, np.random.default_rng(0), labels)


@pytest.fixture
def start(tmp_path):
    path = tmp_path / "start.png"
    Palette.single("seg", SIZE).save(path)
    return path


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(columns - x, rows - y) <= radius


def box(left, top, right, bottom):
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


MASK = np.random.default_rng(3).random(SIZE) < 0.4
EDITS = {
    "box": (["--box", "normals", "10", "5", "30", "90"], [(4, box(10, 5, 30, 40))]),
    "circle": (["--circle", "parts", "20", "15.5", "9"], [(1, disc(20, 15.5, 9))]),
    "polygon": (
        ["--polygon", "edges", "10,5", "29,5", "29,24", "10,24"], [(2, box(10, 5, 30, 25))]
    ),
    "mask": (["--mask", "saliency", "mask.png"], [(3, MASK)]),
    "nothing": (["--box", "none", "0", "0", "9", "9"], [(255, box(0, 0, 9, 9))]),
    "fill": (["--fill", "edges"], [(2, box(0, 0, 60, 40))]),
    "replace": (["--replace", "seg", "none"], [(255, box(0, 0, 60, 40))]),
    "a later edit is over an earlier one": (
        ["--circle", "parts", "20", "15", "9", "--box", "edges", "0", "0", "20", "40",
         "--mask", "normals", "mask.png", "--box", "none", "0", "0", "60", "3"],
        [(1, disc(20, 15, 9)), (2, box(0, 0, 20, 40)), (4, MASK), (255, box(0, 0, 60, 3))],
    ),
    "the other way round": (
        ["--box", "none", "0", "0", "60", "3", "--mask", "normals", "mask.png",
         "--box", "edges", "0", "0", "20", "40", "--circle", "parts", "20", "15", "9"],
        [(255, box(0, 0, 60, 3)), (4, MASK), (2, box(0, 0, 20, 40)), (1, disc(20, 15, 9))],
    ),
    "fill and replace between": (
        ["--box", "edges", "0", "0", "9", "9", "--replace", "edges", "parts",
         "--box", "edges", "5", "5", "20", "20"],
        [(1, box(0, 0, 9, 9)), (2, box(5, 5, 20, 20))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_edits(start, tmp_path, kind, values):
    arguments, layers = EDITS[kind]
    mask = tmp_path / "mask.png"
    Image.fromarray(np.where(MASK, *np.uint8(values)[::-1])).save(mask)
    arguments = [str(mask) if x == "mask.png" else x for x in arguments]
    out = tmp_path / "new" / "edited.png"
    assert main(["palette", "edit", str(start), *arguments, "--out", str(out)]) == 0
    wanted = np.zeros(SIZE, np.uint8)
    for value, where in layers:
        wanted[where] = value
    np.testing.assert_array_equal(Palette.load(out).ids, wanted)
    assert Palette.load(start) == Palette.single("seg", SIZE)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_masks(tmp_path, mode):
    image = Image.fromarray(MASK)
    if mode == "P":
        image = Image.fromarray(np.where(MASK, np.uint8(7), np.uint8(0)))
        image.putpalette(list(range(30)))
    image.convert(mode).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), MASK)


def test_bad_circles():
    palette = Palette.empty(SIZE)
    for center, radius in (((1, 1), 0), ((1, 1), -2), ((np.nan, 1), 3), ((1, 1), np.inf)):
        with pytest.raises(ValueError, match="positive radius"):
            palette.paint_circle(center, radius, "seg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "R1"], "give exactly one of --size HxW, --labels"),
        (["make", "R1", "--size", "4x4", "--image", "PHOTO"], "got --size and --image"),
        (["make", "auto", "--size", "4x4"], "auto needs a photograph"),
        (["make", "auto", "--image", "PHOTO", "--model", "ctn-r1"], "remove --model"),
        (["make", "R2", "--image", "absent.jpg"], "absent.jpg"),
        (["make", "R2", "--image", "PHOTO", "--model", "ctn-r9"], "ctn-r9"),
        (["make", "absent.toml", "--image", "PHOTO"], "absent.toml"),
        (["make", "R2", "--image", "PHOTO", "--long-side", "3"], "at least 32"),
        (["edit", "START"], "nothing to edit"),
        (["edit", "START", "--box", "normals", "5", "5", "5", "9"], "--box normals 5 5 5 9"),
        (["edit", "START", "--box", "normal", "5", "5", "7", "9"], "did you mean 'normals'"),
        (["edit", "START", "--box", "normals", "a", "5", "7", "9"], "numbers of pixels; got 'a'"),
        (["edit", "START", "--circle", "seg", "5", "5", "inf"], "finite"),
        (["edit", "START", "--circle", "seg", "5", "5", "-1"], "positive radius"),
        (["edit", "START", "--polygon", "seg", "5,5", "7,9"], "at least three corners"),
        (["edit", "START", "--polygon", "seg", "5,5", "7", "8,9"], "a corner must be X,Y"),
        (["edit", "START", "--mask", "seg", "SMALL"], "(40, 60); got bool (4, 5)"),
        (["edit", "START", "--mask", "seg", "GRAY"], "a mask has two"),
        (["edit", "START", "--mask", "seg", "PHOTO"], "holds RGB colors"),
        (["edit", "START", "--mask", "seg", "absent.png"], "absent.png"),
        (["edit", "absent.png", "--fill", "seg"], "absent.png"),
        (["show", "START", "--image", "PHOTO"], "--image needs --out"),
        (["show", "START", "--image", "SMALL", "--out", "x.png"], "the image (4, 5)"),
    ],
)
def test_errors_are_one_clear_line(photo, start, tmp_path, arguments, message, capsys):
    Image.new("1", (5, 4)).save(tmp_path / "small.png")
    Image.fromarray(np.arange(40, dtype=np.uint8).repeat(60).reshape(SIZE)).save(
        tmp_path / "gray.png"
    )
    files = {"PHOTO": photo, "START": start, "SMALL": tmp_path / "small.png",
             "GRAY": tmp_path / "gray.png"}  # fmt: skip
    given = ["palette", *(str(files.get(x, x)) for x in arguments)]
    out = tmp_path / "out.png"
    if "--out" not in given and given[1] != "show":
        given += ["--out", str(out)]
    assert main(given) == 1
    error = capsys.readouterr().err.splitlines()
    assert message in error[-1]
    assert sum(line.startswith("ctnet:") for line in error) == 1
    assert not out.exists()


def colors_of(picture):
    return {color for _, color in picture.getcolors(picture.width * picture.height)}


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (40, 60), (700, 500), (300, 2400)])
def test_palettes_are_drawn_at_any_size(size, rng):
    for palette in (Palette.mosaic(size, rng), Palette.empty(size), Palette.random(size, rng)):
        page = draw_palette(palette)
        assert page.mode == "RGB"
        assert min(page.size) > 20
        image = rng.integers(0, 255, (*size, 3)).astype(np.uint8)
        over = draw_palette(palette, image)
        assert (over.size[0] <= page.size[0]) & (over.size[1] <= page.size[1])


def test_tasks_have_their_fixed_colors_and_a_legend(tmp_path, capsys):
    palette = Palette.empty((500, 600)).paint_box((0, 0, 300, 500), "normals")
    palette = palette.paint_circle((450, 250), 80, "parts")
    palette.save(tmp_path / "palette.png")
    out = tmp_path / "new" / "preview.png"
    assert main(["palette", "show", str(tmp_path / "palette.png"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    page = Image.open(out)
    colors = colors_of(page)
    assert {TASKS["normals"].color, TASKS["parts"].color, *HATCH} <= colors
    assert TASKS["edges"].color not in colors
    assert page.width > 600 + 150  # a legend beside it
    pixels = np.array(page)
    # The regions' own shares of the page, lines and legend aside.
    for name in ("normals", "parts"):
        count = (pixels == TASKS[name].color).all(2).sum()
        assert count == pytest.approx(palette.mask(name).sum(), rel=0.06)


def test_over_a_photograph(tmp_path, rng):
    image = rng.integers(0, 255, (500, 600, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    palette = Palette.empty((500, 600)).paint_box((0, 0, 300, 500), "saliency")
    palette.save(tmp_path / "palette.png")
    out = tmp_path / "preview.png"
    arguments = ["--image", str(tmp_path / "photo.png"), "--out", str(out)]
    assert main(["palette", "show", str(tmp_path / "palette.png"), *arguments]) == 0
    page = np.array(Image.open(out)).astype(int)
    # Where nothing is asked, the photograph is as it was; find its place on the page by that.
    part = image[100:120, 400:420]
    places = [
        (top, left)
        for top in range(0, 60)
        for left in range(0, 60)
        if np.array_equal(page[top + 100 : top + 120, left + 400 : left + 420], part)
    ]
    assert len(places) == 1
    top, left = places[0]
    found = page[top + 100 : top + 120, left + 100 : left + 120]
    wanted = 0.45 * image[100:120, 100:120] + 0.55 * np.array(TASKS["saliency"].color)
    np.testing.assert_allclose(found, wanted, atol=1)
    assert not set(HATCH) & colors_of(Image.open(out).crop((left + 600, 0, page.shape[1], 500)))
