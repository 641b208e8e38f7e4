"""The palette network: from an image to what to do where."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ctnet
from ctnet import defaults
from ctnet.cli.main import main
from ctnet.data.dataset import open_source
from ctnet.evaluation.palettes import evaluate_palettes
from ctnet.models import base
from ctnet.models.base import CompositeModel, build, create
from ctnet.models.checkpoint import save_checkpoint
from ctnet.models.config import ModelConfig
from ctnet.models.convert import adapt_weights
from ctnet.models.palette_network import PaletteNetwork
from ctnet.models.registry import build_network
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.config import TrainConfig
from ctnet.training.palette_trainer import PaletteTrainer, palette_validator


@pytest.fixture
def config(tiny):
    return ModelConfig("palette", decoder=tiny)


@pytest.fixture
def network(config):
    torch.manual_seed(1)
    return PaletteNetwork(config).eval()


@pytest.fixture
def photographs(write_photographs, tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    return write_photographs(root, splits=("train", "train", "val", "val"))


@pytest.fixture
def train_config(config, photographs):
    return TrainConfig(
        "palette", config, "R2", str(photographs), pretrained_encoder=False, crop_size=32,
        scale_range=(0.5, 1.0), batch_size=2, steps=2, learning_rate=1e-2, warmup_steps=0,
        device="cpu", workers=0, validate_every=1,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 96)])
def test_scores_at_every_pixel(network, size):
    image = torch.rand(2, 3, *size)
    with torch.inference_mode():
        scores = network(image)
        assert scores.shape == (2, 5, *size)
        torch.testing.assert_close(network(image[0]), scores[0], rtol=0, atol=1e-5)
        fractions = network.fractions(image)
    torch.testing.assert_close(fractions.sum(1), torch.ones(2, *size))


def test_gradients_of_the_composite_reach_the_palette(make_model, network):
    model = make_model()
    image = torch.rand(2, 3, 64, 64)
    model(image, network.fractions(image)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_the_palette_learns_from_the_composite_alone(make_model, network):
    """End to end: a composite that is better for one task's answer draws the palette to it."""
    model = make_model().requires_grad_(False)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model(image, torch.full((64, 64), 3))
    optimizer = torch.optim.Adam(network.decoder.parameters(), 1e-2)
    shares = []
    for _ in range(30):
        fractions = network.fractions(image)
        shares.append(float(fractions[:, 3].mean().detach()))
        loss = (model(image, fractions) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shares[-1] > 0.9 > 0.5 > shares[0]


@pytest.mark.parametrize("size", [(40, 31), (400, 300)])
def test_predict_gives_a_palette_of_the_images_own_size(network, size):
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    network.train()
    palette = network.predict(image)
    assert palette.size == size and palette.tasks == DEFAULT_TASKS
    assert network.training
    if max(size) <= defaults.LONG_SIDE:
        scores = network.eval()(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
        assert np.array_equal(palette.ids, scores[0].argmax(0).numpy())


def test_auto_asks_the_palette_network(make_model, network, monkeypatch):
    monkeypatch.setattr(base, "proposer", lambda device: network)
    model = make_model()
    image = np.random.default_rng(0).integers(256, size=(50, 70, 3), dtype=np.uint8)
    expected = network.predict(image)
    for palette in ("auto", network):
        prediction = model.predict(image, palette)
        assert np.array_equal(prediction.palette.ids, expected.ids)
        assert set(prediction.labels) == set(expected.requested())


def test_a_palette_network_of_other_tasks(make_model, tiny):
    network = PaletteNetwork(ModelConfig("palette", decoder=tiny, tasks=("seg", "edges")))
    with pytest.raises(ValueError, match="the palette's tasks are"):
        make_model().predict(np.zeros((40, 40, 3), np.uint8), network)


def test_checkpoints_of_both_kinds(network, make_model, tmp_path):
    palette, composite = tmp_path / "palette", tmp_path / "composite"
    save_checkpoint(network, palette)
    save_checkpoint(make_model(), composite)
    image = torch.rand(1, 3, 40, 40)
    loaded = ctnet.load(f"local-dir:{palette}")
    assert not loaded.training and torch.equal(loaded(image), network(image))
    with pytest.raises(ValueError, match="is a PaletteNetwork, not a CompositeModel"):
        CompositeModel.from_pretrained(palette)
    with pytest.raises(ValueError, match="is a CTN, not a PaletteNetwork"):
        PaletteNetwork.from_pretrained(composite)


def test_networks_of_the_other_kind(config):
    with pytest.raises(ValueError, match="proposes palettes"):
        build(config)
    with pytest.raises(ValueError, match="system is 'palette'"):
        PaletteNetwork(replace(config, system="ctn"))
    with pytest.raises(ValueError, match="unknown system 'pallete'; did you mean 'palette'"):
        replace(config, system="pallete")
    assert isinstance(build_network(config), PaletteNetwork)


def test_training_learns_what_the_rule_asks(train_config, write_photographs, tmp_path):
    root = tmp_path / "people"
    root.mkdir()
    write_photographs(root, classes=(15, 16))
    config = replace(train_config, data=str(root), steps=40, class_weight_power=0.3)
    trained = PaletteTrainer(config, tmp_path / "run").train()
    assert isinstance(trained, PaletteNetwork) and not trained.training
    palette = trained.predict(root / "voc_0.image.jpg")
    assert palette.shares()["parts"] > 0.9


def test_training_starts_from_a_ctn_and_from_a_palette_network(train_config, make_model, tmp_path):
    model = make_model()
    trainer = PaletteTrainer(train_config, tmp_path / "a", weights=model.state_dict())
    start = adapt_weights(model.state_dict(), train_config.model)
    assert all(torch.equal(start[k], v) for k, v in trainer.model.state_dict().items())
    again = PaletteTrainer(train_config, tmp_path / "b", weights=start)
    assert all(torch.equal(start[k], v) for k, v in again.model.state_dict().items())


@pytest.mark.parametrize("rule", ["R1", "Rrnd", "single:seg"])
def test_rules_that_no_image_can_tell(train_config, network, photographs, tmp_path, rule):
    with pytest.raises(ValueError, match="no image can tell"):
        PaletteTrainer(replace(train_config, rule=rule), tmp_path)
    with pytest.raises(ValueError, match="no image can tell"):
        evaluate_palettes(network, open_source("compositemt", photographs, "val"), rule)


def test_batches_without_a_class_map(train_config, write_photographs, tmp_path):
    root = tmp_path / "unlabeled"
    root.mkdir()
    write_photographs(root, classes=(255, 256))
    trained = PaletteTrainer(replace(train_config, data=str(root)), tmp_path / "run").train()
    assert all(bool(value.isfinite().all()) for value in trained.state_dict().values())


def test_miou_of_palettes_by_hand(network, photographs):
    source = open_source("compositemt", photographs, "val")
    result = evaluate_palettes(network, source, "R2", "mine", progress=False)
    table = ctnet.get_rule("R2").table()
    confusion = np.zeros((5, 5))
    for index in range(2):
        raw = source.load(index)
        truth = table[raw["seg"]]
        with torch.inference_mode():
            scores = network(torch.from_numpy(raw["image"]).permute(2, 0, 1).float() / 255)
        found = scores.argmax(0).numpy()
        for t, p in zip(truth[truth != 255], found[truth != 255], strict=True):
            confusion[t, p] += 1
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    iou = 100 * confusion.diagonal() / union
    expected = iou[confusion.sum(1) > 0].mean()
    assert result.headline("palette") == pytest.approx(expected, abs=1e-3)
    assert result.model == "mine" and result.rule == "R2" and result.split == "val"


def test_command_line(train_config, photographs, tmp_path, capsys):
    config = tmp_path / "config.toml"
    config.write_text(
        'rule = "R2"\npretrained_encoder = false\ncrop_size = 32\nscale_range = [0.5, 1.0]\n'
        "batch_size = 2\n"
        'steps = 2\nworkers = 0\nvalidate_images = 1\n[model]\nsystem = "palette"\n'
    )
    run = tmp_path / "run"
    words = ["--data", str(photographs), "--out"]
    assert main(["train", "--config", str(config), *words, str(run), "--device", "cpu"]) == 0
    name = f"local-dir:{run / 'checkpoint'}"
    words = ["--rule", "R2", "--name", "mine", *words, str(tmp_path)]
    assert main(["eval", name, *words, "--device", "cpu"]) == 0
    assert "palette" in capsys.readouterr().out
    assert (tmp_path / "mine_R2.json").is_file()


def test_validation_scores_by_miou(train_config, network):
    metrics = palette_validator(train_config)(network)
    assert 0 <= metrics["score"] <= 100


def test_create_makes_no_palette_network():
    with pytest.raises(ValueError, match="proposes palettes"):
        create("palette")
