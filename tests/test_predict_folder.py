"""``ctnet predict`` on folders: several processes, and what is written."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from ctnet.cli.main import main
from ctnet.models.base import create
from ctnet.models.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = create("ctn", "efficientnet_lite0", TINY).eval()
    return f"local-dir:{save_checkpoint(model, tmp_path_factory.mktemp('models') / 'tiny')}"


@pytest.fixture
def photos(tmp_path, rng):
    """Seven files, of which the fourth is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        pixels = rng.integers(0, 256, (30 + number, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number}.png")
    (folder / "p3.png").write_bytes(b"no picture")
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_processes_write_what_one_process_writes(checkpoint, photos, tmp_path, capfd):
    words = ["predict", str(photos), "--model", checkpoint, "--palette", "R1"]
    said = []
    for count in (1, 2):
        out = tmp_path / f"out{count}"
        assert main([*words, "--out", str(out), "--processes", str(count)]) == 1
        shown = capfd.readouterr()
        assert shown.err.count("p3.png") == 1 and "1 of 7 inputs failed" in shown.err
        assert "Traceback" not in shown.err
        said.append(shown.out.replace(f"out{count}", "out"))
    assert said[0] == said[1]
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")
    order = [line.split(":")[0] for line in said[0].splitlines() if not line.startswith(" ")]
    assert order == [str(photos / f"p{number}.png") for number in (0, 1, 2, 4, 5, 6)]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("labels", {"normals.npy", "palette.png"}),
        ("pictures", {"composite.png", "overlay.png", "normals_view.png"}),
        (
            "all",
            {"normals.npy", "palette.png", "composite.png", "overlay.png", "normals_view.png"},
        ),
    ],
)
def test_files(checkpoint, photos, tmp_path, files, expected):
    words = ["predict", str(photos / "p0.png"), "--model", checkpoint, "--files", files]
    words += ["--palette", "single:normals", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"p0_{x}" for x in expected}
    before = contents(tmp_path / "out")
    assert main([*words, "--existing", "skip"]) == 0
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("extra", [["--side-by-side", "x.mp4"], ["--device", "meta"]])
def test_processes_are_for_photographs_on_a_cpu(checkpoint, photos, tmp_path, capsys, extra):
    words = ["predict", str(photos), "--model", checkpoint, "--processes", "2", *extra]
    assert main([*words, "--out", str(tmp_path / "out")]) != 0
    assert "--processes is for photographs on a CPU" in capsys.readouterr().err


def test_a_killed_process_ends_the_run_with_a_clear_word(checkpoint, tmp_path, rng):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(200):
        Image.fromarray(rng.integers(0, 256, (200, 300, 3), np.uint8)).save(
            folder / f"p{number}.jpg"
        )
    out = tmp_path / "out"
    words = ["predict", str(folder), "--model", checkpoint, "--out", str(out), "--processes", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "ctnet", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    while run.poll() is None and not (out.is_dir() and len(list(out.iterdir())) > 8):
        time.sleep(0.05)
    children = f"/proc/{run.pid}/task/{run.pid}/children"
    with open(children) as file:
        os.kill(int(file.read().split()[-1]), signal.SIGKILL)
    watchdog = threading.Timer(60, run.kill)
    watchdog.start()
    said = run.communicate()[1]
    watchdog.cancel()
    assert run.returncode == 1
    assert "a process was killed" in said and "Traceback" not in said
