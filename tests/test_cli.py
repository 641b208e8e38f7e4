import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import ctnet
from ctnet.cli.main import build_parser, main

COMMANDS = (
    "list", "info", "predict", "palette", "train", "train-zoo", "finetune", "eval",
    "label-tables", "import", "download", "push", "export", "bench", "demo", "data",
)  # fmt: skip


@pytest.mark.parametrize(
    "command", [*COMMANDS, "palette make", "palette edit", "palette show", "data check"]
)
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([*command.split(), "--help"])
    assert stop.value.code == 0
    assert f"ctnet {command}" in capsys.readouterr().out.split("example:")[1]


def test_help_lists_the_commands_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    groups = capsys.readouterr().out.split("options:")[0].split("\n\n")[2:-1]
    assert [group.split(":")[0] for group in groups] == ["Predict", "Models", "Train and measure"]
    listed = [line.split()[0] for group in groups for line in group.splitlines()[1:]]
    assert sorted(listed) == sorted(COMMANDS)


def test_no_command_is_a_usage_error(capsys):
    for words in ([], ["palette"], ["tables"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 2
    assert "usage: ctnet" in capsys.readouterr().err


def test_list_shows_names_and_sizes(capsys):
    assert main(["list", "ctn-*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ctnet.list_models("ctn-*")
    assert all("M parameters" in line for line in lines)


def test_info_is_json_and_names_the_folder(capsys):
    assert main(["info", "ctn-r2"]) == 0
    text, _, folder = capsys.readouterr().out.rpartition("files: ")
    assert json.loads(text)["name"] == "ctn-r2"
    assert folder.strip().endswith("ctn-r2")


def test_predict_writes_pictures_and_labels(model, photo, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["predict", str(photo), "--model", model, "--palette", "single:normals"]
    assert main([*arguments, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    written = sorted(out.iterdir())
    for name in ("composite.png", "overlay.png", "palette.png", "normals.npy", "normals_view.png"):
        path = out / f"photo_{name}"
        assert path in written
        assert str(path) in printed
    normals = np.load(out / "photo_normals.npy")
    assert normals.shape == (40, 60, 3)
    assert np.allclose(np.linalg.norm(normals, axis=2), 1, atol=1e-5)


@pytest.mark.parametrize("palette", ["R1", "R2", "Rrnd", "single:seg"])
def test_predict_takes_any_rule(model, photo, tmp_path, palette):
    arguments = ["predict", str(photo), "--model", model, "--palette", palette]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert Image.open(tmp_path / "photo_palette.png").size == (60, 40)


def test_predict_takes_a_palette_file(model, photo, tmp_path):
    file = tmp_path / "palette.png"
    asked = ctnet.Palette.single("seg", (40, 60)).paint_box((0, 0, 20, 40), "edges")
    asked.save(file)
    arguments = ["predict", str(photo), "--model", model, "--palette", str(file)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert ctnet.Palette.load(tmp_path / "out" / "photo_palette.png") == asked


def test_one_bad_file_in_a_folder_is_reported_and_the_rest_done(model, photo, tmp_path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_text("no image")
    Image.open(photo).save(folder / "b.jpg")
    out = tmp_path / "out"
    assert main(["predict", str(folder), "--model", model, "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert (out / "b_composite.png").exists()
    assert "a.jpg" in captured.err
    assert "1 of 2 inputs failed" in captured.err


def test_images_of_the_same_name_do_not_overwrite_each_other(model, photo, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (33, 44)).save(other / "photo.png")
    arguments = ["predict", str(photo), str(other), "--model", model, "--palette", "R1"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "photo_palette.png").size == (60, 40)
    assert Image.open(tmp_path / "out" / "photo_2_palette.png").size == (33, 44)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["info", "ctn-r3x"], "did you mean 'ctn-r"),
        (["list", "zzz*"], "no model matches"),
        (["predict", "no-such.jpg"], "no-such.jpg"),
        (["palette", "make", "R1", "--out", "p.png"], "--size"),
        (["palette", "make", "R2", "--size", "4x4", "--out", "p.png"], "class map"),
        (["palette", "make", "R1", "--size", "4", "--out", "p.png"], "HEIGHTxWIDTH"),
        (["palette", "make", "R9", "--size", "4x4", "--out", "p.png"], "unknown rule"),
        (["palette", "show", "no-such.png"], "no-such.png"),
        (["train", "--config", "no-such"], "recipes of the package: cpu/mhn-r1"),
        (["eval", "ctn-r2", "--data", "no-such"], "no folder no-such"),
    ],
)
def test_errors_are_one_clear_line(arguments, message, capsys):
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_palettes_are_made_edited_and_shown(tmp_path, capsys):
    labels = np.zeros((20, 30), np.uint8)
    labels[5:15, 5:15] = 15
    labels[0, 0] = 255
    Image.fromarray(labels).save(tmp_path / "labels.png")
    made, edited = tmp_path / "made.png", tmp_path / "edited.png"
    arguments = ["palette", "make", "R2", "--labels", str(tmp_path / "labels.png")]
    assert main([*arguments, "--out", str(made)]) == 0
    palette = ctnet.Palette.load(made)
    assert palette.mask("parts").sum() == 100
    assert palette.ids[0, 0] == 255
    arguments = ["palette", "edit", str(made), "--box", "normals", "0", "0", "30", "5"]
    assert main([*arguments, "--replace", "parts", "seg", "--out", str(edited)]) == 0
    palette = ctnet.Palette.load(edited)
    assert palette.mask("normals")[:5].all()
    assert palette.requested() == ("seg", "edges", "normals")
    capsys.readouterr()
    assert main(["palette", "show", str(edited)]) == 0
    assert "normals     25.0%" in capsys.readouterr().out


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "ctnet", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"ctnet {ctnet.__version__}"


def test_a_reader_that_has_enough():
    command = [sys.executable, "-m", "ctnet", "list"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.parametrize("words", [["eval", "ctn-r1"], ["train", "--config", "paper"]])
def test_what_an_extra_brings_is_named(words, tmp_path):
    (tmp_path / "data").mkdir()
    words = [*words, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    missing = "sys.modules |= dict.fromkeys(('scipy', 'skimage', 'torchmetrics'))"
    code = f"import sys; {missing}\nfrom ctnet.cli.main import main; sys.exit(main({words!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("(from a clone: pip install '.[train]').")
