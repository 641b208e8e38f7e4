"""Several processes train one network as one process would."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import run as torchrun
from training_worker import CASES, STEPS, base, config_of, normalize, prepare, run

import ctnet
from ctnet.cli.main import main
from ctnet.data.dataset import open_source
from ctnet.data.sampling import StepDraws
from ctnet.models.checkpoint import save_checkpoint
from ctnet.training.distributed import joined, own_rows, own_workers
from ctnet.training.launch import launch
from ctnet.training.trainer import Trainer

WORKER = Path(__file__).with_name("training_worker.py")
KILLED = "ctn-S"
"""The case that is killed and goes on."""

PATIENCE = 900
"""Seconds until a process counts as hanging; a busy machine takes minutes."""

LABELED = (
    "seg parts edges saliency normals", "seg normals", "seg edges saliency", "normals", "parts seg",
    "saliency normals edges",
)  # fmt: skip
"""Tasks that each photograph has labels for."""


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """torchrun, run in this process, leaves its handlers behind."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_photographs: Any) -> Path:
    """Photographs of which each lacks other labels, so that processes differ in what they have."""
    root = tmp_path_factory.mktemp("data")
    write_photographs(root, splits=("train",) * len(LABELED) + ("val",), size=(64, 72))
    with (root / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, tasks in zip(rows, LABELED, strict=False):
        row.update({task: "" for task in ctnet.tasks.DEFAULT_TASKS if task not in tasks.split()})
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this process train as the worker does."""
    from ctnet.blocks.encoders import BUILDERS
    from ctnet.training import loop

    for name in ("tqdm", "LOG_EVERY"):
        monkeypatch.setattr(loop, name, getattr(loop, name))
    monkeypatch.setitem(BUILDERS, "tiny", lambda _: None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    prepare()


@pytest.fixture(scope="module")
def together(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes made of all cases."""
    out = tmp_path_factory.mktemp("together")
    assert launch(2, [str(WORKER), str(data), str(out), "parts", *CASES]) == 0
    return out


def load(file: Path) -> Any:
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(
    case: str, data: Path, together: Path, tmp_path: Path, prepared: None
) -> None:
    alone = run(case, data, tmp_path / "alone")
    first, second = (load(together / f"{case}-{number}.pt") for number in range(2))
    assert len(alone["losses"]) == len(first["losses"]) == config_of(case, data).steps
    for step, (expected, found) in enumerate(zip(alone["losses"], first["losses"], strict=True)):
        assert found == pytest.approx(expected, rel=1e-8), step
    assert first["losses"] == second["losses"]
    assert alone["losses"][0] != alone["losses"][-1]
    for state in ("model", "average", "final"):
        assert first[state].keys() == alone[state].keys()
        for name, value in alone[state].items():
            exact = {} if state == "final" else {"rtol": 1e-6, "atol": 1e-7}
            torch.testing.assert_close(first[state][name], value, **exact)
            assert torch.equal(first[state][name], second[state][name]), name


def test_processes_differ_in_what_they_have(data: Path) -> None:
    """What the comparison above stands on: tasks that only one process has a label for."""
    config = base(data)
    source = open_source("compositemt", data, "train")
    weights = torch.ones(len(source.ids))
    differ = 0
    draws = StepDraws(weights, config.batch_size, config.seed)
    for keys in (draws[step] for step in range(STEPS)):
        tasks = [
            {t for d in rows for t in LABELED[d.image].split()} for rows in (keys[:1], keys[1:])
        ]
        differ += tasks[0] != tasks[1] and bool(tasks[1] - tasks[0]) and bool(tasks[0] - tasks[1])
    assert differ > 3


@pytest.mark.parametrize("case", CASES)
def test_only_the_first_process_writes(case: str, data: Path, together: Path) -> None:
    written = {path.name for path in (together / f"{case}-0").iterdir()}
    config = config_of(case, data)
    wanted = {"last.safetensors", "state.pt", "run.json", "losses.csv", ".lock"}
    if config.class_weight_power:
        wanted |= {"balance-seg.csv", "classes.csv", "log.txt"}
        wanted |= set() if config.model.system == "palette" else {"balance-parts.csv"}
    assert written == wanted
    assert not (together / f"{case}-1").exists()
    rows = list(csv.reader((together / f"{case}-0/losses.csv").open()))
    assert [int(step) for step, name, _ in rows if name == "images_per_s"] == list(
        range(1, config_of(case, data).steps + 1)
    )


@pytest.mark.parametrize("norm", ["plain", "conditioned"])
@pytest.mark.parametrize("split", [0, 2])
def test_norms_see_the_whole_batch(norm: str, split: int, together: Path) -> None:
    found = [load(together / f"parts-{number}.pt")["norms"][f"{norm}-{split}"] for number in (0, 1)]
    assert [len(part["y"]) for part in found] == [split, 5 - split]
    for name, expected in normalize(norm, slice(0, 5)).items():
        if name in ("x", "y"):
            whole = torch.cat([part[name] for part in found])
            torch.testing.assert_close(whole, expected, rtol=1e-10, atol=1e-10)
            continue
        for part in found:
            torch.testing.assert_close(part[name], expected, rtol=1e-10, atol=1e-10)


def test_what_processes_share(together: Path) -> None:
    first, second = (load(together / f"parts-{number}.pt") for number in range(2))
    assert (first["rows"], second["rows"]) == ((slice(0, 2), 2), (slice(2, 5), 2))
    assert first["anywhere"] == second["anywhere"] == [False, True, True]
    for whole, (one, other) in zip(
        (torch.tensor([4.0, 0, 1, 2, 3]), torch.tensor([1, 0, 0, 0, 1]).bool()),
        zip(first["before"], second["before"], strict=True), strict=True,
    ):  # fmt: skip
        assert torch.equal(torch.cat([one, other]), whole.to(one))
    for name, expected in (("mean", 2.0), ("weighted", 40 / 15)):
        assert first[name] + second[name] == pytest.approx(expected)
    assert (first["none"], second["none"]) == (0, 3)
    assert first["losses"] == second["losses"] == {"seg": 3.0, "edges": 4.0}
    assert first["from_main"] == second["from_main"] == "rank 0"
    assert first["file"] == second["file"] == b"from 0"
    assert first["missing"] is second["missing"] is None
    assert first["same"] == second["same"] == first["different"] == ""
    assert second["different"] == "process 1 has another color than process 0."
    for part in (first, second):
        assert part["few"] == "a batch of 1 cannot be shared by 2 processes."
        assert "0 is a BatchNorm1d" in part["norm"] and "frozen_statistics" in part["norm"]
        assert part["frozen"] == ""


def test_gradients_are_summed(together: Path) -> None:
    for number in range(2):
        gradients = load(together / f"parts-{number}.pt")["gradients"]
        # In the second round processes have twice and three times the values.
        for gradient, factor in zip(gradients, (5, 5, 2), strict=False):
            values = torch.arange(float(gradient.numel()), dtype=torch.float64)
            assert torch.equal(gradient, factor * values.view(gradient.shape))
        assert gradients[3] is None


def start_by_hand(data: Path, out: Path, kill: str = "") -> list[subprocess.Popen[str]]:
    """Starts two workers without torchrun, by the variables that it would set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(data), str(out), KILLED],
            env=os.environ | common | {"RANK": str(number), "CTNET_TEST_KILL": kill},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def test_killed_runs_end_and_go_on(
    data: Path, together: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    workers = start_by_hand(data, tmp_path, kill="1:7")
    _, said = workers[0].communicate(timeout=PATIENCE)
    assert [worker.wait(timeout=PATIENCE) for worker in workers] == [1, -9], said
    assert "process 0: another process of this run has stopped" in said
    assert "start the same command again" in said

    words = [str(WORKER), str(data), str(tmp_path), KILLED]
    monkeypatch.setenv("CTNET_TEST_KILL", "0:11")
    assert launch(2, words) == 1
    assert "process 0 of this run was ended by SIGKILL" in capfd.readouterr().err

    monkeypatch.setenv("CTNET_TEST_KILL", "parent:16")
    code = "import sys; from ctnet.training.launch import launch; launch(2, sys.argv[1:])"
    command = [sys.executable, "-c", code, *words]
    # What the workers inherit is open until they too have ended.
    launcher = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert launcher.returncode == -signal.SIGKILL
    assert "what started this process has ended" in launcher.stderr

    monkeypatch.delenv("CTNET_TEST_KILL")
    assert launch(2, words) == 0
    for number in range(2):
        resumed = load(tmp_path / f"{KILLED}-{number}.pt")
        at_once = load(together / f"{KILLED}-{number}.pt")
        assert resumed["first"] == 15
        assert resumed["losses"] == at_once["losses"][15:]
        for state in ("model", "average", "final"):
            for name, value in at_once[state].items():
                assert torch.equal(resumed[state][name], value), name
    assert not (tmp_path / f"{KILLED}-1").exists()
    rows, expected = (
        [row for row in csv.reader((folder / f"{KILLED}-0/losses.csv").open())
         if row[1] != "images_per_s"]
        for folder in (tmp_path, together)
    )  # fmt: skip
    assert rows == expected


RECIPE = """
pretrained_encoder = false
crop_size = 32
scale_range = [0.5, 1.0]
batch_size = 3
steps = 2
workers = 2
device = "cpu"
precision = "fp32"
validate_every = 2
validate_images = 2
"""


def test_command_lines(
    data: Path, tmp_path: Path, make_model: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(RECIPE)
    folder = tmp_path / "run"
    words = ["train", "--config", str(recipe), "--data", str(data), "--out", str(folder)]
    assert main([*words, "--processes", "2"]) == 0
    said = capfd.readouterr().out
    assert said.count("6 images at ") == 1 and "images/s, processes: 2" in said
    assert said.count("weights: ") == 1
    assert ctnet.load(f"local-dir:{folder / 'checkpoint'}").config.system == "ctn"
    assert "score" in (folder / "metrics.csv").read_text()

    start = f"local-dir:{save_checkpoint(make_model(), tmp_path / 'start')}"
    words = ["finetune", start, "--rule", "R1", "--data", str(data), "--recipe", str(recipe)]
    words += ["--out", str(tmp_path / "tuned"), "--limit", "1"]
    torchrun.main(["--standalone", "--nproc-per-node", "2", "-m", "ctnet", *words])
    said = capfd.readouterr().out
    assert said.count("before  ") == said.count("after   ") == 1
    assert ctnet.load(f"local-dir:{tmp_path / 'tuned/checkpoint'}")


def test_alone(data: Path, tmp_path: Path) -> None:
    with joined():
        assert own_rows(3) == slice(0, 3)
        assert own_workers(5) == 5


@pytest.fixture
def torchrun_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": "1"}  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--config", "paper", "--processes", "3"], "started 2 processes; got --proc"),
        (["train", "--config", "paper", "--device", "mps"], "cpu or cuda; got mps"),
        (["train", "--config", "paper", "--device", "cuda:0"], "cpu or cuda; got cuda:0"),
        (["train-zoo"], "train-zoo runs in one process"),
    ],
)
def test_what_torchrun_cannot_do(
    words: list[str], message: str, torchrun_of_two: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("ctnet, process 1: ")


def test_a_gpu_for_each_process(torchrun_of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="number 2 on a machine with 1"), joined("cuda"):
        pass


@pytest.mark.parametrize("processes", ["0", "-1"])
def test_too_few_processes(processes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "paper", "--processes", processes]) == 1
    assert "processes must be at least 1" in capsys.readouterr().err


def test_errors_come_before_processes(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "papre", "--processes", "2"]) == 1
    assert capfd.readouterr().err.count("no config at papre") == 1


def test_another_run_in_the_folder(data: Path, tmp_path: Path, prepared: None) -> None:
    run(KILLED, data, tmp_path)
    with pytest.raises(ValueError, match=r"differs in .*rule \("):
        Trainer(config_of("stn-R1", data), tmp_path)
