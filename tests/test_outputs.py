"""Nothing is lost: no command writes over its inputs or over files that ctnet did not make."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ctnet.cli.main import main
from ctnet.evaluation.evaluate import result_path
from ctnet.outputs import check_outputs, made_by_ctnet
from ctnet.palette import Palette


@pytest.fixture
def folder(tmp_path):
    """Two photographs, one of which has the name of a result of the other."""
    rng = np.random.default_rng(0)
    for name in ("x.png", "x_overlay.png"):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def predict(*words):
    return main(["predict", *map(str, words), "--long-side", "32"])


def test_photographs_not_yet_read_are_kept(folder, capsys):
    before = contents(folder)
    pattern = str(folder / "*.png")
    for told in ((), ("--overwrite",)):
        assert predict(pattern, "--out", folder, *told) == 1
        assert "is an input of this run" in capsys.readouterr().err
        assert {name: contents(folder)[name] for name in before} == before


def test_a_file_of_the_users_is_kept_unless_told(folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    mine = out / "x_seg.png"
    shutil.copy(folder / "x.png", mine)
    before = mine.read_bytes()
    words = (folder / "x.png", "--palette", "single:seg", "--out", out)
    assert predict(*words) == 1
    assert "was not made by ctnet" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["x_seg.png"] and mine.read_bytes() == before
    assert predict(*words, "--overwrite") == 0
    assert mine.read_bytes() != before and made_by_ctnet(mine)


def test_results_are_replaced_and_never_taken_as_photographs(folder, tmp_path, capsys):
    (folder / "x_overlay.png").unlink()
    pattern = str(folder / "*.png")
    assert predict(pattern, "--palette", "single:normals", "--out", folder) == 0
    assert (folder / "x_normals.npy").exists()
    assert predict(pattern, "--palette", "single:seg", "--out", folder) == 0
    # Nothing stays of the earlier palette, and the results are no input of the second run.
    assert set(contents(folder)) == {
        "x.png", "x_composite.png", "x_overlay.png", "x_palette.png", "x_seg.png"
    }  # fmt: skip
    capsys.readouterr()
    (folder / "x.png").unlink()
    assert predict(pattern, "--out", tmp_path / "more") == 1
    assert "results of ctnet" in capsys.readouterr().err
    # A result that is named is what was asked for.
    assert predict(folder / "x_overlay.png", "--out", tmp_path / "more") == 0


def test_palettes_and_pictures_are_kept(folder, capsys):
    palette = folder / "p.png"
    Palette.single("seg", (24, 32)).save(palette)
    before = contents(folder)
    photo = folder / "x.png"
    refused = [
        ["show", palette, "--out", palette],
        ["show", palette, "--image", photo, "--out", photo],
        ["show", palette, "--out", photo],
        ["edit", palette, "--fill", "parts", "--out", palette],
        ["make", "R1", "--size", "24x32", "--out", photo],
    ]
    for words in refused:
        assert main(["palette", *map(str, words)]) == 1, words
        assert "choose another --out" in capsys.readouterr().err
    assert contents(folder) == before
    assert main(["palette", "show", str(palette), "--out", str(folder / "shown.jpg")]) == 0
    assert made_by_ctnet(folder / "shown.jpg")
    words = ["edit", palette, "--fill", "parts", "--out", palette, "--overwrite"]
    assert main(["palette", *map(str, words)]) == 0
    assert Palette.load(palette).shares() == {"parts": 1.0}


def test_files_for_other_programs_are_kept(folder, capsys):
    photo = str(folder / "x.png")
    before = contents(folder)
    commands = [
        ["export", "ctn-r1", "--format", "torchscript", "--out", photo],
        ["bench", "ctn-r1", "--sides", "32", "--batches", "1", "--rounds", "1", "--out", photo],
    ]
    for words in commands:
        assert main(words) == 1, words
        assert "was not made by ctnet" in capsys.readouterr().err
    assert contents(folder) == before


def test_two_names_of_one_file_are_one_input(folder):
    other = folder / "linked.png"
    other.hardlink_to(folder / "x.png")
    with pytest.raises(ValueError, match="input of this run"):
        check_outputs([other], [folder / "x.png"], overwrite=True)
    check_outputs([folder / "new.png"], [folder / "x.png"])


@pytest.mark.parametrize("content", [b"", b"made by me"])
def test_a_file_that_says_nothing_is_the_users(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    assert not made_by_ctnet(path) and not made_by_ctnet(tmp_path / "missing")


@pytest.mark.parametrize(
    ("model", "rule", "wanted"),
    [
        ("ctn-r1", "S", "ctn-r1_S.json"),
        ("ctn-r1", "single:seg", "ctn-r1_single-seg.json"),
        ("mine", "../../evil", "mine_evil.json"),
        ("C:\\x", "a/b", "C-x_a-b.json"),
        ("..", "/", "unnamed_unnamed.json"),
    ],
)
def test_results_stay_inside_their_folder(tmp_path, model, rule, wanted):
    assert result_path(tmp_path, model, rule) == tmp_path / wanted
