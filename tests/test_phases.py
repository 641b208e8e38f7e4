"""Phases of a run: what holds when, resuming in any of them, and configurations as TOML."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_encoder import TinyEncoder
from torch import Tensor, nn

from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.blocks.encoders import BUILDERS
from ctnet.cli.main import main
from ctnet.data.crop_batches import CropBatches
from ctnet.models.config import ModelConfig
from ctnet.training.config import RECIPES, TrainConfig
from ctnet.training.loop import TrainingLoop
from ctnet.training.palette_trainer import PaletteTrainer
from ctnet.training.phases import PHASE_FIELDS, Phase, stretch
from ctnet.training.toml_writer import to_toml
from ctnet.training.trainer import Trainer
from ctnet.training.zoo_trainer import train_side_by_side

DECODER = DecoderConfig((8, 7, 6, 5, 4), (3, 3, 4, 4, 5), (3, 3), (4,) * 6, 6)
FROZEN = 5
"""All stages of the encoder."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_photographs: Callable[..., Path]) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data"), size=(64, 64))


@pytest.fixture
def config(data: Path) -> TrainConfig:
    """Three phases: a frozen encoder at coarse strides, all stages but the first, larger crops."""
    return TrainConfig(
        "run", ModelConfig("ctn", "tiny", DECODER), data=str(data),
        pretrained_encoder=False, crop_size=32, scale_range=(0.6, 1.2), batch_size=2, steps=7,
        learning_rate=1e-2, encoder_lr_scale=0.1, warmup_steps=0, lr_decay_fraction=0.0,
        ema_decay=0.5, aux_loss_weight=0.5, class_weight_power=0.3, precision="fp32", device="cpu",
        workers=0, validate_every=1,
        phases=(
            Phase(2, "first", {"coarse_only": True, "frozen_stages": FROZEN, "warmup_steps": 2}),
            Phase(3, "", {"encoder_lr_scale": 0.5, "frozen_stages": 1,
                          "class_balanced_fraction": 0.5,
                          "loss_weights": {"seg": 2.0}}),
            Phase(2, "last", {"crop_size": 64, "batch_size": 3, "learning_rate": 1e-3,
                              "lr_decay_fraction": 1.0,
                              "frozen_statistics": True, "task_shares": {"seg": 3}}),
        ),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_networks_and_plain_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILDERS, "tiny", lambda _: TinyEncoder())
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("ctnet.training.loop.LOG_EVERY", 1)


def score(_: nn.Module) -> Mapping[str, float]:
    return {"score": 1.0}


def run(trainer: TrainingLoop[Any], end: int) -> None:
    """Trains up to a step."""
    for sample in trainer.batches():
        trainer.advance(sample)
        if trainer.step == end:
            return


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, Mapping):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def rows(path: Path) -> dict[tuple[str, str], str]:
    found = {tuple(line.split(",")[:2]): line for line in path.read_text().splitlines()}
    return {key: line for key, line in found.items() if key[1] != "images_per_s"}


def test_what_holds_at_each_step(config: TrainConfig) -> None:
    spans = [config.span_at(step) for step in range(8)]
    assert [span.number for span in spans] == [0, 0, 1, 1, 1, 2, 2, 2]
    assert [(span.start, span.end) for span in config.spans] == [(0, 2), (2, 5), (5, 7)]
    assert [span.name for span in config.spans] == ["first", "phase 2", "last"]
    flat = [span.config for span in config.spans]
    assert [c.crop_size for c in flat] == [32, 32, 64]
    assert [c.coarse_only for c in flat] == [True, False, False]
    assert [c.encoder_lr_scale for c in flat] == [0.1, 0.5, 0.1]
    assert [dict(c.loss_weights) for c in flat][1] == {"seg": 2.0}
    assert flat[0].loss_weights == config.loss_weights
    assert [c.steps for c in flat] == [2, 3, 2]
    assert all(not c.phases and c.model == config.model for c in flat)
    alone = replace(config, phases=())
    assert alone.spans[0].config == alone and alone.span_at(3).end == 7


def test_a_run_goes_through_its_phases(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path, score)
    sizes, learning, rates, known = [], [], [], []
    watched: nn.Parameter | None = None
    before = {n: p.detach().clone() for n, p in trainer.model.encoder.named_parameters()}
    for sample in trainer.batches():
        sizes.append(tuple(sample.image.shape))
        rates.append(trainer.schedule.get_last_lr())
        trainer.advance(sample)
        learning.append({n for n, p in trainer.model.named_parameters() if p.requires_grad})
        if watched is None:
            # The first phase trains nothing of the encoder.
            watched = next(iter(trainer.optimizer.state))
        known.append(float(trainer.optimizer.state[watched]["step"]))
        if trainer.step == 2:
            after = dict(trainer.model.encoder.named_parameters())
            assert all(torch.equal(before[name], after[name]) for name in before)
    assert sizes == [(2, 3, 32, 32)] * 5 + [(3, 3, 64, 64)] * 2
    encoders = [{name for name in names if name.startswith("encoder.")} for names in learning]
    assert not encoders[0] and not encoders[1]
    assert encoders[2] and not any(name.startswith("encoder.stage0") for name in encoders[2])
    assert any(name.startswith("encoder.stage0") for name in encoders[5])
    # Adam goes on with what it knows of the decoder.
    assert known == [1, 2, 3, 4, 5, 6, 7]
    expected = [[5e-3], [1e-2], *[[5e-3, 1e-2]] * 3, [1e-4, 1e-3], [5e-5, 5e-4]]
    for found, wanted in zip(rates, expected, strict=True):
        assert found == pytest.approx(wanted)
    steps = {int(step) for step, _ in rows(tmp_path / "metrics.csv")}
    assert steps == {3, 4, 5, 6, 7}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_resumes_in_any_phase(config: TrainConfig, tmp_path: Path, workers: int) -> None:
    run(Trainer(config, tmp_path / "whole", score), 7)
    whole = torch.load(tmp_path / "whole/state.pt", weights_only=True)
    # Inside each phase and where one ends; a process with a worker is slow to start.
    for stop in (1, 2, 4, 5, 6) if workers == 0 else (4,):
        folder = tmp_path / f"{stop}"
        run(Trainer(config, folder, score), stop)
        torch.manual_seed(5)
        resumed = Trainer(replace(config, workers=workers), folder, score)
        assert resumed.step == stop
        resumed.train()
        parts = torch.load(folder / "state.pt", weights_only=True)
        for key in ("model", "average", "optimizer", "auxiliary", "step", "best"):
            assert_same(whole[key], parts[key])
        for name in ("losses.csv", "metrics.csv"):
            assert rows(tmp_path / "whole" / name) == rows(folder / name)


def test_the_log_says_which_phase_runs(config: TrainConfig, tmp_path: Path) -> None:
    Trainer(config, tmp_path).train()
    text = (tmp_path / "log.txt").read_text()
    lines = [line for line in text.splitlines() if ": phase " in line]
    assert [line.split(",")[0] for line in lines] == [
        "step 0: phase 1 of 3", "step 2: phase 2 of 3", "step 5: phase 3 of 3"
    ]  # fmt: skip
    assert "first: steps 2, coarse_only True" in lines[0] and "crop_size 64" in lines[2]
    assert "step 0: seg: share in %" in text
    assert (tmp_path / "balance-seg.csv").read_text().startswith("what,name,before,after")


def test_phases_that_have_not_begun_may_change(config: TrainConfig, tmp_path: Path) -> None:
    run(Trainer(config, tmp_path), 4)
    first, second, last = config.phases
    other = replace(last, steps=9, changes={"crop_size": 96})
    longer = replace(config, phases=(first, second, other), steps=14)
    assert Trainer(longer, tmp_path).step == 4
    changed = replace(config, phases=(first, replace(second, changes={"crop_size": 64}), last))
    with pytest.raises(
        ValueError, match="differs in frozen_stages, crop_size, encoder_lr_scale, loss_w"
    ):
        Trainer(changed, tmp_path)
    for phases in ((replace(first, steps=1), replace(second, steps=4), last), ()):
        with pytest.raises(ValueError, match="differs in phases"):
            Trainer(replace(config, phases=phases), tmp_path)


def test_phases_on_the_device(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, device_data=True), tmp_path)
    sizes = []
    for sample in trainer.batches():
        sizes.append(tuple(sample.image.shape))
        trainer.advance(sample)
    assert sizes == [(2, 3, 32, 32)] * 5 + [(3, 3, 64, 64)] * 2


def test_phases_of_a_palette_network(config: TrainConfig, tmp_path: Path) -> None:
    phases = (Phase(1, changes={"class_weight_power": 0.0}), Phase(1, changes={"crop_size": 64}))
    palette = replace(
        config, model=replace(config.model, system="palette"), rule="R2", steps=2, phases=phases
    )
    trainer = PaletteTrainer(palette, tmp_path)
    assert trainer.class_weights is None
    trainer.train()
    assert trainer.class_weights is not None
    assert trainer.class_weights.mean() == pytest.approx(1)


def test_runs_side_by_side_have_none(config: TrainConfig, tmp_path: Path) -> None:
    trainer = Trainer(config, tmp_path)
    with pytest.raises(ValueError, match="side by side have no phases; run has some"):
        train_side_by_side([trainer], CropBatches.__new__(CropBatches))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[phases]]\ncrop_size = 64", "every phase needs its steps"),
        ("[[phases]]\nsteps = 0", "steps of a phase are a whole number above 0; got 0"),
        ("[[phases]]\nsteps = 2.5", "steps of a phase .* got 2.5"),
        ("[[phases]]\nsteps = 2\nname = 3", "name of a phase must be text; got 3"),
        ("[[phases]]\nsteps = 2\nseed = 1", "a phase cannot change 'seed'.*allowed: .*batch_size"),
        ("[[phases]]\nsteps = 2\ncrop_sise = 64",
         "cannot change 'crop_sise'; did you mean 'crop_size'"),
        ("[[phases]]\nsteps = 2\n[phases.model]\nsystem = 'stn'", "cannot change 'model'"),
        ("[[phases]]\nsteps = 2\ncrop_size = 65",
         "phase 1: crop_size must be a multiple of 32; got 65"),
        ("[[phases]]\nsteps = 2\n[[phases]]\nsteps = 1\nname = 'b'\nscale_range = [2, 1]",
         "b: scale_range is a smallest"),
        ("[[phases]]\nsteps = 2\ncoarse_only = true", "phase 1: coarse_only needs an aux"),
        ("[[phases]]\nsteps = 2\n[phases.task_shares]\nsegm = 2", "phase 1: unknown task 'segm'"),
        ("phases = 3", r"phases are tables \(\[\[phases\]\]\); got 3"),
        ("phases = [3]", r"phases are tables \(\[\[phases\]\]\); got 3"),
        ("steps = 2\n[[phases]]\nsteps = 5\n[[phases]]\nsteps = 9\n[[phases]]\nsteps = 300",
         "2 steps are too few for 3 phases"),
    ],
)  # fmt: skip
def test_bad_phases_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        TrainConfig.load(file)


def test_steps_must_be_those_of_the_phases(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="the phases have 7 steps in all; got steps = 8"):
        replace(config, steps=8)


def test_other_steps_stretch_the_phases(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[[phases]]\nsteps = 10\ncrop_size = 64\n[[phases]]\nsteps = 30\n")
    assert TrainConfig.load(file).steps == 40
    short = TrainConfig.load(file, steps=9)
    assert [phase.steps for phase in short.phases] == [2, 7]
    assert (short.steps, short.span_at(1).config.crop_size) == (9, 64)
    phases = [Phase(steps) for steps in (7, 1, 2)]
    for total in (3, 4, 8, 9, 10, 23, 1000):
        lengths = [phase.steps for phase in stretch(phases, total)]
        assert sum(lengths) == total and min(lengths) > 0
        assert lengths == pytest.approx([0.7 * total, 0.1 * total, 0.2 * total], abs=1.2)


def test_every_field_that_a_phase_may_change_is_one_of_the_run() -> None:
    known = TrainConfig("x").to_dict()
    assert {*PHASE_FIELDS} <= known.keys()
    # What is chosen once for all phases.
    assert not {*PHASE_FIELDS} & {"name", "model", "data", "seed", "steps", "held_out", "phases"}


@pytest.mark.parametrize("recipe", sorted(RECIPES.rglob("*.toml")), ids=lambda p: p.stem)
def test_printed_configurations_are_read_back(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = str(recipe.relative_to(RECIPES).with_suffix(""))
    assert main(["train", "--config", name, "--seed", "7", "--print-config"]) == 0
    printed = tmp_path / "printed.toml"
    printed.write_text(capsys.readouterr().out)
    assert TrainConfig.load(printed) == TrainConfig.load(name, seed=7)


def test_configurations_of_every_kind_are_read_back(config: TrainConfig, tmp_path: Path) -> None:
    odd = replace(
        config, name='a "b" \\ \x7f é\n', init="weights.safetensors", source_weights={"my ü": 2},
        learning_rate=1, weight_decay=1e-7,
    )  # fmt: skip
    file = tmp_path / "odd.toml"
    file.write_text(odd.to_toml(), encoding="utf-8")
    assert TrainConfig.load(file) == odd


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"a": 1, "b": {}, "c": {"d": {"e": [1, 2.5, True, "x"]}}},
        {"a": [[1, 2], [3.0]], "b": [], "c": [[]]},
        {"many": [{"x": 1, "t": {"y": 2}, "l": [{"z": 3}, {"z": 4}]}, {}], "one": 1e-300},
        {"a.b": {"": {"c d": "\t\u0001\u2028"}}, "inf": float("inf")},
    ],
)
def test_tables_are_written_as_toml_has_them(values: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(values)) == values


def test_what_toml_cannot_hold() -> None:
    assert to_toml({"a": None, "b": {"c": None}}) == "\n[b]\n"
    with pytest.raises(ValueError, match="TOML has no type for"):
        to_toml({"a": [None]})
