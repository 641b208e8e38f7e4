"""Learned readers and heads on the encoder: what learns beside the network, in training alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_auxiliary import make_sample
from tiny_encoder import TinyEncoder
from tqdm import tqdm

from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.blocks.encoders import BUILDERS
from ctnet.label_tables import TableReader
from ctnet.labels import class_reader
from ctnet.models.base import CompositeModel, build
from ctnet.models.config import ModelConfig
from ctnet.models.convert import config_with_tables
from ctnet.tasks import DEFAULT_TASKS, get_task
from ctnet.training import loop
from ctnet.training.config import TrainConfig
from ctnet.training.encoder_heads import EncoderHeads
from ctnet.training.losses import CompositeLoss
from ctnet.training.readers import LearnedReaders
from ctnet.training.trainer import Trainer

DECODER = DecoderConfig((8, 7, 6, 5, 4), (3, 3, 4, 4, 5), (3, 3), (4,) * 6, 6)


@pytest.fixture
def readers() -> LearnedReaders:
    torch.manual_seed(0)
    return LearnedReaders({"seg": 21, "parts": 7}, 16)


@pytest.fixture
def config(
    tmp_path: Path,
    write_photographs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> TrainConfig:
    monkeypatch.setitem(BUILDERS, "tiny", lambda _: TinyEncoder())
    monkeypatch.setattr(loop, "tqdm", partial(tqdm, disable=True))
    return TrainConfig(
        "tiny", ModelConfig("ctn", "tiny", DECODER), data=str(write_photographs(tmp_path)),
        pretrained_encoder=False, crop_size=32, scale_range=(0.6, 0.9), batch_size=2, steps=2,
        workers=0, learning_rate=1e-2, warmup_steps=0, lr_decay_fraction=0.0, precision="fp32",
        device="cpu", ema_decay=0.5, validate_every=1, validate_images=5, aux_loss_weight=1.0,
        reader_width=8, encoder_aux_loss_weight=0.5,
    )  # fmt: skip


def test_scores_are_those_of_a_small_network_on_points_of_the_cube(readers: LearnedReaders) -> None:
    outputs = torch.randn(5, 3)
    x = 2 / (1 + np.exp(-outputs.numpy().astype(float))) - 1
    layers = [layer for layer in readers.current["seg"] if hasattr(layer, "weight")]
    for number, layer in enumerate(layers):
        x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
        x = x if number == len(layers) - 1 else np.maximum(x, 0)
    np.testing.assert_allclose(readers.scores("seg", outputs).detach(), x, atol=1e-5)


@pytest.mark.parametrize("task", ["seg", "parts"])
def test_a_table_reads_as_the_averaged_reader_does(readers: LearnedReaders, task: str) -> None:
    table = TableReader(readers.table(task))
    cells = table.table.shape[0]
    centers = (torch.randint(cells, (200, 3)) + 0.5) / cells
    outputs = torch.logit(centers)
    wanted = readers.scores(task, outputs, average=True).softmax(-1)
    torch.testing.assert_close(table.probabilities(outputs), wanted, atol=2e-3, rtol=0)


def test_the_average_follows(readers: LearnedReaders) -> None:
    before = readers.average["seg"][0].weight.clone()
    with torch.no_grad():
        readers.current["seg"][0].weight.add_(1)
    readers.follow(0.75)
    torch.testing.assert_close(readers.average["seg"][0].weight, before + 0.25)
    assert not any(p.requires_grad for p in readers.average.parameters())


def test_a_composite_learns_by_its_reader(readers: LearnedReaders) -> None:
    sample = make_sample()
    outputs = torch.randn(2, 3, 64, 64)
    loss = CompositeLoss(DEFAULT_TASKS, {}, 0.0, {}, readers=readers)
    _, parts = loss(outputs, sample)
    mask = (sample.palette == 0) & sample.valid[:, 0]
    scores = readers.scores("seg", outputs.permute(0, 2, 3, 1)[mask])
    wanted = F.cross_entropy(scores, sample.labels["seg"][mask])
    assert parts["seg"] == pytest.approx(float(wanted.detach()), rel=1e-5)


def test_every_label_trains_the_encoder_whatever_the_palette() -> None:
    torch.manual_seed(0)
    channels, sample = (4, 5, 6, 7, 8), make_sample()
    pyramid = [
        torch.randn(2, width, 64 // stride, 64 // stride, requires_grad=True)
        for width, stride in zip(channels, (2, 4, 8, 16, 32), strict=True)
    ]
    heads = EncoderHeads(channels, DEFAULT_TASKS)
    loss = CompositeLoss(DEFAULT_TASKS, {"seg": 2.0}, 0.0, {})
    total = heads(pyramid, sample, loss)
    nothing = replace(sample, palette=torch.full_like(sample.palette, 255))
    assert torch.equal(heads(pyramid, nothing, loss), total)
    total.backward()
    assert [x.grad is not None for x in pyramid] == [False, False, True, True, True]
    only = sample.valid.clone()
    only[:, 1:] = False
    seg = heads(pyramid, replace(sample, valid=only), loss)
    features = sum(
        F.interpolate(project(x), (8, 8), mode="bilinear")
        for project, x in zip(heads.project, pyramid[2:], strict=True)
    )
    label = sample.labels["seg"][:, 4::8, 4::8].where(sample.valid[:, 0, 4::8, 4::8], 255)
    scores = heads.heads["seg"](F.relu(features))
    torch.testing.assert_close(seg, 2 * F.cross_entropy(scores, label, ignore_index=255))
    unlabeled = replace(sample, valid=torch.zeros_like(sample.valid))
    assert float(heads(pyramid, unlabeled, loss).detach()) == 0


def test_a_run_with_readers_ends_in_a_network_with_tables(
    config: TrainConfig, tmp_path: Path
) -> None:
    tabled: list[tuple[str, ...]] = []

    def validate(model: CompositeModel) -> dict[str, float]:
        tabled.append(model.label_tables.tasks)
        return {"score": len(tabled)}

    trainer = Trainer(config, tmp_path / "run", validate)
    model = trainer.train()
    assert tabled == [("seg", "parts")] * config.steps
    assert model.label_tables.tasks == ("seg", "parts")
    assert [entry.task for entry in model.config.anchors] == ["seg", "parts"]
    readers = trainer.readers
    assert readers is not None
    for task in ("seg", "parts"):
        assert torch.equal(model.label_tables.reader(task).table, readers.table(task))
    model.label_tables.check()
    image = torch.rand(3, 32, 32)
    labels = model.predict(image, "single:seg").labels["seg"]
    assert labels.shape == (32, 32)
    # A run goes on from where it is, readers and all.
    again = Trainer(config, tmp_path / "run")
    assert again.readers is not None
    for name, value in again.readers.state_dict().items():
        assert torch.equal(value, readers.state_dict()[name])


def read_alike(one: CompositeModel, other: CompositeModel, points: torch.Tensor) -> float:
    """Smallest fraction over the class tasks of points that both read as the same class."""
    found = [
        [class_reader(get_task(task), model.readers).classes(points) for model in (one, other)]
        for task in ("seg", "parts")
    ]
    return min(float((a == b).float().mean()) for a, b in found)


@pytest.mark.parametrize("tabled", [False, True], ids=["eq. 5", "label tables"])
def test_readers_begin_with_how_the_start_is_read(
    config: TrainConfig, tmp_path: Path, tabled: bool
) -> None:
    torch.manual_seed(1)
    start = build(config.model)
    weights = start.state_dict()
    if tabled:
        other = LearnedReaders({"seg": 21, "parts": 7}, 8)
        weights |= {f"label_tables.{task}": other.table(task) for task in ("seg", "parts")}
        start = build(config_with_tables(config.model, weights))
        start.load_state_dict(weights)
    config = replace(config, aux_loss_weight=0.0, encoder_aux_loss_weight=0.0, learning_rate=1e-9)
    trainer = Trainer(config, tmp_path / "run", lambda _: {"score": 1.0}, weights=weights)
    points = torch.logit(torch.rand(4000, 3))
    assert read_alike(trainer.train(), start, points) > 0.95


def test_readers_go_on_from_those_of_an_earlier_run(config: TrainConfig, tmp_path: Path) -> None:
    first = Trainer(config, tmp_path / "first")
    first.train()
    assert first.readers is not None
    later = Trainer(replace(config, init=str(tmp_path / "first")), tmp_path / "later")
    assert later.readers is not None
    for name, value in first.readers.state_dict().items():
        assert torch.equal(later.readers.state_dict()[name], value)


def test_heads_on_the_encoder_need_the_coarse_heads(config: TrainConfig) -> None:
    with pytest.raises(ValueError, match="encoder_aux_loss_weight needs an aux_loss_weight"):
        replace(config, aux_loss_weight=0.0)


def test_an_stn_has_no_heads_on_its_encoders(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, model=replace(config.model, system="stn"))
    with pytest.raises(ValueError, match="one encoder"):
        Trainer(config, tmp_path / "run")


def test_an_anchor_is_the_middle_of_the_cells_that_read_its_class() -> None:
    table = torch.full((4, 4, 4, 3), 0.2).log()
    table[:2, ..., 0] = np.log(0.6)
    table[2:, ..., 1] = np.log(0.6)
    table[3, 3, 3, 2] = np.log(0.5)
    anchors = TableReader(table.log_softmax(-1)).anchors()
    assert anchors[0] == pytest.approx((0.25, 0.5, 0.5))
    assert anchors[1] == pytest.approx((0.75, 0.5, 0.5))
    # No cell reads the last class.
    assert anchors[2] == pytest.approx((0.875, 0.875, 0.875))
