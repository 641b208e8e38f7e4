"""The training loop on a network and photographs of a few pixels."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoder import TinyEncoder
from torch import Tensor, nn
from tqdm import tqdm

from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.blocks.encoders import BUILDERS
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.sample import Sample
from ctnet.models.base import CompositeModel, build
from ctnet.models.config import ModelConfig
from ctnet.training import loop
from ctnet.training.config import RECIPES, TrainConfig
from ctnet.training.consistency import Consistency, ConsistencyConfig
from ctnet.training.loop import learning_rate_at
from ctnet.training.phases import Phase
from ctnet.training.trainer import Trainer
from ctnet.training.validation import validator

DECODER = DecoderConfig((8, 7, 6, 5, 4), (3, 3, 4, 4, 5), (3, 3), (4,) * 6, 6)
MODEL = ModelConfig("ctn", "tiny", DECODER)


@pytest.fixture(autouse=True)
def encoders_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Adds the encoder ``tiny``, hides the progress bar, logs every step and skips TensorBoard.

    Returns:
        Whether ImageNet weights were asked for, each time that a tiny encoder was made.
    """
    asked: list[bool] = []

    def create(pretrained: bool) -> Any:
        asked.append(pretrained)
        return TinyEncoder()

    monkeypatch.setitem(BUILDERS, "tiny", create)
    monkeypatch.setattr(loop, "tqdm", partial(tqdm, disable=True))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    return asked


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_photographs: Callable[..., Path]) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data: Path) -> TrainConfig:
    return TrainConfig(
        "tiny", MODEL, data=str(data), pretrained_encoder=False, crop_size=32,
        scale_range=(0.6, 0.9), batch_size=2, steps=2, learning_rate=1e-2, encoder_lr_scale=0.1,
        warmup_steps=0, lr_decay_fraction=0.0, precision="fp32", device="cpu", workers=0,
        validate_every=1,
    )  # fmt: skip


class Recorder:
    """A validation that keeps every model's weights and gives the scores that it was told."""

    def __init__(self, *scores: float) -> None:
        self.scores = iter(scores or itertools.repeat(0.0))
        self.states: list[dict[str, Tensor]] = []

    def __call__(self, model: CompositeModel) -> Mapping[str, float]:
        assert not model.training
        self.states.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"score": next(self.scores), "seg": 1.0}


def interrupted(calls: int) -> Callable[[CompositeModel], Mapping[str, float]]:
    """A validation that stops the run at its call of that number."""
    count = itertools.count(1)

    def validate(model: CompositeModel) -> Mapping[str, float]:
        if next(count) == calls:
            raise KeyboardInterrupt
        return {"score": 0.0, "seg": 1.0}

    return validate


def assert_equal(one: Any, other: Any, path: str = "") -> None:
    """Compares nested states bit by bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), path
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_equal(*pair, f"{path}[{number}]")
    else:
        assert one == other, path


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def read_rows(path: Path) -> dict[tuple[int, str], float]:
    with path.open(newline="") as file:
        rows = [((int(step), key), float(value)) for step, key, value in csv.reader(file)]
    assert len(rows) == len(dict(rows)), "a row is there twice"
    return dict(rows)


def test_a_resumed_run_has_the_same_numbers(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(
        config, steps=6, warmup_steps=2, lr_decay_fraction=0.5, ema_decay=0.9,
        class_weight_power=0.3, class_balanced_fraction=0.5, aux_loss_weight=0.5, frozen_stages=1,
    )  # fmt: skip
    at_once = Trainer(config, tmp_path / "a", Recorder()).train()

    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path / "b", interrupted(4)).train()
    assert max(step for step, _ in read_rows(tmp_path / "b/metrics.csv")) == 3
    torch.manual_seed(123)
    second = Trainer(replace(config, workers=1), tmp_path / "b", Recorder())
    assert second.step == 4
    resumed = second.train()

    assert_equal(at_once.state_dict(), resumed.state_dict())
    a, b = (torch.load(tmp_path / f"{run}/state.pt", weights_only=True) for run in "ab")
    assert a["step"] == 6
    for key in a.keys() - {"seconds", "config"}:
        assert_equal(a[key], b[key], key)
    assert changed(a["model"], build(MODEL).state_dict())

    losses_a, losses_b = (read_rows(tmp_path / f"{run}/losses.csv") for run in "ab")
    assert {step for step, _ in losses_a} == {1, 2, 3, 4, 5, 6}
    assert losses_a.keys() == losses_b.keys()
    for key, value in losses_a.items():
        assert value == losses_b[key] or key[1] == "images_per_s"
    metrics = read_rows(tmp_path / "b/metrics.csv")
    assert metrics == {(step, key): float(key == "seg") for step in range(1, 7)
                       for key in ("score", "seg")}  # fmt: skip


def test_another_configuration_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, tmp_path).train()
    with pytest.raises(ValueError, match=r"differs in learning_rate, rule \(aeroplane: saliency,"):
        Trainer(replace(config, learning_rate=1e-3, rule="R2"), tmp_path)
    other = replace(DECODER, embedding=7)
    with pytest.raises(ValueError, match="differs in model"):
        Trainer(replace(config, model=replace(MODEL, decoder=other)), tmp_path)
    free = replace(config, steps=3, workers=1, validate_every=7, validate_images=3, cache=False)
    trainer = Trainer(free, tmp_path)
    assert trainer.step == 2
    trainer.close()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["config"]["aux_loss_weight"]
    torch.save(state, tmp_path / "state.pt")
    trainer = Trainer(config, tmp_path)
    assert trainer.step == 2
    trainer.close()
    state["config"]["size"] = state["config"].pop("crop_size")
    torch.save(state, tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"run of another ctnet: 'size' is called 'crop_size' now"):
        Trainer(config, tmp_path)


def test_best_checkpoint_is_that_of_the_best_validation(
    config: TrainConfig, tmp_path: Path
) -> None:
    recorder = Recorder(*np.array([1.0, 3.0, 2.0, 3.0]))
    model = Trainer(replace(config, steps=4), tmp_path, recorder).train()
    assert not model.training
    assert_equal(model.state_dict(), recorder.states[1])
    assert_equal(load_file(tmp_path / "best.safetensors"), recorder.states[1])
    assert_equal(load_file(tmp_path / "last.safetensors"), recorder.states[3])
    assert changed(recorder.states[1], recorder.states[3])
    again = Trainer(replace(config, steps=4), tmp_path, recorder)
    assert again.best == 3
    assert_equal(again.train().state_dict(), recorder.states[1])
    assert json.loads((tmp_path / "run.json").read_text())["step"] == 4


def test_without_validation_the_last_checkpoint_counts(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, validate_every=50), tmp_path)
    model = trainer.train()
    assert_equal(model.state_dict(), load_file(tmp_path / "last.safetensors"))
    assert_equal(model.state_dict(), trainer.model.state_dict())
    assert not (tmp_path / "best.safetensors").exists()


def test_average_of_the_weights(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, steps=1, ema_decay=0.9), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    average = trainer.train().state_dict()
    for name, value in trainer.model.state_dict().items():
        if value.is_floating_point():
            # The decay begins at 1/10, whatever it ends at.
            torch.testing.assert_close(average[name], 0.1 * before[name] + 0.9 * value)


def test_frozen_stages_and_statistics(config: TrainConfig, tmp_path: Path) -> None:
    model = replace(MODEL, encoder="efficientnet_lite0")
    frozen = replace(config, steps=1, model=model, frozen_stages=3, frozen_statistics=True)
    trainer = Trainer(frozen, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    moved = changed(before, trainer.train().state_dict())
    parameters = {name for name, _ in trainer.model.named_parameters()}
    still = ("encoder.stem.", "encoder.stages.0.", "encoder.stages.1.")
    assert not any(name.startswith(still) for name in moved)
    assert any(name.startswith("encoder.stages.2.") for name in moved & parameters)
    statistics = moved - parameters
    assert statistics
    assert all(name.startswith("decoder.") for name in statistics)


def test_statistics_move_where_only_weights_are_frozen(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, frozen_stages=5), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    moved = changed(before, trainer.train().state_dict())
    encoder = {name for name in moved if name.startswith("encoder.")}
    assert {name.rsplit(".", 1)[1] for name in encoder} == {
        "running_mean", "running_var", "num_batches_tracked"
    }  # fmt: skip
    assert any(name.startswith("decoder.stages") for name in moved)


def test_the_encoder_learns_at_its_own_rate(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, steps=1, weight_decay=0.0), tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    after = trainer.train().state_dict()
    # Adam's first step is as large as the rate wherever there is a gradient.
    for prefix, rate in (("encoder.", 1e-3), ("decoder.stages", 1e-2), ("representation.", 1e-2)):
        steps = [
            float((after[name] - before[name]).abs().max())
            for name, _ in trainer.model.named_parameters()
            if name.startswith(prefix)
        ]
        assert max(steps) == pytest.approx(rate, rel=0.01)
    trainer = Trainer(replace(config, encoder_lr_scale=0.0), tmp_path / "still")
    before = {name: value.clone() for name, value in trainer.model.encoder.named_parameters()}
    trainer.train()
    assert not changed(before, dict(trainer.model.encoder.named_parameters()))


def test_coarse_phases_train_the_coarse_stages_alone(config: TrainConfig, tmp_path: Path) -> None:
    phases = (Phase(1, changes={"coarse_only": True}), Phase(1))
    trainer = Trainer(
        replace(config, aux_loss_weight=1.0, phases=phases), tmp_path, recorder := Recorder()
    )
    states = [parameters(trainer.model)]
    for batch in trainer.batches():
        trainer.advance(batch)
        states.append(parameters(trainer.model))
    fine = ("stages.3.", "stages.4.", "decoder.image.", "decoder.skips.0.", "decoder.head.")
    learned = changed(states[0], states[1])
    assert learned
    assert not [name for name in learned if any(part in name for part in fine)]
    learned = changed(states[1], states[2])
    assert all(any(part in name for name in learned) for part in fine)
    # What has learned at coarse strides alone cannot be measured at full resolution.
    assert len(recorder.states) == 1


def test_frozen_stages_of_a_wrapped_network(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrapped(nn.Module):
        channels, mean, std = TinyEncoder.channels, TinyEncoder.mean, TinyEncoder.std

        def __init__(self) -> None:
            super().__init__()
            self.net = TinyEncoder()

        def forward(self, x: Tensor) -> list[Tensor]:
            return list(self.net(x))

    monkeypatch.setitem(BUILDERS, "tiny", lambda _: Wrapped())
    encoder = Trainer(replace(config, frozen_stages=2), tmp_path).model.encoder
    frozen = {name.split(".")[1] for name, p in encoder.named_parameters() if not p.requires_grad}
    assert frozen == {"stage0", "stage1"}


def test_learning_rate_by_hand(config: TrainConfig) -> None:
    config = replace(config, steps=10, warmup_steps=4, lr_decay_fraction=0.5)
    factors = [learning_rate_at(step, config) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert learning_rate_at(0, replace(config, steps=1, warmup_steps=0, lr_decay_fraction=0.0)) == 1


def test_the_schedule_reaches_the_optimizer(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, steps=4, lr_decay_fraction=1.0), tmp_path)
    assert trainer.schedule.get_last_lr() == pytest.approx([1e-3, 1e-2])
    trainer.train()
    rates = {step: value for (step, key), value in read_rows(tmp_path / "losses.csv").items()
             if key == "learning_rate"}  # fmt: skip
    assert rates == pytest.approx({1: 1e-2, 2: 7.5e-3, 3: 5e-3, 4: 2.5e-3})


def test_init_from_a_file(
    config: TrainConfig, tmp_path: Path, encoders_asked_for: list[bool]
) -> None:
    torch.manual_seed(99)
    weights = build(MODEL).state_dict()
    save_file(weights, tmp_path / "init.safetensors")
    config = replace(config, init=str(tmp_path / "init.safetensors"), pretrained_encoder=True)
    trainer = Trainer(config, tmp_path / "run")
    assert_equal(trainer.model.state_dict(), weights)
    assert not any(encoders_asked_for)
    Trainer(replace(config, init=None), tmp_path / "pretrained")
    assert encoders_asked_for[-1] is True
    given = {"init": None, "encoder_weights": "imagenet.pth"}
    Trainer(replace(config, **given), tmp_path / "given")
    assert encoders_asked_for[-1] == "imagenet.pth"
    Trainer(replace(config, **given, pretrained_encoder=False), tmp_path / "scratch")
    assert encoders_asked_for[-1] is False
    with pytest.raises(RuntimeError, match=r"decoder\.head"):
        Trainer(replace(config, model=replace(MODEL, decoder="compact")), tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        Trainer(replace(config, init=str(tmp_path / "none.safetensors")), tmp_path / "missing")


def test_init_from_a_run_that_is_missing(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run at runs/absent"):
        Trainer(replace(config, init="runs/absent"), tmp_path)


def test_init_from_a_run_takes_its_auxiliary_heads(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, aux_loss_weight=1.0, ema_decay=0.5)
    first = Trainer(config, tmp_path / "first")
    first.train()
    config = replace(config, init=str(tmp_path / "first"), seed=1)
    second = Trainer(config, tmp_path / "second")
    assert_equal(second.model.state_dict(), load_file(tmp_path / "first/last.safetensors"))
    assert first.auxiliary is not None
    assert second.auxiliary is not None
    assert_equal(second.auxiliary.state_dict(), first.auxiliary.state_dict())
    Trainer(replace(config, aux_loss_weight=0.0), tmp_path / "plain")
    with pytest.raises(FileNotFoundError):
        Trainer(replace(config, init=str(tmp_path)), tmp_path / "no-run")


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_non_finite_gradients_leave_the_weights(
    config: TrainConfig, tmp_path: Path, poison: float
) -> None:
    recorder = Recorder()
    trainer = Trainer(replace(config, steps=3), tmp_path, recorder)
    trainer.model.decoder.head.weight.register_hook(
        lambda gradient: gradient * poison if trainer.step == 1 else None
    )
    trainer.train()
    parameters = {name for name, _ in trainer.model.named_parameters()}
    first, second, third = recorder.states
    assert not changed(first, second) & parameters
    assert changed(second, third) & parameters
    assert all(bool(value.isfinite().all()) for value in third.values())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_trains(
    config: TrainConfig, tmp_path: Path, precision: Any, dtype: torch.dtype
) -> None:
    trainer = Trainer(replace(config, precision=precision), tmp_path)
    if precision == "fp16":
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    seen = []
    trainer.model.decoder.head.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    trainer.train()
    assert seen == [dtype] * 2
    after = dict(trainer.model.named_parameters())
    assert len(changed(before, after)) > len(before) // 2
    assert all(v.dtype == torch.float32 and bool(v.isfinite().all()) for v in after.values())
    assert Trainer(replace(config, precision=precision), tmp_path).step == 2


@pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
def test_batches_that_ask_for_nothing(
    config: TrainConfig, tmp_path: Path, system: Any, write_photographs: Callable[..., Path]
) -> None:
    root = tmp_path / "unlabeled"
    root.mkdir()
    write_photographs(root, classes=(255, 256))
    config = replace(config, data=str(root), rule="R2", model=replace(MODEL, system=system))
    model = Trainer(config, tmp_path / "run").train()
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    rows = read_rows(tmp_path / "run/losses.csv")
    assert {key for _, key in rows} == {"learning_rate", "images_per_s"}


@pytest.mark.parametrize(("system", "decoder"), [("mhn", "decoders.{}."), ("stn", "networks.{}.")])
def test_plain_networks_learn_what_is_asked(
    config: TrainConfig, tmp_path: Path, system: Any, decoder: str
) -> None:
    config = replace(config, rule="single:normals", model=replace(MODEL, system=system))
    trainer = Trainer(config, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = changed(before, dict(trainer.model.named_parameters()))
    assert any(name.startswith(decoder.format(4)) for name in moved)
    assert not any(name.startswith(decoder.format(k)) for name in moved for k in range(4))
    rows = read_rows(tmp_path / "losses.csv")
    assert {key for _, key in rows} == {"normals", "learning_rate", "images_per_s"}


def test_tensorboard_keeps_every_step_once(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = replace(config, steps=4)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path, interrupted(3)).train()
    Trainer(config, tmp_path, interrupted(0)).train()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    for tag in ("metrics/score", "losses/learning_rate"):
        assert [event.step for event in board.Scalars(tag)] == [1, 2, 3, 4]


def test_held_out_photographs_choose_and_never_train(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_photographs: Callable[..., Path],
) -> None:
    root = write_photographs(tmp_path, splits=("train",) * 40)
    hashes = {f"voc_{n}": hashlib.sha256(f"voc_{n}".encode()).hexdigest() for n in range(40)}
    held_out = {name for name, digits in hashes.items() if int(digits[:8], 16) % 20 == 0}
    read: list[str] = []
    load = CompositeMTMini.load

    def reading(self: CompositeMTMini, index: int) -> dict[str, np.ndarray]:
        read.append(self.ids[index])
        return load(self, index)

    monkeypatch.setattr(CompositeMTMini, "load", reading)
    config = replace(config, data=str(root), held_out=True, steps=8, batch_size=10, cache=False)
    # All of a class's photographs can be drawn for it; its pixels are counted.
    config = replace(
        config, class_balanced_fraction=0.5, class_weight_power=0.3, validate_every=100
    )
    Trainer(config, tmp_path / "run").train()
    assert len(set(read)) > 30
    assert held_out and not held_out & set(read)
    read.clear()
    score = validator(config)(build(MODEL).eval())["score"]
    assert set(read) == held_out and 0 <= score <= 100


def test_batches_larger_than_the_data(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a batch of 5"):
        Trainer(replace(config, batch_size=5), tmp_path).train()


def test_config_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'rule = "R2"\nscale_range = [0.5, 1]\nlearning_rate = 1\n[model]\nsystem = "mhn"\n'
        'tasks = ["seg", "edges"]\n[loss_weights]\nseg = 2\n'
    )
    config = TrainConfig.load(file, steps=7)
    assert (config.name, config.rule, config.steps) == ("mine", "R2", 7)
    assert config.scale_range == (0.5, 1.0)
    assert config.model == ModelConfig("mhn", tasks=("seg", "edges"))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    (tmp_path / "mine.yaml").write_text("name: other\ncrop_size: 64\n")
    assert TrainConfig.load(tmp_path / "mine.yaml").crop_size == 64


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.toml")), ids=lambda path: path.stem)
def test_recipes(recipe: Path) -> None:
    name = recipe.relative_to(RECIPES).with_suffix("")
    assert TrainConfig.load(name).name == recipe.stem


def test_the_papers_recipe() -> None:
    """Section 5 of the paper; the network's parts are compared with it elsewhere."""
    config = TrainConfig.load("paper")
    assert (config.model.encoder, config.model.decoder) == ("resnet34", "paper")
    assert (config.crop_size, config.batch_size, config.steps) == (256, 10, round(4998 / 10) * 100)
    assert (config.learning_rate, config.encoder_lr_scale) == (1e-3, 0.01)
    assert config.weight_decay == 1e-5
    assert dict(config.loss_weights) == {
        "seg": 3, "parts": 4, "edges": 50, "saliency": 8, "normals": 4
    }  # fmt: skip


def test_missing_and_broken_config_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config at ctn-r9; recipes .*ctn-r1"):
        TrainConfig.load("ctn-r9")
    with pytest.raises(FileNotFoundError, match=r"none\.toml"):
        TrainConfig.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(ValueError, match=r"broken\.toml is not valid"):
        TrainConfig.load(tmp_path / "broken.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("learning_rat = 1", "unknown key 'learning_rat'.*did you mean 'learning_rate'"),
        ("[model]\nsytem = 'ctn'", "unknown key 'sytem'.*did you mean 'system'"),
        ("[model]\nsystem = 'cnt'", "unknown system 'cnt'; did you mean 'ctn'"),
        ("[loss_weights]\nedge = 3", "unknown task 'edge' in loss_weights; did you mean 'edges'"),
        ("layout = 'pascal_mt'", "unknown layout 'pascal_mt'; did you mean 'pascal-mt'"),
        ("precision = 'fp8'", "unknown precision 'fp8'.*bf16"),
        ("normals_loss = 'angle'", "unknown normals_loss 'angle'; did you mean 'angular'"),
        ("size = 224", "'size' is called 'crop_size' now"),
        ("angular = true", "'angular' is called 'normals_loss' .\"cosine\" or \"angular\". now"),
        ("[[phases]]\nsteps = 5\ndecay = 1.0", "'decay' is called 'lr_decay_fraction' now"),
        ("[consistency]\nshares = {}", "'consistency.shares' is called 'consistency.task_shares'"),
        ("steps = 1e4", "steps must be a whole number; got 10000.0"),
        ("steps = 0", "steps must be at least 1; got 0"),
        ("workers = -1", "workers must be at least 0; got -1"),
        ("learning_rate = 'high'", "learning_rate must be a number; got 'high'"),
        ("cache = 1", "cache must be true or false; got 1"),
        ("rule = 2", "rule must be text; got 2"),
        ("crop_size = 100", "crop_size must be a multiple of 32; got 100"),
        ("lr_decay_fraction = 2", "lr_decay_fraction must be from 0 to 1; got 2"),
        ("[task_shares]\nedge = 3", "unknown task 'edge' in task_shares; did you mean 'edges'"),
        ("[task_shares]\nedges = 0.5", "task_shares are whole numbers; got 0.5 for edges"),
        ("self_distillation_weight = 1.5", "self_distillation_weight must be from 0 to 1; got 1.5"),
        ("mosaic_fraction = -1.0", "mosaic_fraction must be from 0 to 1; got -1.0"),
        ("self_distillation_weight = 0.5", "self_distillation_weight needs an aux_loss_weight"),
        ("coarse_only = true", "coarse_only needs an aux_loss_weight"),
        ("class_balanced_fraction = 2.0", "class_balanced_fraction must be from 0 to 1; got 2.0"),
        ("ema_decay = 0.9\nrule = 'S'\n[consistency]\nweight = 1", "neither for S nor for palette"),
        ("[consistency]\nweight = 1.0", "consistency needs a moving average"),
        (
            "[consistency]\nwieght = 1.0",
            "unknown key 'wieght' in consistency; did you mean 'weight'",
        ),
        ("consistency = 1", r"consistency must be a table \(\[consistency\]\); got 1"),
        ("ema_decay = 1.0", "ema_decay must be .*got 1.0"),
        ("scale_range = 0.5", "scale_range is a smallest and a largest scale; got 0.5"),
        ("scale_range = [1.2, 0.5]", "scale_range is a smallest"),
        ("scale_range = [1, 2, 3]", "scale_range is a smallest"),
    ],
)
def test_config_errors_say_what_is_wrong(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(line)
    with pytest.raises(ValueError, match=message):
        TrainConfig.load(file)


@pytest.fixture
def consistent(
    config: TrainConfig, tmp_path: Path, write_photographs: Callable[..., Path]
) -> TrainConfig:
    """A run with consistency in every second step; half of its photographs have parts alone."""
    root = tmp_path / "photographs"
    root.mkdir()
    write_photographs(root)
    with (root / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:2]:
        row.update(dict.fromkeys(("seg", "edges", "saliency", "normals"), ""))
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings = ConsistencyConfig(weight=0.5, threshold=0.1, warmup_steps=3, every=2)
    return replace(
        config, data=str(root), batch_size=3, steps=6, ema_decay=0.9, consistency=settings
    )


def test_a_resumed_run_with_consistency_has_the_same_numbers(
    consistent: TrainConfig, tmp_path: Path
) -> None:
    phases = (Phase(2, "", {"coarse_only": True}), Phase(4))
    config = replace(consistent, aux_loss_weight=0.5, phases=phases)
    Trainer(config, tmp_path / "a").train()
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, tmp_path / "b", interrupted(2)).train()
    torch.manual_seed(9)
    trainer = Trainer(replace(config, workers=1), tmp_path / "b")
    assert trainer.step == 4
    trainer.train()
    whole, resumed = (torch.load(tmp_path / f"{run}/state.pt", weights_only=True) for run in "ab")
    for key in ("model", "average", "optimizer", "auxiliary"):
        assert_equal(whole[key], resumed[key], key)
    losses, again = (read_rows(tmp_path / f"{run}/losses.csv") for run in "ab")
    assert losses.keys() == again.keys()
    for key, value in losses.items():
        assert value == again[key] or key[1] == "images_per_s"
    # Every second step, but not while the fine stages wait.
    assert {step for step, key in losses if key.startswith("consistency_")} == {4, 6}
    assert any(key == "consistency_normals" for _, key in losses)


@pytest.mark.parametrize("device_data", [False, True])
def test_consistency_changes_what_is_learned(
    consistent: TrainConfig, tmp_path: Path, device_data: bool
) -> None:
    config = replace(consistent, steps=2, scale_range=(0.6, 1.0), device_data=device_data)
    found = Trainer(config, tmp_path / "a").train().state_dict()
    assert any(key.startswith("sure_") for _, key in read_rows(tmp_path / "a/losses.csv"))
    off = replace(config, consistency=replace(config.consistency, weight=0.0))
    assert changed(found, Trainer(off, tmp_path / "b").train().state_dict())
    with pytest.raises(ValueError, match="differs in consistency"):
        Trainer(config, tmp_path / "b")


def test_the_average_is_what_gives_targets(
    consistent: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Targets come from the average after the steps so far, in eval mode, without a gradient."""
    config = replace(consistent, consistency=replace(consistent.consistency, every=1), steps=3)
    trainer = Trainer(config, tmp_path)
    prepare, seen = Consistency.prepare, []

    def watch(
        self: Consistency, step: int, sample: Sample, average: Mapping[str, Tensor], rows: range
    ) -> Any:
        batch = prepare(self, step, sample, average, rows)
        seen.append((step, {k: v.clone() for k, v in average.items()}))
        assert not any(label.requires_grad for label in batch.targets.labels.values())
        return batch

    monkeypatch.setattr(Consistency, "prepare", watch)
    states = Recorder()
    trainer.validate = states
    trainer.train()
    assert [step for step, _ in seen] == [0, 1, 2]
    for number, (_, average) in enumerate(seen[1:]):
        assert_equal(average, states.states[number])
