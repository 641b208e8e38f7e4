"""Training what some tasks alone are given leaves every other task's answers as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY

import ctnet
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import DEFAULT_TASKS, TASKS
from ctnet.training.config import TrainConfig
from ctnet.training.finetune import finetune
from ctnet.training.only_tasks import TaskAffines
from ctnet.training.trainer import Trainer

SMALL = {
    "crop_size": 32, "scale_range": (0.5, 1.0), "batch_size": 2, "device": "cpu", "workers": 0,
    "validate_images": 5, "class_weight_power": 0.0, "warmup_steps": 0, "learning_rate": 1e-2,
}  # fmt: skip


@pytest.fixture
def network(make_model):
    """Network whose norms tell the tasks apart, as those of the usual widths do."""
    return make_model(decoder=replace(TINY, hidden=(32,) * len(TINY.hidden), embedding=32))


@pytest.fixture
def photographs(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return write_photographs(root, splits=("train", "train", "val"))


def answers(model, image):
    """Composites of each task alone (K,3,H,W)."""
    with torch.inference_mode():
        return torch.cat(
            [model(image, torch.full(image.shape[-2:], task)) for task in range(len(model.tasks))]
        )


def differing(one, two):
    """Tasks whose composites differ by more than rounding."""
    apart = (one - two).abs().amax((1, 2, 3))
    return {task for task, far in zip(DEFAULT_TASKS, apart, strict=True) if far > 2e-5}


@pytest.mark.parametrize("only", [("edges",), ("seg", "normals")])
@pytest.mark.parametrize("rule", ["R1", "single"])
def test_no_other_task_answers_differently(network, photographs, rng, tmp_path, only, rule):
    image = torch.from_numpy(rng.random((1, 3, 64, 96), np.float32))
    config = TrainConfig.load(
        "one-task", name="x", model=network.config, only_tasks=only, data=str(photographs), steps=4,
        rule="R1" if rule == "R1" else f"single:{only[0]}", reader_width=0, **SMALL,
    )  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = Trainer(config, tmp_path / "run", weights=before).train()
    after = trained.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(n.endswith((".gamma.weight", ".beta.weight")) for n in changed)
    assert {only[0]} <= differing(answers(network, image), answers(trained, image)) <= set(only)


def test_a_phase_goes_on_from_the_average(network, photographs, rng, tmp_path):
    image = torch.from_numpy(rng.random((1, 3, 64, 96), np.float32))
    config = TrainConfig.from_dict(
        {
            "name": "x", "model": network.config, "data": str(photographs), "ema_decay": 0.9,
            "phases": [
                {"steps": 3, "learning_rate": 1e-4}, {"steps": 3, "only_tasks": ["edges"]},
            ],
        } | SMALL
    )  # fmt: skip
    assert config.phases[1].changes["only_tasks"] == ["edges"]
    assert TrainConfig.from_dict(config.to_dict()) == config
    first = replace(config, phases=(), steps=3, learning_rate=1e-4)
    weights = network.state_dict()
    whole = Trainer(config, tmp_path / "whole", weights=weights).train()
    start = Trainer(first, tmp_path / "first", weights=weights).train()
    assert differing(answers(start, image), answers(whole, image)) == {"edges"}


def test_everything_learns_in_a_phase_after_it(network, photographs, tmp_path):
    config = TrainConfig.from_dict(
        {
            "name": "x", "model": network.config, "data": str(photographs),
            "phases": [{"steps": 2, "only_tasks": ["edges"]}, {"steps": 2}],
        } | SMALL
    )  # fmt: skip
    before = {name: value.clone() for name, value in network.state_dict().items()}
    after = Trainer(config, tmp_path, weights=before).train().state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert not same & {"decoder.head.weight", "representation.mapping.0.weight"}


def test_a_stopped_run_goes_on_to_the_same_weights(network, photographs, tmp_path):
    config = TrainConfig.load(
        "one-task", name="x", model=network.config, only_tasks=("saliency",), data=str(photographs),
        steps=4, validate_every=2, rule="single:saliency", reader_width=0, **SMALL,
    )  # fmt: skip
    weights = network.state_dict()
    whole = Trainer(config, tmp_path / "whole", weights=weights).train().state_dict()
    half = Trainer(config, tmp_path / "half", weights=weights)
    for sample in half.batches():
        half.advance(sample)
        if half.step == 2:
            break
    half.close()
    after = Trainer(config, tmp_path / "half", weights=weights).train().state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.items())


def test_finetuning_keeps_how_other_tasks_are_read(network, photographs, rng, tmp_path):
    image = torch.from_numpy(rng.random((1, 3, 64, 96), np.float32))
    start = f"local-dir:{save_checkpoint(network, tmp_path / 'start')}"
    tuned = finetune(
        start, photographs, tmp_path / "run", "single:seg", only=("seg",), steps=2, **SMALL
    )
    assert tuned.config.label_tables == ("seg",)
    assert differing(answers(ctnet.load(start), image), answers(tuned, image)) == {"seg"}
    again = finetune(
        tuned, photographs, tmp_path / "again", "single:edges", only=("edges",), steps=2, **SMALL
    )
    assert again.config.label_tables == ("seg",)
    assert again.config.anchors == tuned.config.anchors
    old, new = tuned.state_dict(), again.state_dict()
    table = next(name for name in old if "table" in name)
    assert torch.equal(old[table], new[table])
    grown = finetune(
        tuned, photographs, tmp_path / "grown", "single:foreground", "foreground", steps=2, **SMALL
    )
    TASKS.pop("foreground")
    assert set(tuned.config.anchors) <= set(grown.config.anchors)


def test_bad_requests_are_refused(make_model, photographs, tmp_path):
    with pytest.raises(ValueError, match="unknown task 'edge' in only_tasks"):
        TrainConfig("x", only_tasks=("edge",))
    with pytest.raises(ValueError, match="aux_loss_weight 0"):
        TrainConfig("x", only_tasks=("edges",), aux_loss_weight=1.0)
    with pytest.raises(ValueError, match="for a CTN"):
        TaskAffines(make_model("mhn"), ["edges"])
    with pytest.raises(ValueError, match="the network does seg"):
        TaskAffines(make_model(tasks=("seg", "parts")), ["edges"])
    collapsed = TaskAffines(make_model(), ["edges"])
    with pytest.raises(ValueError, match="tells its tasks apart"), collapsed.others_kept():
        pass
    with pytest.raises(ValueError, match="choose one"):
        finetune(make_model(), photographs, tmp_path, add_task="foreground", only=("edges",))
