"""What users type that is out of range, and names that a terminal cannot show: one clear line."""

import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ctnet
from ctnet.cli.main import main
from ctnet.demo.app import find_examples
from ctnet.models.base import CompositeModel
from ctnet.palette import Palette
from ctnet.rules import load_rule
from ctnet.tasks import TaskSpec, register_task
from ctnet.zoo import locate as places

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("palette make R1 --size 9999999x9999999 --out p.png", "at most 1073741824 pixels"),
        ("palette make R1 --size 8x8 --seed -1 --out p.png", "no whole number of at least 0"),
        ("predict photo.png --device foo", "unknown device 'foo'; allowed: auto, cpu"),
        ("bench --device gpu", "unknown device 'gpu'"),
        ("demo --device gpu --no-browser", "unknown device 'gpu'"),
        ("predict photo.png --side-by-side s.mp4 --rate inf", "0 to 1000 frames a second"),
        ("predict photo.png --side-by-side s.mp4 --rate 1e9", "0 to 1000 frames a second"),
    ],
)
def test_one_clear_line(photo, words, message, monkeypatch, capsys):
    monkeypatch.chdir(photo.parent)
    try:
        assert main(words.split()) == 1
    except SystemExit as end:
        assert end.code == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if "error" in line or "ctnet:" in line]
    assert any(message in line for line in errors) and len(errors) <= 2


def test_points_outside_of_a_picture(photo, monkeypatch):
    monkeypatch.chdir(photo.parent)
    Palette.single("seg", (20, 20)).save("p.png")
    words = "palette edit p.png --polygon parts -5,-5 30.5,-5 -5,30.5 --out q.png"
    assert main(words.split()) == 0
    found = Palette.load("q.png").mask("parts")
    rows, columns = np.mgrid[:20, :20]
    assert found[0, 0] and not found[19, 19]
    assert np.mean(found == (rows + columns < 25)) > 0.9
    assert (
        main(["palette", "edit", "p.png", "--circle", "parts", "5", "5", "1e200", "--out", "c.png"])
        == 0
    )
    assert Palette.load("c.png").shares() == {"parts": 1.0}


def test_a_class_that_asks_for_nothing(tmp_path):
    (tmp_path / "r.toml").write_bytes(b'\xef\xbb\xbf[classes]\ncat = "seg"\ndog = "none"\n')
    rule = load_rule(tmp_path / "r.toml")
    labels = np.array([[8, 12, 0]])
    assert rule.palette((1, 3), labels=labels).ids.tolist() == [[0, 255, 255]]
    assert rule.requested() == ("seg",)


def test_the_error_of_a_rule_file_is_its_own(photo, monkeypatch, capsys):
    monkeypatch.chdir(photo.parent)
    Path("bad.toml").write_text("[classes\n")
    assert main(["eval", "ctn-r1", "--rule", "bad.toml", "--data", "."]) == 1
    assert "bad.toml is not valid" in capsys.readouterr().err


def test_more_classes_than_a_byte_holds():
    names = tuple(f"c{k}" for k in range(256))
    spec = TaskSpec("many", "Many", "classes", (1, 2, 3), names, ((0, 0, 0),) * 256)
    with pytest.raises(ValueError, match="at most 255 classes"):
        register_task(spec)


@pytest.mark.skipif(sys.platform != "linux", reason="names of other bytes than UTF-8")
def test_a_name_that_the_terminal_cannot_show(photo, monkeypatch):
    folder = os.fsencode(photo.parent / "photos")
    os.mkdir(folder)
    for name in (b"caf\xe9.png", b"b.png"):
        shutil.copy(photo, os.path.join(folder, name))
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, io.TextIOWrapper(io.BytesIO(), "ascii"))
    words = ["predict", os.fsdecode(folder), "--palette", "single:seg", "--out"]
    assert main([*words, str(photo.parent / "out")]) == 0
    sys.stdout.flush()
    shown = sys.stdout.buffer.getvalue().decode()
    assert "caf\\udce9.png" in shown and "b.png" in shown
    assert len(list((photo.parent / "out").iterdir())) == 8


def test_out_of_memory_costs_one_photograph(photo, monkeypatch, capsys):
    shutil.copy(photo, photo.with_name("second.png"))
    real = CompositeModel.predict
    seen = []

    def predict(self, image, *args, **options):
        seen.append(image)
        if len(seen) == 1:
            raise RuntimeError("CUDA out of memory.\nTried to allocate")
        return real(self, image, *args, **options)

    monkeypatch.setattr(CompositeModel, "predict", predict)
    out = photo.parent / "out"
    assert main(["predict", str(photo.parent), "--palette", "single:seg", "--out", str(out)]) == 1
    assert "out of memory" in capsys.readouterr().err
    assert (out / "second_seg.png").exists() and not (out / "photo_seg.png").exists()


class TestInstalledCopy:
    """A copy in site-packages that is called from within a clone."""

    @pytest.fixture(autouse=True)
    def installed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(places, "CHECKOUT", tmp_path / "site-packages" / "weights")
        monkeypatch.setattr("ctnet.demo.app.__file__", str(tmp_path / "a" / "b" / "c" / "app.py"))

    def test_weights_of_the_clone_are_found(self, monkeypatch):
        monkeypatch.chdir(CHECKOUT / "docs")
        assert ctnet.load("ctn-r3").config.system == "ctn"
        info = ctnet.model_info("ctn-r3")
        found = next(place for place in places.places(info) if place.found)
        assert found.source == "current checkout"

    @pytest.mark.parametrize("recorded", [True, False])
    def test_the_demo_has_the_examples_that_were_installed(self, tmp_path, monkeypatch, recorded):
        photograph = tmp_path / "share" / "ctnet" / "examples" / "cat.jpg"
        photograph.parent.mkdir(parents=True)
        photograph.touch()
        distribution = tmp_path / "site-packages" / "ctnet-9.dist-info"
        distribution.mkdir(parents=True)
        (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: ctnet\nVersion: 9\n")
        record = "../share/ctnet/examples/cat.jpg,,\n" if recorded else "ctnet/__init__.py,,\n"
        (distribution / "RECORD").write_text(record)
        monkeypatch.syspath_prepend(distribution.parent)
        found = {name: path.resolve() for name, path in find_examples().items()}
        assert found == ({"cat": photograph.resolve()} if recorded else {})

    def test_elsewhere_it_says_where_it_looked(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"looked in .*ctn-r3.*call from a clone"):
            ctnet.load("ctn-r3")
