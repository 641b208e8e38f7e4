"""Runs that are stopped, diverge, or find other things than they were made of."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_encoder import TinyEncoder
from torch import Tensor
from tqdm import tqdm
from training_worker import base

from ctnet.blocks.encoders import BUILDERS
from ctnet.cli.main import main
from ctnet.models.base import build
from ctnet.training import loop
from ctnet.training.config import TrainConfig
from ctnet.training.loop import DivergedError
from ctnet.training.run_folder import RunFolder
from ctnet.training.stop import RunStoppedError, StopSignals
from ctnet.training.trainer import Trainer

PATIENCE = 300
"""Seconds until a process counts as hanging."""


@pytest.fixture(autouse=True)
def small_and_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, "tiny", lambda _: TinyEncoder())
    monkeypatch.setattr(loop, "tqdm", partial(tqdm, disable=True))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture
def data(tmp_path: Path, write_photographs: Callable[..., Path]) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    return write_photographs(root, splits=("train",) * 4 + ("val",))


@pytest.fixture
def config(data: Path) -> TrainConfig:
    return replace(base(data), crop_size=32, steps=6, validate_every=3)


@pytest.fixture
def rule_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('[classes]\nbackground = "edges"\ncat = "seg"\ndog = "seg"\n')
    return path


def signal_at(trainer: Trainer, step: int, number: int, times: int = 1) -> None:
    """Sends this process a signal in the forward pass of a step."""

    def send(*_: Any) -> None:
        if trainer.step == step and trainer.model.training:
            for _ in range(times):
                os.kill(os.getpid(), number)

    trainer.model.decoder.register_forward_hook(send)


def state_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_from_the_step_it_was_in(
    config: TrainConfig, tmp_path: Path, number: int
) -> None:
    whole = Trainer(config, tmp_path / "whole").train()
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    trainer = Trainer(config, tmp_path / "run")
    signal_at(trainer, 3, number)
    with pytest.raises(RunStoppedError, match=r"the same command goes on from step 4 of 6"):
        trainer.train()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    resumed = Trainer(config, tmp_path / "run")
    assert resumed.step == 4
    assert_same(resumed.train().state_dict(), whole.state_dict())
    losses = [
        [
            row
            for row in csv.reader((tmp_path / name / "losses.csv").open())
            if row[1] in whole.tasks
        ]
        for name in ("whole", "run")
    ]
    assert losses[0] == losses[1]


def test_a_second_signal_does_not_wait(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path)
    signal_at(trainer, 3, signal.SIGINT, times=2)
    with pytest.raises(RunStoppedError, match="goes on from step 3 of 6"):
        trainer.train()
    assert state_of(tmp_path)["step"] == 3


def test_a_run_stopped_before_its_first_step(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path)
    signal_at(trainer, 0, signal.SIGINT, times=2)
    with pytest.raises(RunStoppedError, match="before there was anything to save"):
        trainer.train()
    assert Trainer(config, tmp_path).step == 0


def test_a_run_stopped_in_a_validation_repeats_it(config: TrainConfig, tmp_path: Path) -> None:
    seen: list[int] = []

    def validate(_: Any, stop: bool = False) -> dict[str, float]:
        if stop:
            os.kill(os.getpid(), signal.SIGTERM)
        seen.append(1)
        return {"score": 1.0}

    for steps in (3, 6):
        trainer = Trainer(replace(config, steps=steps), tmp_path, partial(validate, stop=True))
        with pytest.raises(RunStoppedError, match=f"goes on from step {steps} of {steps}"):
            trainer.train()
        assert not seen
        # The last step is done: all that is left is to validate.
        again = Trainer(replace(config, steps=steps), tmp_path, validate)
        assert again.step == steps
        again.train()
        assert len(seen) == 1
        seen.clear()
    assert (tmp_path / "metrics.csv").read_text() == "3,score,1\n6,score,1\n"


def test_signals_take_effect_where_a_run_can_stop() -> None:
    signals = StopSignals()
    done = []
    with pytest.raises(KeyboardInterrupt), signals.caught():
        with signals.held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the step")
        done.append("never")
    together = StopSignals(waits=True)
    with pytest.raises(KeyboardInterrupt), together.caught():
        os.kill(os.getpid(), signal.SIGTERM)
        assert together.requested
        with together.held():
            done.append("the others' step")
        with together.held(waits=False):
            done.append("never")
    assert done == ["the step", "the others' step"]


def test_a_validation_that_fails_costs_nothing(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def validate(_: Any) -> dict[str, float]:
        raise ZeroDivisionError("nothing to measure")

    trainer = Trainer(config, tmp_path, validate)
    assert_same(trainer.train().state_dict(), dict(trainer.average))
    assert state_of(tmp_path)["step"] == 6
    said = capsys.readouterr().err
    assert said.count("not validated, ZeroDivisionError: nothing to measure") == 2


def test_the_state_is_saved_by_time(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_SECONDS", 0.0)
    trainer = Trainer(replace(config, validate_every=100), tmp_path)
    saved = []
    write = RunFolder.write_state
    monkeypatch.setattr(
        RunFolder,
        "write_state",
        lambda self, state: (saved.append(state["step"]), write(self, state)),
    )
    trainer.train()
    assert saved == [1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(loop, "SAVE_SECONDS", 3600.0)
    saved.clear()
    Trainer(replace(config, validate_every=100), tmp_path / "seldom").train()
    assert saved == [6]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(
    config: TrainConfig, tmp_path: Path, poison: float
) -> None:
    trainer = Trainer(config, tmp_path, lambda _: {"score": 1.0})
    trainer.model.decoder.register_forward_hook(
        lambda module, _, output: output * poison if trainer.step == 4 else None
    )
    with pytest.raises(DivergedError) as caught:
        trainer.train()
    said = str(caught.value)
    assert f"{config.name} diverges: at step 5 the loss is not finite (" in said
    assert "total nan" in said and "learning rate" in said
    assert f'{tmp_path} keeps the state of step 3: another run starts there by init = "' in said
    good = {name: torch.load(tmp_path / "state.pt", weights_only=True) for name in ("state",)}
    assert good["state"]["step"] == 3
    # The state that was kept is one to go on from, as the message says.
    other = replace(config, init=str(tmp_path), learning_rate=1e-5)
    Trainer(other, tmp_path / "other").train()


def test_weights_that_are_not_finite_replace_nothing(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path, lambda _: {"score": 1.0})
    step = trainer.train_step

    def spoil(sample: Any) -> dict[str, float]:
        losses = step(sample)
        if trainer.step == 5:
            with torch.no_grad():
                trainer.model.decoder.head.weight[0] = float("inf")
        return losses

    trainer.train_step = spoil  # type: ignore[method-assign]
    before: dict[str, bytes] = {}
    advance = trainer.advance

    def watch(sample: Any) -> dict[str, float]:
        if trainer.step == 5:
            before.update({path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")})
        return advance(sample)

    trainer.advance = watch  # type: ignore[method-assign]
    with pytest.raises(DivergedError, match=r"at step 6 decoder\.head\.weight is not finite"):
        trainer.train()
    assert state_of(tmp_path)["step"] == 3
    assert {"best.safetensors", "last.safetensors"} == before.keys()
    assert all((tmp_path / name).read_bytes() == content for name, content in before.items())


def test_gradients_that_stay_infinite_end_the_run(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "MOST_SKIPPED", 3)
    trainer = Trainer(config, tmp_path)
    trainer.model.decoder.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(DivergedError, match="at step 4 3 gradients in a row were not finite"):
        trainer.train()


def test_a_diverged_command_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "wild.toml"
    recipe.write_text(RECIPE + "learning_rate = 1e30\ngrad_clip_norm = 1e30\nlogit_scale = 20\n")
    words = ["train", "--config", str(recipe), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*words, "--steps", "50"]) == 1
    said = capsys.readouterr()
    assert said.err.count("ctnet: wild diverges: at step ") == 1
    assert "weights:" not in said.out and not (tmp_path / "run/checkpoint").exists()


def refused(config: TrainConfig, folder: Path) -> str:
    """Returns why a run does not go on."""
    with pytest.raises(ValueError, match="holds another run") as caught:
        Trainer(config, folder)
    return str(caught.value)


def test_another_rule_in_the_same_file(
    config: TrainConfig, tmp_path: Path, rule_file: Path
) -> None:
    config = replace(config, rule=str(rule_file))
    Trainer(config, tmp_path / "run").train()
    content = rule_file.read_text()
    rule_file.write_text(f'# As before.\nname = "renamed"\n{content}'.replace("\ncat", "\n\ncat "))
    assert Trainer(config, tmp_path / "run").step == 6
    rule_file.write_text(content.replace('dog = "seg"', 'dog = "parts"'))
    assert "rule (dog: parts, then seg)" in refused(config, tmp_path / "run")
    rule_file.write_text(content.replace('dog = "seg"', ""))
    assert "rule (dog: nothing, then seg)" in refused(config, tmp_path / "run")
    for name, what in (("R1", "kind: mosaic, then semantic"), ("S", "kind: S, then semantic")):
        assert what in refused(replace(config, rule=name), tmp_path / "run").replace(
            "background: nothing, then edges", what
        )


def repaint(path: Path) -> None:
    """Changes a pixel of a class map."""
    pixels = np.array(Image.open(path))
    pixels[0, 0] = (pixels[0, 0] + 1) % 21
    Image.fromarray(pixels).save(path)


def test_other_data_in_the_same_folder(config: TrainConfig, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    Trainer(config, folder).train()
    repaint(data / "voc_1.seg.png")
    assert "data (1 of 4 photographs changed: voc_1)" in refused(config, folder)
    index = (data / "index.csv").read_text()
    (data / "index.csv").write_text(index.replace("voc_2,train", "voc_2,val"))
    assert "photographs gone: voc_2)" in refused(config, folder)
    (data / "index.csv").write_text(index.replace("voc_4,val", "voc_4,train"))
    assert "photographs new: voc_4)" in refused(config, folder)
    rows = index.splitlines()
    rows[1] = rows[1].rpartition(",")[0] + ","
    (data / "index.csv").write_text("\n".join(rows))
    assert "2 of 4 photographs changed: voc_0, voc_1" in refused(config, folder)


def test_other_weights_by_the_same_name(config: TrainConfig, tmp_path: Path) -> None:
    first = replace(config, learning_rate=0.1)
    Trainer(first, tmp_path / "first").train()
    config = replace(config, init=str(tmp_path / "first"))
    Trainer(config, tmp_path / "run").train()
    shutil.rmtree(tmp_path / "first")
    Trainer(replace(first, seed=5), tmp_path / "first").train()
    assert "weights to start from" in refused(config, tmp_path / "run")
    given = build(config.model).state_dict()
    with pytest.raises(ValueError, match="weights to start from"):
        Trainer(config, tmp_path / "run", weights=given)


def test_paths_may_change(
    config: TrainConfig,
    data: Path,
    tmp_path: Path,
    rule_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = Trainer(config, tmp_path / "start")
    start.train()
    config = replace(config, rule=str(rule_file), init=str(tmp_path / "start"))
    Trainer(config, tmp_path / "run").train()
    shutil.copytree(data, tmp_path / "copy")
    rule_file.rename(tmp_path / "moved.toml")
    monkeypatch.chdir(tmp_path)
    config = replace(config, data="./copy", rule="moved.toml", init="./start/", steps=7)
    for folder in ("run", "./run", tmp_path / "run"):
        trainer = Trainer(config, folder)
        assert trainer.step == 6
        trainer.close()


def test_one_training_a_folder(config: TrainConfig, tmp_path: Path) -> None:
    first = Trainer(config, tmp_path)
    with pytest.raises(ValueError, match=r"another training runs in .*wait for its end, or choose"):
        Trainer(config, tmp_path)
    first.train()
    # A run that was refused leaves the folder to others, too.
    with pytest.raises(ValueError, match="holds another run"):
        Trainer(replace(config, learning_rate=1.0), tmp_path)
    code = (
        "import sys; from ctnet.training.run_folder import RunFolder\n"
        "folder = RunFolder(sys.argv[1]); folder.lock(); print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"in\n"
    with pytest.raises(ValueError, match="another training runs"):
        Trainer(config, tmp_path)
    other.kill()
    other.communicate()
    assert Trainer(config, tmp_path).step == 6


RECIPE = """
pretrained_encoder = false
crop_size = 32
scale_range = [0.5, 1.0]
batch_size = 3
workers = 1
device = "cpu"
precision = "fp32"
validate_every = 1000000
validate_images = 2
"""


@pytest.mark.parametrize(("number", "processes"), [("SIGTERM", 1), ("SIGINT", 2)])
def test_a_stopped_command(data: Path, tmp_path: Path, number: str, processes: int) -> None:
    recipe, folder = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(RECIPE)
    words = [sys.executable, "-m", "ctnet", "train", "--config", str(recipe), "--out", str(folder)]
    words += ["--data", str(data)] + (["--processes", "2"] if processes == 2 else [])
    command = subprocess.Popen(
        [*words, "--steps", "1000000"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    end = time.monotonic() + PATIENCE
    while not (folder / "losses.csv").exists() and time.monotonic() < end:
        assert command.poll() is None
        time.sleep(0.2)
    second = subprocess.run([*words, "--steps", "9"], capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"another training runs in {folder}" in second.stderr
    # As a terminal does, to all processes; SIGTERM goes to one alone.
    kill = os.killpg if number == "SIGINT" else os.kill
    kill(command.pid, getattr(signal, number))
    _, said = command.communicate(timeout=PATIENCE)
    assert command.returncode == 130, said
    lines = [line for line in said.replace("\r", "\n").splitlines() if "img/s" not in line]
    spoken = [line for line in lines if line.strip() and "step/s" not in line and "?" not in line]
    step = state_of(folder)["step"]
    assert spoken[-1:] == [f"ctnet: stopped; the same command goes on from step {step} of 1000000."]
    assert "Traceback" not in said and "Warning" not in said
    assert step >= 20
    last = subprocess.run([*words, "--steps", f"{step + 1}"], capture_output=True, check=False)
    assert last.returncode == 0, last.stderr
    assert state_of(folder)["step"] == step + 1
