"""Many networks trained side by side on shared batches."""

import itertools
from dataclasses import replace

import pytest
import torch

import ctnet
from ctnet.cli.main import main
from ctnet.data.compositemt import CompositeMTMini
from ctnet.data.crop_batches import CropBatches
from ctnet.data.dataset import open_source
from ctnet.data.sampling import ClassDraws, StepDraws, count_classes, sampling_weights
from ctnet.models.config import ModelConfig
from ctnet.training.config import RECIPES, TrainConfig
from ctnet.training.trainer import Trainer
from ctnet.training.zoo_trainer import GROUPS, create_loop, train_side_by_side, train_zoo

NAMES = [name for group in GROUPS for name in group]


@pytest.fixture(scope="module")
def photographs(write_photographs, tmp_path_factory):
    splits = ("train", "train", "train", "val")
    return write_photographs(tmp_path_factory.mktemp("data"), splits=splits)


@pytest.fixture
def small(photographs):
    """Changes that make the recipes small."""
    return {
        "data": str(photographs), "pretrained_encoder": False, "crop_size": 32,
        "scale_range": (0.5, 1.0), "batch_size": 2, "steps": 2, "warmup_steps": 0, "device": "cpu",
        "source_weights": {},
        "validate_every": 2, "validate_images": 5, "held_out": False,
    }  # fmt: skip


@pytest.fixture
def config(small, tiny):
    return TrainConfig.load(
        "zoo/ctn-r1", **{**small, "name": "x", "steps": 3, "model": ModelConfig(decoder=tiny)}
    )


def shared_batches(config):
    source = open_source("compositemt", config.data, "train")
    weights = sampling_weights(source, None, {})
    classes = ClassDraws.create(
        config.class_balanced_fraction, count_classes(source, "seg"), weights
    )
    draws = StepDraws(weights, config.batch_size, config.seed, classes)
    return CropBatches(source, config.model.tasks, draws, config.crop_size, config.scale_range)


def test_every_network_of_the_issue_has_a_recipe():
    recipes = {path.stem for path in (RECIPES / "zoo").glob("*.toml")} - {"base"}
    assert recipes == set(NAMES) and len(NAMES) == len(set(NAMES))


@pytest.mark.parametrize("name", [n for n in NAMES if n[:3] in ("mhn", "stn")])
def test_short_trainings_on_cpus_differ_in_what_their_name_says(name):
    config, base = TrainConfig.load(f"cpu/{name}"), TrainConfig.load("cpu/base")
    own = {"name", "rule", "model"}
    if name == "stn-s":
        own |= {"learning_rate"}
    if "r2" in name:
        own |= {"mosaic_fraction"}
    assert {k for k, v in config.to_dict().items() if v != base.to_dict()[k]} <= own
    zoo = TrainConfig.load(f"zoo/{name}")
    assert (config.rule, config.model) == (zoo.rule, zoo.model)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_differ_only_in_what_their_name_says(name):
    config, first = TrainConfig.load(f"zoo/{name}"), TrainConfig.load("zoo/ctn-r1")
    own = {"name", "rule", "model"}
    if name == "palette-r2":
        own |= {"aux_loss_weight", "self_distillation_weight"}
    if name == "ctn-r2-r3":
        own |= {"init", "steps", "warmup_steps", "lr_decay_fraction"}
    differ = {k for k, v in config.to_dict().items() if v != first.to_dict()[k]}
    assert differ <= own
    system, _, rule = name.partition("-")
    assert config.model.system == system
    assert config.rule.lower() == rule.removeprefix("r2-") or (rule, config.rule) == ("rnd", "Rrnd")


def test_side_by_side_is_as_alone(config, tmp_path):
    configs = [replace(config, rule=rule, name=rule) for rule in ("R1", "R2", "S")]
    configs.append(replace(configs[1], name="palette", aux_loss_weight=0.0,
                           self_distillation_weight=0.0,
                           model=replace(config.model, system="palette")))  # fmt: skip
    together = [create_loop(c, tmp_path / "together" / c.name) for c in configs]
    train_side_by_side(together, shared_batches(config))
    for loop, own in zip(together, configs, strict=True):
        alone = create_loop(own, tmp_path / "alone" / own.name)
        alone.train()
        for name, value in alone.model.state_dict().items():
            assert torch.equal(value, loop.model.state_dict()[name]), (own.name, name)
    states = [loop.model.state_dict()["decoder.head.weight"] for loop in together[:3]]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(states, 2))


def test_runs_of_different_lengths_and_resumed_ones(config, tmp_path):
    first = replace(config, name="a", steps=2, validate_every=1)
    second = replace(first, name="b", steps=3)
    whole = [create_loop(c, tmp_path / "whole" / c.name) for c in (first, second)]
    train_side_by_side(whole, shared_batches(config))
    assert [loop.step for loop in whole] == [2, 3]

    half = create_loop(second, tmp_path / "half")
    batches = shared_batches(config)
    half.advance(half.requests.ask(batches[0], 0))
    half.close()
    resumed = create_loop(second, tmp_path / "half")
    assert resumed.step == 1
    train_side_by_side([resumed], batches)
    expected = whole[1].model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in resumed.model.state_dict().items())


def test_runs_that_cannot_share(config, tmp_path):
    loops = [
        create_loop(replace(config, name=f"{size}", crop_size=size), tmp_path / f"{size}")
        for size in (32, 64)
    ]
    with pytest.raises(ValueError, match="share crop_size"):
        train_side_by_side(loops, shared_batches(config))


@pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
def test_rule_s_supervises_every_label(config, tmp_path, system):
    model = replace(config.model, system=system)
    trainer = Trainer(replace(config, rule="S", model=model), tmp_path)
    shared = shared_batches(config)[0]
    sample = trainer.requests.ask(shared, 0)
    assert (sample.palette == 255).all()
    trainer.model.train()
    total, parts = trainer.compute_loss(sample)
    assert set(parts) == set(trainer.model.tasks)
    total.backward()
    heads = [p for n, p in trainer.model.named_parameters() if n.endswith("head.weight")]
    assert len(heads) == (1 if system == "ctn" else 5)
    assert all(head.grad.abs().max() > 0 for head in heads)


def test_the_zoo_trains_and_goes_on(small, tmp_path):
    names = ["ctn-r2", "palette-r2", "ctn-r2-r3"]
    first = dict(train_zoo(tmp_path, names, **small))
    assert list(first) == names
    for name, folder in first.items():
        assert ctnet.load(f"local-dir:{folder}").config.system == name.split("-")[0]
    run = TrainConfig.load("zoo/ctn-r2-r3")
    assert run.init == "runs/zoo/ctn-r2"
    before = {name: (tmp_path / name / "state.pt").stat().st_mtime_ns for name in names}
    assert dict(train_zoo(tmp_path, names, **small)) == first
    assert before == {name: (tmp_path / name / "state.pt").stat().st_mtime_ns for name in names}


def test_the_zoo_decodes_every_photograph_once(small, tmp_path, monkeypatch):
    loaded = []
    load = CompositeMTMini.load

    def counting(self, index):
        if self.split == "train":
            loaded.append(index)
        return load(self, index)

    monkeypatch.setattr(CompositeMTMini, "load", counting)
    list(train_zoo(tmp_path, ["ctn-r1", "mhn-r2", "ctn-r3"], **small))
    assert sorted(loaded) == [0, 1, 2]


def test_unknown_names_of_the_zoo(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'ctn-r2'"):
        list(train_zoo(tmp_path, ["ctn-2"]))


def test_command_line(photographs, tmp_path, capsys, monkeypatch):
    recipe = RECIPES / "zoo/base.toml"
    small = recipe.read_text()
    changes = {
        "crop_size = 224": "crop_size = 32", "8000": "1", "ecssd = 2.0": "", "nyu = 4.0": "",
        "validate_images = 50": "validate_images = 5", "held_out = true": "",
    }  # fmt: skip
    for old, new in changes.items():
        assert old in small
        small = small.replace(old, new)
    folder = tmp_path / "recipes/zoo"
    folder.mkdir(parents=True)
    (folder / "base.toml").write_text("pretrained_encoder = false\n" + small)
    (folder / "mhn-r2.toml").write_text((RECIPES / "zoo/mhn-r2.toml").read_text())
    monkeypatch.setattr("ctnet.training.config.RECIPES", tmp_path / "recipes")
    words = ["--data", str(photographs), "--device", "cpu", "--out", str(tmp_path / "runs")]
    assert main(["train-zoo", "--only", "mhn-r2", "--batch-size", "2", *words]) == 0
    assert "mhn-r2: " in capsys.readouterr().out
    assert ctnet.load(f"local-dir:{tmp_path / 'runs/mhn-r2/checkpoint'}").config.system == "mhn"
