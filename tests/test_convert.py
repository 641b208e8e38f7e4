"""Other systems that start from a CTN."""

from dataclasses import replace

import pytest
import torch
from conftest import SUBPIXEL, TINY

from ctnet.models.base import build
from ctnet.models.convert import adapt_weights
from ctnet.models.palette_network import PaletteNetwork
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.config import TrainConfig
from ctnet.training.trainer import Trainer


@pytest.fixture(params=[TINY, SUBPIXEL], ids=["tiny", "subpixel"])
def decoder(request):
    return request.param


@pytest.mark.parametrize("task", DEFAULT_TASKS)
def test_a_specialized_decoder_does_what_the_ctn_does(make_model, decoder, task):
    model = make_model(decoder=decoder).double()
    number = DEFAULT_TASKS.index(task)
    image = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        features = model.encode(image)
        plain = model.decoder.specialize(model.representation()[number])
        found = plain(features.image, features.pyramids[0], None)
        expected = model.decode(features, torch.full((64, 96), number))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_palette_network_starts_from_segmentation(make_model, decoder):
    model = make_model(decoder=decoder)
    config = replace(model.config, system="palette")
    network = PaletteNetwork(config).eval()
    network.load_state_dict(adapt_weights(model.state_dict(), config), strict=True)
    image = torch.rand(1, 3, 64, 96)
    seen = []
    for decoder in (network.decoder, model.decoder):
        decoder.stages[-1].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.inference_mode():
        assert not network(image).any()
        model(image, torch.zeros(64, 96, dtype=torch.int64))
    torch.testing.assert_close(*seen, rtol=0, atol=1e-5)


@pytest.mark.parametrize("system", ["mhn", "stn"])
def test_a_plain_network_does_what_the_ctn_does(make_model, decoder, system):
    model = make_model(decoder=decoder)
    config = replace(model.config, system=system)
    plain = build(config).eval()
    plain.load_state_dict(adapt_weights(model.state_dict(), config), strict=True)
    image = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for number in range(len(DEFAULT_TASKS)):
            palette = torch.full((64, 96), number)
            torch.testing.assert_close(
                plain(image, palette), model(image, palette), rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
def test_weights_of_the_system_itself_stay(make_model, system):
    model = make_model(system)
    weights = model.state_dict()
    found = adapt_weights(weights, model.config)
    assert list(found) == list(weights)
    assert all(found[name] is weights[name] for name in weights)


def test_a_ctn_of_other_widths_or_tasks_is_refused(make_model):
    weights = make_model().state_dict()
    config = replace(make_model("stn").config, decoder="compact")
    with pytest.raises(RuntimeError, match="size mismatch"):
        adapt_weights(weights, config)
    with pytest.raises(RuntimeError, match="codes"):
        adapt_weights(weights, replace(make_model("stn").config, tasks=("seg", "edges")))


@pytest.mark.parametrize("system", ["mhn", "stn"])
def test_training_starts_from_a_run_of_a_ctn(write_photographs, make_model, tmp_path, system):
    """The heads of the run go on too, one copy for every decoder."""
    root = tmp_path / "data"
    root.mkdir()
    write_photographs(root)
    config = TrainConfig(
        "start", make_model().config, "S", str(root), pretrained_encoder=False, crop_size=64,
        batch_size=2, steps=2, warmup_steps=0, device="cpu", workers=0, aux_loss_weight=1.0,
    )  # fmt: skip
    ctn = Trainer(config, tmp_path / "ctn")
    ctn.train()
    plain = replace(
        config, model=replace(config.model, system=system), init=str(tmp_path / "ctn"), seed=1
    )
    trainer = Trainer(plain, tmp_path / system)
    heads, theirs = trainer.auxiliary.state_dict(), ctn.auxiliary.state_dict()
    assert len(trainer.auxiliary.composite) == len(DEFAULT_TASKS)
    for name, value in heads.items():
        assert torch.equal(value, theirs[name.replace(name.split(".")[1], "0")
                                         if name.startswith("composite") else name])  # fmt: skip
    palette = torch.full((64, 64), 1)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        found = trainer.model.eval()(image, palette)
        expected = ctn.finish()(image, palette)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    trainer.train()
