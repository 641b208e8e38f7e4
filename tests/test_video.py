"""Videos in and out, and `ctnet predict` on folders, patterns and videos."""

import math
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

import ctnet
from ctnet import video
from ctnet.cli.main import main
from ctnet.images import find_images
from ctnet.rules import get_rule
from ctnet.video import Frames, VideoReader, VideoWriter

av = pytest.importorskip("av")

SIZE = (48, 64)
RATE = Fraction(30000, 1001)
CLOSE = 6
"""Mean difference, of 255, that encoding twice may make."""


def picture(number, size=SIZE):
    """A frame that tells its number, by a bar, and its orientation, by a red corner."""
    image = np.full((*size, 3), 90, np.uint8)
    image[: size[0] // 4, : size[1] // 4] = 230, 30, 30
    image[size[0] // 2 :, : (number + 1) * 3] = 40, 200, 60
    return image


def number_of(image):
    """Reads the number of :func:`picture` again."""
    row = image[3 * image.shape[0] // 4].astype(int)
    return round((row[:, 1] - row[:, 0] > 80).sum() / 3) - 1


def write_clip(path, count=10, size=SIZE, rate=RATE, codec="libx264", rotation=None, **options):
    """A video as other programs write it."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if rotation:
            stream.set_display_rotation(*rotation)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number, size), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read(path, chosen=None):
    with VideoReader(path) as reader:
        return list(reader.frames(chosen)), reader


def difference(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).mean()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


@pytest.fixture(scope="module")
def network(model):
    return ctnet.load(model).fuse()


def predict(model, out, *arguments):
    given = [str(x) for x in arguments]
    return main(["predict", *given, "--model", model, "--out", str(out), "--long-side", "64"])


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mov", "mpeg4")],
)
def test_frames_come_in_order(tmp_path, name, codec):
    frames, reader = read(write_clip(tmp_path / name, codec=codec))
    assert [frame.number for frame in frames] == list(range(10))
    assert [number_of(frame.image) for frame in frames] == list(range(10))
    assert reader.rate == RATE
    assert reader.expected == 10
    assert reader.problem is None
    for frame in frames:
        assert difference(frame.image, picture(frame.number)) < CLOSE
        assert abs(frame.time - frame.number / RATE) < Fraction(1, 900)


@pytest.mark.parametrize(
    ("text", "every", "numbers"),
    [
        (":", 1, range(10)), ("3:", 1, range(3, 10)), (":4", 1, range(4)), ("2:5", 1, (2, 3, 4)),
        ("2:9", 3, (2, 5, 8)), ("0:", 4, (0, 4, 8)), ("8:90", 1, (8, 9)),
    ],
)  # fmt: skip
def test_chosen_frames(clip, text, every, numbers):
    chosen = Frames.parse(text, every)
    frames, reader = read(clip, chosen)
    assert [number_of(frame.image) for frame in frames] == list(numbers)
    assert frames[0].time == 0
    assert chosen.count(10) == len(frames)
    assert reader.problem is None


@pytest.mark.parametrize("text", ["", "5", "a:b", "-3:5", "5:5", "5:2", "1:2:3", "1.5:3"])
def test_bad_choices(text):
    with pytest.raises(ValueError, match=r"frames are|got"):
        Frames.parse(text)


def test_choices_beyond_the_end(clip):
    with pytest.raises(ValueError, match="has 10 frames"):
        read(clip, Frames(30))
    with pytest.raises(ValueError, match="1 or more"):
        Frames(every=0)


@pytest.mark.parametrize(
    ("rotation", "turn"),
    [
        ((90,), np.rot90),
        ((-90,), lambda x: np.rot90(x, -1)),
        ((180,), lambda x: np.rot90(x, 2)),
        ((0, True), np.fliplr),
        ((0, False, True), np.flipud),
        ((90, True), lambda x: np.fliplr(np.rot90(x))),  # mirrored after it is turned
    ],
)
def test_frames_are_turned_upright(tmp_path, rotation, turn):
    frames, _ = read(write_clip(tmp_path / "a.mp4", 2, rotation=rotation))
    assert frames[0].image.shape == turn(picture(0)).shape
    assert difference(frames[0].image, turn(picture(0))) < CLOSE


def make_damaged(folder):
    """Files that are no whole video, by what is wrong with them."""
    whole = write_clip(folder / "whole.mp4", 200, movflags="faststart").read_bytes()
    late = write_clip(folder / "late.mp4").read_bytes()
    streamed = write_clip(folder / "streamed.mkv", 200).read_bytes()
    broken = bytearray(whole)
    start = whole.index(b"mdat") + 4
    middle = start + (len(whole) - start) // 2
    broken[middle : middle + 400] = bytes(400)
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return {
        "empty": b"",
        "text": b"this is no video " * 20,
        "cut before its index": late[: len(late) // 2],
        "sound alone": (folder / "sound.mp4").read_bytes(),
        "cut": whole[: len(whole) * 2 // 3],
        "cut.mkv": streamed[: len(streamed) * 2 // 3],
        "broken": bytes(broken),
    }


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return make_damaged(tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "is an empty file"),
        ("text", "is no video that can be read"),
        ("cut before its index", "is no video that can be read"),
        ("sound alone", "has no video stream .it holds: audio"),
    ],
)
def test_files_without_a_frame(damaged, tmp_path, kind, message):
    path = tmp_path / "bad.mp4"
    path.write_bytes(damaged[kind])
    with pytest.raises(ValueError, match=rf"bad\.mp4 {message}"):
        VideoReader(path)


@pytest.mark.parametrize("kind", ["cut", "cut.mkv", "broken"])
def test_what_can_be_read_of_damaged_files_is(damaged, tmp_path, kind):
    path = tmp_path / f"bad.{'mkv' if 'mkv' in kind else 'mp4'}"
    path.write_bytes(damaged[kind])
    frames, reader = read(path)
    assert 10 < len(frames) < 200
    assert reader.problem is not None
    assert ("cut off" in reader.problem) or ("damaged" in reader.problem)
    assert number_of(frames[3].image) == 3
    assert len(read(path, Frames(0, 3))[0]) == 3


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no video at"):
        VideoReader(tmp_path / "absent.mp4")
    with pytest.raises(ValueError, match="is a folder"):
        VideoReader(tmp_path)


@pytest.mark.parametrize("encoder", [entry[0] for entry in video.ENCODERS])
@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_written_videos(tmp_path, monkeypatch, encoder, size):
    known = [entry for entry in video.ENCODERS if entry[0] == encoder]
    monkeypatch.setattr(video, "ENCODERS", (("no-such-encoder", ()), *known))
    path = tmp_path / "new" / "out.mp4"
    with VideoWriter(path, RATE) as writer:
        for number in range(8):
            writer.write(picture(number, size))
            assert not path.exists()
    assert writer.count == 8
    assert list(path.parent.iterdir()) == [path]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == RATE
        assert stream.codec_context.name == {"libx264": "h264"}.get(encoder, encoder)
    frames, reader = read(path)
    assert reader.expected == 8
    for number, frame in enumerate(frames):
        assert frame.image.shape == (48, 64, 3)
        assert difference(frame.image[: size[0], : size[1]], picture(number, size)) < CLOSE


def test_times_are_kept(tmp_path):
    path = tmp_path / "out.mp4"
    times = [0, 0.04, 0.12, 0.4, 0.4, 0.1]
    with VideoWriter(path, 25) as writer:
        for number, time in enumerate(times):
            writer.write(picture(number), time)
    frames, _ = read(path)
    assert [float(frame.time) for frame in frames] == pytest.approx(
        [0, 0.04, 0.12, 0.4, 0.4, 0.4], abs=1e-4
    )
    assert [number_of(frame.image) for frame in frames] == list(range(6))


def test_pictures_of_other_sizes_are_fitted(tmp_path):
    with VideoWriter(tmp_path / "out.mp4", 2) as writer:
        writer.write(np.full((40, 60, 3), 200, np.uint8))
        writer.write(np.full((80, 40, 3), 200, np.uint8))
    (_, second), _ = read(tmp_path / "out.mp4")
    assert second.image.shape == (40, 60, 3)
    assert second.image[20, 30].min() > 190
    assert second.image[20, [2, 57]].max() < 10


def test_an_error_leaves_what_was_there(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_text("before")
    with pytest.raises(RuntimeError, match="stop"), VideoWriter(path, 25) as writer:
        writer.write(picture(0))
        raise RuntimeError("stop")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "rate"),
    [("out.gif", 25), ("out", 25), *(("out.mp4", x) for x in (0, -1, math.inf, math.nan, 1e9))],
)
def test_what_cannot_be_written(tmp_path, name, rate):
    with pytest.raises(ValueError, match="got"):
        VideoWriter(tmp_path / name, rate)
    (tmp_path / "file").touch()
    with pytest.raises((ValueError, OSError)), VideoWriter(tmp_path / "file/x.mp4", 5) as writer:
        writer.write(picture(0))


def test_without_pyav(clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"extra \[video\]"):
        VideoReader(clip)


@pytest.mark.parametrize("palette", ["R1", "R2", "single:normals", "file.png", "Rrnd"])
def test_predict_writes_photograph_and_overlay(model, network, clip, tmp_path, palette, capsys):
    if palette == "file.png":
        palette = str(tmp_path / palette)
        get_rule("R1").palette(SIZE, np.random.default_rng(5)).save(palette)
    out = tmp_path / "out"
    assert predict(model, out, clip, "--palette", palette, "--seed", 3, "--frames", ":5") == 0
    assert str(out / "clip_side_by_side.mp4") in capsys.readouterr().out
    frames, reader = read(out / "clip_side_by_side.mp4")
    sources, _ = read(clip, Frames(0, 5))
    assert reader.rate == RATE
    assert [number_of(frame.image[:, :64]) for frame in frames] == list(range(5))
    palettes = []
    for source, frame in zip(sources, frames, strict=True):
        assert frame.image.shape == (48, 128, 3)
        assert frame.time == source.time
        wanted = network.predict(source.image, palette, 64, seed=3)
        palettes.append(wanted.palette)
        assert difference(frame.image[:, :64], source.image) < CLOSE
        if palette != "Rrnd":  # single pixels of color do not survive an encoder
            right = np.array(wanted.side_by_side())[:, 64:]
            assert difference(frame.image[:, 64:], right) < 2 * CLOSE
    if palette != "R2":
        assert all(palette == palettes[0] for palette in palettes)


def test_the_right_half_is_the_composite_over_the_photograph(network):
    prediction = network.predict(picture(3), "single:normals", 64)
    drawn = 0.3 * 255 + 0.7 * (prediction.labels["normals"] + 1) * 127.5
    wanted = 0.25 * prediction.image + 0.75 * drawn
    found = np.array(prediction.side_by_side())
    np.testing.assert_array_equal(found[:, :64], prediction.image)
    np.testing.assert_allclose(found[:, 64:], wanted, atol=1)


def test_predict_takes_some_frames_and_writes_their_labels(model, network, clip, tmp_path):
    target = tmp_path / "deep" / "some.mp4"
    arguments = ["--frames", "1:8", "--every", 3, "--labels", "--palette", "R1"]
    assert predict(model, tmp_path, clip, *arguments, "--side-by-side", target) == 0
    frames, reader = read(target)
    assert [number_of(frame.image) for frame in frames] == [1, 4, 7]
    assert reader.rate == RATE / 3
    folder = tmp_path / "clip"
    assert sorted({path.name[:6] for path in folder.iterdir()}) == ["000001", "000004", "000007"]
    source = read(clip)[0][4]
    wanted = network.predict(source.image, "R1", 64)
    assert ctnet.Palette.load(folder / "000004_palette.png") == wanted.palette
    assert len(list(folder.glob("000004_*"))) == 1 + len(wanted.labels)
    for name, values in wanted.labels.items():
        if name in ("seg", "parts"):
            np.testing.assert_array_equal(Image.open(folder / f"000004_{name}.png"), values)


def test_predict_auto(clip, tmp_path):
    target = tmp_path / "auto.mp4"
    arguments = ["--palette", "auto", "--frames", ":2", "--side-by-side", target]
    assert predict("ctn-r1", tmp_path, clip, *arguments) == 0
    frames, _ = read(target)
    wanted = ctnet.load("ctn-r1").fuse().predict(read(clip)[0][1].image, "auto", 64)
    assert difference(frames[1].image, wanted.side_by_side()) < 2 * CLOSE


def test_broken_videos_are_reported_and_the_rest_done(damaged, model, clip, tmp_path, capsys):
    folder = tmp_path / "clips"
    folder.mkdir()
    for name, kind in {"a.mp4": "text", "b.mp4": "sound alone", "c.mp4": "cut"}.items():
        (folder / name).write_bytes(damaged[kind])
    (folder / "d.mp4").write_bytes(clip.read_bytes())
    out = tmp_path / "out"
    assert predict(model, out, folder, "--palette", "single:edges", "--every", 20) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ctnet:")]
    assert [name in line for name, line in zip("abc", lines, strict=False)] == [True] * 3
    assert lines[3:] == ["ctnet: 3 of 4 inputs failed"]
    assert sorted(path.name for path in out.iterdir()) == [
        "c_side_by_side.mp4", "d_side_by_side.mp4"
    ]  # fmt: skip
    assert [number_of(frame.image[:, :64]) for frame in read(out / "d_side_by_side.mp4")[0]] == [0]


def test_a_palette_of_another_size_leaves_no_file(model, clip, tmp_path, capsys):
    get_rule("R1").palette((9, 9)).save(tmp_path / "small.png")
    out = tmp_path / "out"
    assert predict(model, out, clip, "--palette", tmp_path / "small.png") == 1
    assert "the palette is (9, 9)" in capsys.readouterr().err
    assert not out.exists() or not list(out.iterdir())


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs, of which each is as wide as its number says."""
    folder = tmp_path / "photos"
    for name, width in {
        "frame10.png": 40, "frame2.png": 38, "Frame1.JPG": 36, "deep/frame3.png": 42,
        "deep/frame1.png": 44, ".hidden.png": 50, "notes.txt": 0,
    }.items():  # fmt: skip
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        if width:
            Image.fromarray(picture(2, (32, width))).save(path)
        else:
            path.write_text("no image")
    return folder


@pytest.mark.parametrize(
    ("given", "recursive", "names"),
    [
        ([""], False, ["Frame1.JPG", "frame2.png", "frame10.png"]),
        (
            [""],
            True,
            ["deep/frame1.png", "deep/frame3.png", "Frame1.JPG", "frame2.png", "frame10.png"],
        ),
        (["*.png"], False, ["frame2.png", "frame10.png"]),
        (["frame1?.png", "*/*3.png"], False, ["frame10.png", "deep/frame3.png"]),
        (["d*"], False, ["deep/frame1.png", "deep/frame3.png"]),
        (["**/*.png"], False, ["deep/frame1.png", "deep/frame3.png", "frame2.png", "frame10.png"]),
        (["frame10.png", "deep"], False, ["frame10.png", "deep/frame1.png", "deep/frame3.png"]),
    ],
)
def test_files_in_natural_order(photos, given, recursive, names):
    found = find_images([photos / name for name in given], recursive)
    assert found == [photos / name for name in names]


def test_patterns_in_names_of_files(photos):
    path = photos / "a[1].png"
    Image.new("RGB", (5, 5)).save(path)
    assert find_images(path) == [path]
    with pytest.raises(ValueError, match=r"no file matches.*\*\.gif"):
        find_images(photos / "*.gif")


def test_predict_on_a_mixture(model, photos, clip, tmp_path, capsys):
    out = tmp_path / "out"
    (photos / "frame5.jpg").write_text("no image")
    (photos / "frame2_2.png").write_bytes((photos / "frame10.png").read_bytes())
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (50, 34)).save(other / "FRAME2.png")
    given = [photos, other / "*.png", clip, photos / "deep", tmp_path / "none*", "absent.jpg"]
    assert predict(model, out, *given, "--palette", "R1", "--recursive") == 1
    captured = capsys.readouterr()
    widths = {
        path.name.removesuffix("_composite.png"): Image.open(path).width
        for path in out.glob("*_composite.png")
    }
    # In order: deep/frame1, deep/frame3, Frame1, frame2, frame2_2, frame10, FRAME2 of the other.
    assert widths == {
        "frame1": 44, "frame3": 42, "Frame1_2": 36, "frame2": 38, "frame2_2": 40, "frame10": 40,
        "FRAME2_3": 50,
    }  # fmt: skip
    assert (out / "clip_side_by_side.mp4").exists()
    errors = [line for line in captured.err.splitlines() if line.startswith("ctnet:")]
    assert len(errors) == 4
    for line, part in zip(errors, ("none*", "frame5.jpg", "absent.jpg", "3 of 11"), strict=True):
        assert part in line
    done = [line for line in captured.out.splitlines() if not line.startswith(" ")]
    order = ("deep/frame1", "deep/frame3", "Frame1", "frame2", "frame2_2", "frame10", "FRAME2")
    assert len(done) == len(order) + 1
    for line, name in zip(done, (*order, "clip"), strict=True):
        assert f"{name}." in line


def test_results_are_not_taken_for_photographs(model, photos, capsys):
    out = photos / "results"
    for _ in range(2):
        assert predict(model, out, photos, "--palette", "single:edges", "--recursive") == 0
    assert len(list(out.glob("*_composite.png"))) == 5
    assert predict(model, photos, photos) == 1
    assert "choose another --out" in capsys.readouterr().err


def test_photographs_become_a_video(model, network, photos, tmp_path):
    target = tmp_path / "slides.mp4"
    arguments = ["--palette", "single:normals", "--side-by-side", target, "--rate", 4]
    (photos / "frame3.png").write_text("no image")
    assert predict(model, tmp_path / "out", photos, *arguments) == 1
    frames, reader = read(target)
    assert reader.rate == 4
    assert len(frames) == 3
    for path, frame in zip(find_images(photos)[::2], frames[::2], strict=False):
        assert frame.image.shape == (32, 72, 3)
        if path.name == "Frame1.JPG":
            wanted = network.predict(path, "single:normals", 64).side_by_side()
            assert difference(frame.image, wanted) < 2 * CLOSE


@pytest.mark.parametrize("kind", ["photo", "video"])
def test_existing_results(model, photos, clip, tmp_path, kind, capsys):
    source = photos / "frame2.png" if kind == "photo" else clip
    done = tmp_path / ("frame2_composite.png" if kind == "photo" else "clip_side_by_side.mp4")
    arguments = [source, "--palette", "single:edges"]
    assert predict(model, tmp_path, *arguments) == 0
    done.write_text("mine")
    assert predict(model, tmp_path, *arguments, "--existing", "skip") == 0
    assert "skipped" in capsys.readouterr().out
    assert predict(model, tmp_path, *arguments, "--existing", "fail") == 1
    assert "exists; remove it" in capsys.readouterr().err
    assert predict(model, tmp_path, *arguments) == 1
    assert "was not made by ctnet" in capsys.readouterr().err
    assert done.read_text() == "mine"
    assert predict(model, tmp_path, *arguments, "--overwrite") == 0
    assert predict(model, tmp_path, *arguments) == 0
    assert len(done.read_bytes()) > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PHOTO", "--frames", "1:2"], "are for videos"),
        (["PHOTO", "--every", "2"], "are for videos"),
        (["PHOTO", "--labels"], "are for videos"),
        (["PHOTO", "--rate", "2"], "--rate needs photographs"),
        (["CLIP", "--rate", "2", "--side-by-side", "x.mp4"], "--rate needs photographs"),
        (["CLIP", "PHOTO", "--side-by-side", "x.mp4"], "1 videos and 1 photographs"),
        (["CLIP", "--side-by-side", "CLIP"], "would overwrite the input video"),
        (["PHOTO", "--side-by-side", "x.mp4", "--existing", "skip"], "leave photographs out"),
        (["PHOTO", "--side-by-side", "x.avi"], "written as .mp4"),
        (["CLIP", "--side-by-side", "x.avi"], "written as .mp4"),
        (["CLIP", "--frames", "7"], "such as 100:250"),
        (["CLIP", "--every", "0"], "1 or more"),
        (["CLIP", "--palette", "R9"], "unknown rule"),
        (["CLIP", "--palette", "absent.png"], "absent.png"),
    ],
)
def test_options_that_do_not_go_together(model, photos, clip, tmp_path, arguments, message, capsys):
    files = {"PHOTO": str(photos / "frame2.png"), "CLIP": str(clip)}
    given = [files.get(x, x) for x in arguments]
    assert predict(model, tmp_path / "out", *given) == 1
    error = capsys.readouterr().err
    assert message in error
    assert sum(line.startswith("ctnet:") for line in error.splitlines()) <= 2
    assert not (tmp_path / "out").exists()


def test_a_bar_shows_how_far_a_video_is(model, clip, tmp_path, capsys):
    assert predict(model, tmp_path, clip, "--palette", "single:edges", "--frames", ":4") == 0
    error = capsys.readouterr().err
    assert "clip.mp4" in error
    assert "/4" in error


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), 59.94, Fraction(1, 3), 240])
def test_a_variable_rate_does_not_drift(tmp_path, rate):
    path = tmp_path / "out.mp4"
    # Bursts of frames 3 ms apart and pauses, as phones write them.
    steps = [0.003, 0.003, 0.5, 0.003, 0.1, 0.003] * 10
    times = np.cumsum([0, *steps])
    with VideoWriter(path, rate) as writer:
        for number, time in enumerate(times):
            writer.write(picture(number), time)
    with VideoReader(path) as reader:
        found = [float(frame.time) for frame in reader.frames()]
    assert found == pytest.approx(times, abs=1e-4)


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001), Fraction(1, 3)])
def test_a_constant_rate_is_exact(tmp_path, rate):
    path = tmp_path / "out.mp4"
    with VideoWriter(path, rate) as writer:
        for number in range(5):
            writer.write(picture(number))
    with VideoReader(path) as reader:
        assert reader.rate == rate
        assert [frame.time for frame in reader.frames()] == [n / Fraction(rate) for n in range(5)]


@pytest.mark.parametrize(
    ("shape", "size"), [((16, 11), (93, 48)), ((1, 2), (64, 96)), ((1, 1), (64, 48))]
)
def test_pixels_become_square(tmp_path, shape, size):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(*shape)
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * number, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert [frame.image.shape for frame in reader.frames()] == [(size[1], size[0], 3)] * 3
