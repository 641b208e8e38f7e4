"""The demo without a browser: what is painted and answered, files in and out, and bad input."""

import base64
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ctnet
from ctnet.cli.main import build_parser, main
from ctnet.demo.files import Limits, read_photo
from ctnet.demo.handlers import NO_OTHER, Choices, Handlers
from ctnet.demo.models import Models
from ctnet.demo.studio import STARTS
from ctnet.tasks import DEFAULT_TASKS, TASKS

CHOICES = Choices("ctn-r1", NO_OTHER, "composite", "R1")
LIMITS = Limits(file_bytes=300_000, pixels=1_000_000, kept_side=200, pages=3, waiting=6)
SIDE = 96


@pytest.fixture(scope="module")
def models():
    return Models("ctn-r1", torch.device("cpu"))


def photograph(size=(60, 90), seed=0):
    """Smooth colors, as an array."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph()).save(path)
    return path


@pytest.fixture
def handlers(models, photo):
    return Handlers(models, {"sample": photo}, LIMITS, SIDE)


def pixels(message, index=0):
    """The picture of a model, as shown."""
    data = message["pictures"][index]["source"].split(",")[1]
    return np.array(Image.open(io.BytesIO(base64.b64decode(data))))


def ids_of(message, size=(60, 90)):
    return np.frombuffer(base64.b64decode(message["ids"]), np.uint8).reshape(size)


def edited(painter, ids):
    text = base64.b64encode(np.ascontiguousarray(ids, np.uint8).tobytes()).decode()
    return {"kind": "edit", "serial": painter["serial"], "ids": text}


@pytest.mark.parametrize("start", [start.name for start in STARTS])
def test_starts(handlers, photo, start):
    painter, views = handlers.open("page", photo, Choices("ctn-r1", NO_OTHER, "composite", start))
    ids = ids_of(painter)
    assert (painter["width"], painter["height"]) == (90, 60)
    assert [task["name"] for task in painter["tasks"]] == list(DEFAULT_TASKS)
    assert set(np.unique(ids)) <= {*range(5), 255}
    if start.startswith("single:"):
        assert (ids == DEFAULT_TASKS.index(start.removeprefix("single:"))).all()
    if start == "empty":
        assert (ids == 255).all()
        assert views["legend"] == []
    if start in ("R2", "auto"):
        network = ctnet.load("ctn-r1")
        wanted = network.predict(photo, start, SIDE)
        np.testing.assert_array_equal(ids, wanted.palette.ids)
        np.testing.assert_array_equal(pixels(views), wanted.draw())


def test_edits_equal_fresh_predictions(handlers, photo, rng):
    painter, before = handlers.open("page", photo, CHOICES)
    ids = ids_of(painter).copy()
    network = ctnet.load("ctn-r1")
    for _ in range(4):
        top, left = rng.integers(0, 40), rng.integers(0, 60)
        ids[top : top + 12, left : left + 20] = rng.choice([0, 1, 2, 3, 4, 255])
        views = handlers.edit("page", edited(painter, ids), CHOICES)
        wanted = network.predict(photo, ctnet.Palette(ids), SIDE).draw()
        close = np.abs(pixels(views).astype(int) - np.array(wanted)).max(-1) <= 2
        assert close.mean() > 0.999
        assert views["number"] > before["number"]


def test_an_edit_changes_nothing_out_of_its_reach(models, tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(photograph((64, 320))).save(path)
    handlers = Handlers(models, {}, Limits())
    painter, before = handlers.open("page", path, Choices("ctn-r1", NO_OTHER, "composite", "R3"))
    ids = ids_of(painter, (64, 320)).copy()
    ids[10:40, 8:24] = (ids[10:40, 8:24] + 3) % 5
    after = handlers.edit("page", edited(painter, ids), CHOICES)
    one, other = pixels(before), pixels(after)
    changed = (one != other).any(-1)
    assert changed[12:38, 10:22].mean() > 0.9
    assert not changed[:, 128:].any()


@pytest.mark.parametrize("view", ["composite", "overlay", *DEFAULT_TASKS])
def test_views(handlers, photo, view):
    painter, _ = handlers.open("page", photo, CHOICES)
    ids = np.repeat(np.array([[0, 1, 2], [3, 4, 255]], np.uint8), 30, 0).repeat(30, 1)
    handlers.edit("page", edited(painter, ids), CHOICES)
    _, views = handlers.choose("page", Choices("ctn-r1", NO_OTHER, view))
    whole = pixels(handlers.choose("page", CHOICES)[1])
    shown = pixels(views)
    titles = {block["title"] for block in views["legend"]}
    assert shown.shape == (60, 90, 3)
    if view in DEFAULT_TASKS:
        inside = np.zeros((60, 90), bool)
        row, column = divmod(DEFAULT_TASKS.index(view), 3)
        inside[30 * row + 2 : 30 * row + 28, 30 * column + 2 : 30 * column + 28] = True
        np.testing.assert_array_equal(shown[inside], whole[inside])
        assert len(titles) == 1
        # Elsewhere stands what the network says of the task there, pale: 70 % white.
        model = ctnet.load("ctn-r1")
        everywhere = np.array(model.predict(photo, f"single:{view}").draw()).astype(float)
        pale = shown[ids != DEFAULT_TASKS.index(view)]
        wanted = (0.3 * everywhere + 0.7 * 255)[ids != DEFAULT_TASKS.index(view)]
        assert pale.min() >= 0.7 * 255 - 1
        assert np.abs(pale - wanted).mean() < 2
    else:
        assert len(titles) == 5
        assert (view == "composite") == np.array_equal(shown, whole)


def test_two_models_side_by_side(handlers, photo):
    handlers.open("page", photo, Choices("ctn-r1", NO_OTHER, "composite", "single:normals"))
    _, views = handlers.choose("page", Choices("ctn-r1", "ctn-r2", "composite"))
    assert [picture["model"] for picture in views["pictures"]] == ["ctn-r1", "ctn-r2"]
    for index, name in enumerate(("ctn-r1", "ctn-r2")):
        wanted = ctnet.load(name).predict(photo, "single:normals", SIDE).draw()
        np.testing.assert_allclose(pixels(views, index).astype(int), wanted, atol=2)
    same = handlers.choose("page", Choices("ctn-r2", "ctn-r2", "composite"))[1]
    assert len(same["pictures"]) == 1


@pytest.mark.parametrize("size", [(60, 90), (300, 400), (1, 1), (1, 700), (900, 2)])
def test_palettes_come_back(models, tmp_path, size):
    path = tmp_path / "photo.png"
    Image.fromarray(photograph(size)).save(path)
    handlers = Handlers(models, {}, LIMITS, SIDE)
    painter, before = handlers.open("page", path, Choices("ctn-r1", NO_OTHER, "composite", "Rrnd"))
    saved = handlers.download("page", "palette", CHOICES)
    assert ctnet.Palette.load(saved).size == size
    handlers.start("page", Choices("ctn-r1", NO_OTHER, "composite", "single:parts"))
    again, after = handlers.upload_palette("page", saved, CHOICES)
    assert again["ids"] == painter["ids"]
    np.testing.assert_array_equal(pixels(before), pixels(after))


def test_a_saved_palette_is_one_for_predict(handlers, photo, tmp_path):
    handlers.open("page", photo, CHOICES)
    saved = handlers.download("page", "palette", CHOICES)
    arguments = ["--palette", str(saved), "--model", "ctn-r1", "--out", str(tmp_path / "out")]
    assert main(["predict", str(photo), *arguments]) == 0


def test_saved_labels_and_pictures(handlers, photo, tmp_path):
    one = Choices("ctn-r1", NO_OTHER, "composite", "R1")
    two = Choices("ctn-r1", "ctn-r2", "overlay", "R1")
    handlers.open("page", photo, one)
    palette = ctnet.Palette.load(handlers.download("page", "palette", one))
    wanted = ctnet.load("ctn-r1").predict(photo, palette, SIDE)
    with zipfile.ZipFile(handlers.download("page", "labels", one)) as file:
        expected = {path.name for path in wanted.save(tmp_path, "photo", "labels").values()}
        assert set(file.namelist()) == expected | {"photo_composite.png"}
        wanted.save(tmp_path, "photo")
        for name in file.namelist():
            assert file.read(name) == (tmp_path / name).read_bytes()
    picture = Image.open(handlers.download("page", "picture", one))
    np.testing.assert_array_equal(picture, wanted.draw())
    with zipfile.ZipFile(handlers.download("page", "labels", two)) as file:
        assert {name.split("/")[0] for name in file.namelist()} == {"ctn-r1", "ctn-r2"}
    with Image.open(handlers.download("page", "picture", two)) as picture:
        assert picture.width > 2 * wanted.image.shape[1]


@pytest.mark.parametrize("view", ["composite", "seg"])
def test_a_saved_comparison_has_names_and_a_legend(handlers, photo, view):
    choices = Choices("ctn-r1", "ctn-r2", view, "R1")
    _, views = handlers.open("page", photo, choices)
    with Image.open(handlers.download("page", "picture", choices)) as picture:
        sheet = np.array(picture)
    height, width = 60, 90
    shown = [pixels(views, index).astype(int) for index in (0, 1)]
    # The names stand over the pictures, the legend under them.
    top = next(
        y
        for y in range(sheet.shape[0] - height)
        if np.abs(sheet[y : y + height, :width] - shown[0]).mean() < 1
    )
    second = slice(width + 16, 2 * width + 16)
    assert np.abs(sheet[top : top + height, second] - shown[1]).mean() < 1
    for left in (slice(0, width), second):
        assert (sheet[:top, left] < 128).any()
    assert (sheet[top + height :] < 128).any()


@pytest.mark.parametrize("view", ["composite", *DEFAULT_TASKS])
def test_what_is_under_the_pointer(handlers, photo, view):
    painter, _ = handlers.open("page", photo, CHOICES)
    ids = np.repeat(np.array([[0, 1, 2], [3, 4, 255]], np.uint8), 30, 0).repeat(30, 1)
    handlers.edit("page", edited(painter, ids), CHOICES)
    choices = Choices("ctn-r1", "ctn-r2", view)
    handlers.choose("page", choices)
    model = ctnet.load("ctn-r1")
    asked = model.predict(photo, ctnet.Palette(ids), SIDE)
    for number, (x, y) in enumerate([(15, 15), (45, 15), (75, 15), (15, 45), (45, 45), (75, 45)]):
        texts = handlers.point("page", {"x": x, "y": y}, choices)["texts"]
        assert len(texts) == 2
        if view == "composite" and number == 5:
            assert texts == ["", ""], "nothing is asked there"
            continue
        task = DEFAULT_TASKS[number] if view == "composite" else view
        here = number < 5 and task == DEFAULT_TASKS[number]
        prediction = asked if here else model.predict(photo, f"single:{task}", SIDE)
        title, _, said = texts[0].partition(": ")
        assert title == TASKS[task].title
        value = prediction.labels[task][y, x]
        if TASKS[task].kind == "classes":
            name, share = said.split(", ")
            chance = prediction.probabilities(task)[y, x]
            # Edges of an edited region may be rounded otherwise.
            assert int(share.rstrip("%")) == pytest.approx(100 * chance.max(), abs=3)
            assert chance[TASKS[task].classes.index(name)] > chance.max() - 0.03
        elif TASKS[task].kind == "probability":
            assert float(said) == pytest.approx(float(value), abs=0.03)
        else:
            found = [float(part.split()[1]) for part in said.split(", ")]
            np.testing.assert_allclose(found, value, atol=0.03)


@pytest.mark.parametrize(
    "message", [None, {}, "x", {"x": 1}, {"x": -1, "y": 0}, {"x": 90, "y": 0}, {"x": "a", "y": 1}]
)
def test_a_pointer_that_is_nowhere(handlers, photo, message):
    assert handlers.point("page", message, CHOICES)["texts"] == []
    handlers.open("page", photo, CHOICES)
    assert "".join(handlers.point("page", message, CHOICES)["texts"]) == ""


def test_large_photographs_are_scaled_down_and_turned_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph((300, 600))).save(path, exif=exif)
    photo = read_photo(path, SIDE, LIMITS, "../a b<script>.jpg")
    assert photo.size == (600, 300)
    assert photo.kept_size == (200, 100)
    assert photo.working_size == (96, 48)
    assert Path(photo.name).name == photo.name == "a_b_script"


def test_the_page_says_at_which_size_large_photographs_are_kept(handlers, photo, tmp_path):
    large = tmp_path / "large.png"
    Image.fromarray(photograph((400, 600))).save(large)
    texts = [handlers.open("page", path, CHOICES)[0]["text"] for path in (photo, large)]
    assert "labels" not in texts[0] and "pixels" in texts[0]
    assert "600 × 400 pixels; labels and pictures have 200 × 133" in texts[1]


def write(folder, kind):
    """A file that is no photograph, or none that is taken."""
    path = folder / "bad.png"
    whole = io.BytesIO()
    Image.fromarray(photograph((400, 400))).save(whole, "JPEG")
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    content = {
        "empty": b"", "text": b"no image " * 30, "cut": whole.getvalue()[:2000],
        "bytes": b"x" * 300_001, "bomb": b"\x89PNG\r\n\x1a\n\0\0\0\r" + header
        + struct.pack(">I", zlib.crc32(header)) + b"\0\0\x09\0IDAT", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }  # fmt: skip
    if kind in content:
        path.write_bytes(content[kind])
    else:
        Image.new("L", (1200, 1100)).save(path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "bad.png is an empty file"),
        ("text", "bad.png is no image that can be read"),
        ("svg", "bad.png is no image that can be read"),
        ("cut", "bad.png cannot be read"),
        ("bytes", "bad.png has 0.3 MB; the demo takes files of at most"),
        ("pixels", "at most 1 million"),
        ("bomb", "pixels; the demo takes images of at most 1 million"),
    ],
)
def test_bad_photographs(handlers, photo, tmp_path, kind, message):
    handlers.open("page", photo, CHOICES)
    before = handlers.studios.get("page")
    with pytest.raises(ValueError, match=message) as error:
        handlers.open("page", write(tmp_path, kind), CHOICES)
    assert str(tmp_path) not in str(error.value)
    with pytest.raises(ValueError):
        handlers.upload_palette("page", write(tmp_path, kind), CHOICES)
    assert handlers.studios.get("page") is before
    with pytest.raises(FileNotFoundError, match="has not arrived"):
        handlers.open("page", tmp_path / "absent.png", CHOICES)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("L", (91, 60)), "palette.png is 91 × 60 pixels, the photograph 90 × 60"),
        (Image.new("L", (60, 90)), "palette.png is 60 × 90 pixels"),
        (Image.new("L", (90, 60), 7), "unknown task ids .7."),
        (Image.new("RGB", (90, 60)), "none of a task"),
    ],
)
def test_bad_palettes(handlers, photo, tmp_path, image, message):
    painter, _ = handlers.open("page", photo, CHOICES)
    image.save(tmp_path / "palette.png")
    with pytest.raises(ValueError, match=message):
        handlers.upload_palette("page", tmp_path / "palette.png", CHOICES)
    np.testing.assert_array_equal(handlers.studios.get("page").palette.ids, ids_of(painter))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (None, "no palette"),
        ([1, 2], "no palette"),
        ({"ids": ""}, "no palette"),
        ({"serial": "SERIAL", "ids": "%%%"}, "is damaged"),
        ({"serial": "SERIAL", "ids": 5}, "is damaged"),
        ({"serial": "SERIAL", "ids": "AAAA"}, "has 3 pixels, the photograph 90 × 60 = 5400"),
        ({"serial": "SERIAL", "ids": base64.b64encode(b"\t" * 5400).decode()}, "unknown task ids"),
    ],
)
def test_bad_edits(handlers, photo, message, error):
    painter, _ = handlers.open("page", photo, CHOICES)
    if isinstance(message, dict) and "serial" in message:
        message = message | {"serial": painter["serial"]}
    with pytest.raises(ValueError, match=error):
        handlers.edit("page", message, CHOICES)
    np.testing.assert_array_equal(handlers.studios.get("page").palette.ids, ids_of(painter))


def test_an_edit_of_the_photograph_before_is_dropped(handlers, photo):
    first, _ = handlers.open("page", photo, CHOICES)
    second, _ = handlers.open("page", photo, CHOICES)
    assert handlers.edit("page", edited(first, np.full((60, 90), 2)), CHOICES) is None
    np.testing.assert_array_equal(handlers.studios.get("page").palette.ids, ids_of(second))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices("ctn-r9", NO_OTHER, "composite"), "unknown model 'ctn-r9'; did you mean"),
        (Choices("ctn-r1", "/etc/passwd", "composite"), "unknown model"),
        (Choices("ctn-r1", NO_OTHER, "depth"), "unknown view"),
        (Choices("ctn-r1", NO_OTHER, "composite", "rule.toml"), "unknown start"),
    ],
)
def test_unknown_choices(handlers, photo, choices, message):
    with pytest.raises(ValueError, match=message):
        handlers.open("page", photo, choices)
    with pytest.raises(ValueError, match="unknown example"):
        handlers.open_example("page", "../photo", CHOICES)
    with pytest.raises(ValueError, match="unknown file"):
        handlers.open_example("page", "sample", CHOICES)
        handlers.download("page", "/etc/passwd", CHOICES)


def test_no_photograph_yet(handlers):
    for run in (
        lambda: handlers.start("page", CHOICES),
        lambda: handlers.edit("page", {}, CHOICES),
        lambda: handlers.choose("page", CHOICES),
        lambda: handlers.download("page", "labels", CHOICES),
        lambda: handlers.upload_palette("page", "x.png", CHOICES),
    ):
        with pytest.raises(ValueError, match=r"no photograph yet.*choose one first"):
            run()


def test_pages_give_way_and_leave(handlers, photo):
    for number in range(5):
        handlers.open(f"page {number}", photo, CHOICES)
    assert len(handlers.studios) == LIMITS.pages
    with pytest.raises(ValueError, match="was put away"):
        handlers.start("page 0", CHOICES)
    folder = handlers.studios.get("page 4").folder
    handlers.studios.drop("page 4")
    handlers.studios.drop("page 4")
    assert len(handlers.studios) == LIMITS.pages - 1
    assert not folder.exists()


def test_models_of_other_tasks(make_model, photo, tmp_path):
    make_model(tasks=("normals", "seg")).save_pretrained(tmp_path / "two")
    name = f"local-dir:{tmp_path / 'two'}"
    handlers = Handlers(Models(name, torch.device("cpu")), {}, LIMITS, SIDE)
    with pytest.raises(ValueError, match="start from a rule"):
        handlers.open("page", photo, Choices(name, NO_OTHER, "composite", "auto"))
    painter, _ = handlers.open("page", photo, Choices(name, NO_OTHER, "composite", "single:seg"))
    assert [task["name"] for task in painter["tasks"]] == ["normals", "seg"]
    with pytest.raises(ValueError, match="compare models of the same tasks"):
        handlers.choose("page", Choices(name, "ctn-r1", "composite"))
    painter, _ = handlers.choose("page", Choices("ctn-r1", NO_OTHER, "composite"))
    assert (ids_of(painter) == DEFAULT_TASKS.index("seg")).all()


def test_the_command_needs_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("ctnet.cli.demo.find_spec", lambda name: None)
    assert main(["demo"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "pip install 'ctnet[demo]'" in lines[0]


def test_options():
    args = build_parser().parse_args(["demo"])
    assert (args.host, args.port, args.model, args.no_browser) == (
        "127.0.0.1", None, "ctn-r1", False,
    )  # fmt: skip
    with pytest.raises(SystemExit):
        build_parser().parse_args(["demo", "--share"])


# ---- served


class Page:
    """A browser page without a browser."""

    def __init__(self, url):
        self.url = url.rstrip("/")
        self.session = uuid.uuid4().hex[:11]
        config = self.get("/config")
        self.functions = {entry["api_name"]: entry["id"] for entry in config["dependencies"]}

    def get(self, path, timeout=30):
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.load(answer)

    def post(self, path, body, **headers):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"content-type": "application/json"} | headers
        request = urllib.request.Request(self.url + path, data, headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def join(self, name, *data):
        body = {"fn_index": self.functions[name], "session_hash": self.session, "data": data}
        return self.post("/gradio_api/queue/join", body)

    def stream(self):
        url = f"{self.url}/gradio_api/queue/data?session_hash={self.session}"
        return urllib.request.urlopen(url, timeout=60)

    def call(self, name, *data):
        """Returns (True, the outputs) or (False, the error's words)."""
        try:
            self.join(name, *data)
        except urllib.error.HTTPError as error:
            return False, json.load(error)["detail"]
        with self.stream() as lines:
            for line in lines:
                message = json.loads(line[6:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    output = message["output"]
                    return message["success"], output.get("data") or output.get("error")
        raise AssertionError("no answer")

    def upload(self, name, content):
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\ncontent-disposition: form-data; name="files"; filename="{name}"\r\n'
        body = head.encode() + b"\r\n" + content + f"\r\n--{mark}--\r\n".encode()
        kind = {"content-type": f"multipart/form-data; boundary={mark}"}
        path = self.post("/gradio_api/upload", body, **kind)[0]
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


CHOSEN = ("ctn-r1", NO_OTHER, "composite", "R1")


@pytest.fixture(scope="module")
def contacted():
    """Addresses that this process connects to, apart from its own machine's."""
    found = []
    connect = socket.socket.connect

    def record(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            found.append(address)
        return connect(self, address)

    patch = pytest.MonkeyPatch()
    patch.setattr(socket.socket, "connect", record)
    yield found
    patch.undo()


@pytest.fixture(scope="module")
def server(contacted, tmp_path_factory):
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    from ctnet.demo.server import serve

    path = tmp_path_factory.mktemp("examples") / "sample.png"
    Image.fromarray(photograph((200, 320))).save(path)
    running = serve("ctn-r1", device="cpu", limits=LIMITS, examples={"sample": path})
    yield running
    running.close()


def test_served_on_loopback_without_telemetry(server, contacted):
    import gradio

    page = Page(server.url)
    assert server.url.startswith("http://127.0.0.1:")
    assert page.get("/config")["analytics_enabled"] is False
    ok, (painter, views) = page.call("open_example", {"name": "sample"}, *CHOSEN)
    assert ok
    assert pixels(views).shape == (painter["height"], painter["width"], 3)
    assert gradio.analytics.analytics_enabled() is False
    assert contacted == []


def test_files_are_sent_and_fetched(server):
    page = Page(server.url)
    buffer = io.BytesIO()
    Image.fromarray(photograph()).save(buffer, "PNG")
    ok, (painter, _) = page.call("open_photo", page.upload("my.png", buffer.getvalue()), *CHOSEN)
    assert ok
    ok, (file,) = page.call("save", *CHOSEN)
    assert ok
    with urllib.request.urlopen(file["url"]) as answer:
        palette = Image.open(io.BytesIO(answer.read()))
    assert file["orig_name"] == "my_palette.png"
    np.testing.assert_array_equal(palette, ids_of(painter))


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("begin", (), "no photograph yet"),
        ("edit", ({"ids": "x"},), "no photograph yet"),
        ("open_example", ({"name": "<b>x</b>"},), "unknown example '&lt;b&gt;"),
        ("open_example", ("text",), "unknown example"),
        ("open_photo", (None,), "no photograph has arrived"),
        ("open_photo", ({"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},), ""),
        ("begin", ("more", "than", "enough", "data"), ""),
        ("edit", ({"serial": 1, "ids": "A" * 200_000},), "no photograph yet"),
    ],
)
def test_bad_requests_are_answered_in_words(server, name, data, words):
    page = Page(server.url)
    ok, found = page.call(name, *data, *CHOSEN)
    assert not ok
    assert words in (found or "")
    assert Page(server.url).call("open_example", {"name": "sample"}, *CHOSEN)[0]


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 99])
def test_files_that_are_no_photograph(server, content):
    page = Page(server.url)
    ok, words = page.call("open_photo", page.upload("notes.txt", content), *CHOSEN)
    assert not ok
    assert "notes.txt is" in words


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join", "/"])
def test_bodies_that_are_too_large(server, path):
    page = Page(server.url)
    for body in (b"x" * (LIMITS.file_bytes + 2**20 + 1), iter([b"x" * 2**16] * 40)):
        with pytest.raises((urllib.error.URLError, OSError, ValueError)) as error:
            request = urllib.request.Request(page.url + path, body, method="POST")
            urllib.request.urlopen(request, timeout=30)
        if isinstance(error.value, urllib.error.HTTPError) and error.value.code == 413:
            assert "too large" in error.value.read().decode()
    big = np.random.default_rng(0).integers(0, 256, LIMITS.file_bytes + 5000, np.uint8).tobytes()
    with pytest.raises(urllib.error.HTTPError) as error:
        page.upload("big.png", big)
    assert error.value.code == 413
    assert page.call("open_example", {"name": "sample"}, *CHOSEN)[0]


def test_twenty_at_once(server):
    def one(_):
        return Page(server.url).call("open_example", {"name": "sample"}, *CHOSEN)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(one, range(20)))
    done = [ok for ok, _ in answers if ok]
    refused = [words for ok, words in answers if not ok]
    assert len(done) >= LIMITS.waiting
    assert all("Queue is full" in words for words in refused)
    assert len(server.handlers.studios) <= LIMITS.pages
    assert one(0)[0]


def test_clients_that_go_away(server):
    for _ in range(6):
        page = Page(server.url)
        with suppress(urllib.error.HTTPError):
            page.join("open_example", {"name": "sample"}, *CHOSEN)
            page.stream().close()
    host, port = server.url.removeprefix("http://").rstrip("/").split(":")
    for half in (
        b"",
        b"POST /gradio_api/upload HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\nab",
    ):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(half)
    page = Page(server.url)
    for _ in range(40):
        ok, _words = page.call("open_example", {"name": "sample"}, *CHOSEN)
        if ok:
            break
    assert ok
    assert len(server.handlers.studios) <= LIMITS.pages


def test_the_command_serves(tmp_path):
    pytest.importorskip("gradio", reason="needs the extra [demo]")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "ctnet", "demo", "--no-browser", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(300, process.kill)
        killer.start()
        line = process.stdout.readline()
        assert line.startswith(f"the demo is at http://127.0.0.1:{port}/")
        assert Page(f"http://127.0.0.1:{port}").functions
        process.terminate()
        killer.cancel()
