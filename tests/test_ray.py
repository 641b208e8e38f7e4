"""``ctnet predict --engine ray`` on a cluster of two workers that is started here."""

import csv
import io
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

from ctnet.batch import Predictor
from ctnet.cli.main import main
from ctnet.models.base import create
from ctnet.models.checkpoint import save_checkpoint

ray = pytest.importorskip("ray")

# Beside other tests Ray's workers would wait for a processor, as they are polite by default.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

COUNT = 500
BAD = 123
SIZE = 32, 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    model = create("ctn", "efficientnet_lite0", TINY).eval()
    return f"local-dir:{save_checkpoint(model, tmp_path_factory.mktemp('models') / 'tiny')}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """500 small photographs, one of which is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"p{number:03}.png")
    (folder / f"p{BAD}.png").write_bytes(b"no picture")
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix != ".csv"}


def workers(parent):
    """Processes of Ray's actors that run our workers, below a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    words = file.read()
                if b"ray::" in words and b"MapWorker" in words:
                    found.append(int(entry))
            except OSError:
                continue
    return found


@pytest.fixture(scope="module")
def found(checkpoint, photos, tmp_path_factory):
    """What two workers wrote, one of which was killed in the middle."""
    out = tmp_path_factory.mktemp("ray")
    words = ["predict", str(photos), "--engine", "ray", "--processes", "2", "--out", str(out)]
    words += ["--model", checkpoint, "--palette", "R1"]
    run = subprocess.Popen(
        [sys.executable, "-m", "ctnet", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while run.poll() is None and len(list(out.glob("*_composite.png"))) < COUNT // 5:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    there = workers(run.pid)
    assert len(there) == 2
    os.kill(there[0], signal.SIGKILL)
    said = run.communicate(timeout=240)
    return out, run.returncode, said


class TestCluster:
    def test_nothing_is_lost_or_done_twice(self, found, photos):
        out, status, (said, errors) = found
        assert status == 1 and f"{COUNT - 1} of {COUNT} photographs" in said
        assert f"p{BAD}.png" in errors and "Traceback" not in errors
        with (out / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert sorted(row["name"] for row in rows) == [f"p{n:03}" for n in range(COUNT)]
        assert [row["name"] for row in rows if row["error"]] == [f"p{BAD}"]
        listed = {name for row in rows for name in row["files"].split()}
        assert listed == set(contents(out))

    def test_files_are_those_of_predict(self, found, checkpoint, photos, tmp_path):
        out, _, _ = found
        words = ["predict", str(photos), "--model", checkpoint, "--palette", "R1"]
        assert main([*words, "--out", str(tmp_path), "--processes", "1"]) == 1
        assert contents(out) == contents(tmp_path)

    def test_existing_results_are_skipped(self, found, checkpoint, photos, capsys):
        out, _, _ = found
        lost = out / "p007_composite.png"
        before = lost.read_bytes()
        lost.unlink()
        words = ["predict", str(photos), "--engine", "ray", "--processes", "2", "--out", str(out)]
        words += ["--model", checkpoint, "--palette", "R1", "--existing", "skip"]
        assert main(words) == 1
        assert "1 of 2 photographs" in capsys.readouterr().out
        assert lost.read_bytes() == before

    def test_parquet(self, checkpoint, photos, tmp_path, found):
        import pyarrow.parquet as parquet

        words = ["predict", str(photos / "p00*.png"), "--engine", "ray", "--processes", "2"]
        words += ["--model", checkpoint, "--palette", "R1", "--format", "parquet"]
        assert main([*words, "--out", str(tmp_path)]) == 0
        table = parquet.read_table(tmp_path).to_pandas().set_index("name")
        assert sorted(table.index) == [f"p00{n}" for n in range(10)]
        expected = (found[0] / "p003_composite.png").read_bytes()
        assert table.loc["p003", "composite.png"] == expected
        assert main([*words, "--out", str(tmp_path), "--existing", "skip"]) == 0

    @classmethod
    def teardown_class(cls):
        ray.shutdown()


class TestPredictor:
    @pytest.mark.parametrize("given", ["bytes", "image", "path"])
    def test_columns(self, checkpoint, photos, given):
        paths = [str(photos / f"p{number:03}.png") for number in range(3)]
        values = {
            "bytes": [open(path, "rb").read() for path in paths],  # noqa: SIM115
            "image": [np.array(Image.open(path)) for path in paths],
            "path": paths,
        }
        column = np.empty(3, object)
        column[:] = values[given]
        predictor = Predictor(checkpoint, "single:seg")
        found = predictor({given: column, "number": np.arange(3)})
        assert found["number"].tolist() == [0, 1, 2] and found["error"].tolist() == [""] * 3
        assert set(predictor.columns()) <= set(found)
        seg = np.array(Image.open(io.BytesIO(found["seg.png"][1])))
        expected = predictor.model.predict(paths[1], "single:seg").labels["seg"]
        np.testing.assert_array_equal(seg, expected)
        assert found["normals.npy"][1] == b""

    def test_a_bad_row_costs_itself_only(self, checkpoint, photos):
        column = np.empty(2, object)
        column[:] = [b"no picture", (photos / "p000.png").read_bytes()]
        found = Predictor(checkpoint, "R1", files="pictures")({"bytes": column})
        assert "no picture" in found["error"][0] and not found["error"][1]
        assert not found["composite.png"][0] and found["composite.png"][1]

    def test_columns_must_be_there(self, checkpoint):
        with pytest.raises(ValueError, match="one of the columns bytes, image, path; got pixels"):
            Predictor(checkpoint)({"pixels": np.zeros(1)})


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--format", "parquet"], "go with --engine ray"),
        (["--address", "auto"], "go with --engine ray"),
    ],
)
def test_options_of_the_engine(checkpoint, photos, tmp_path, capsys, extra, message):
    words = ["predict", str(photos), "--model", checkpoint, "--out", str(tmp_path), *extra]
    assert main(words) == 1
    assert message in capsys.readouterr().err
