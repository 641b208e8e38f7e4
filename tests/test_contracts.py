"""What every network of the zoo promises, whatever its system, encoder and decoder."""

import copy

import numpy as np
import pytest
import torch
from conftest import SUBPIXEL, TINY

import ctnet
from ctnet.export.write import export
from ctnet.models.checkpoint import save_checkpoint
from ctnet.tasks import DEFAULT_TASKS, get_task

NETWORKS = {
    "ctn": ("ctn", "efficientnet_lite0", TINY),
    "ctn, subpixel": ("ctn", "efficientnet_lite0", SUBPIXEL),
    "ctn, paper": ("ctn", "resnet18", "paper"),
    "ctn, compact": ("ctn", "efficientnet_lite2", "compact"),
    "ctn, light": ("ctn", "efficientnet_lite0", "light"),
    "mhn": ("mhn", "efficientnet_lite0", TINY),
    "stn": ("stn", "efficientnet_lite0", TINY),
}


@pytest.mark.parametrize("name", NETWORKS)
class TestCompositeModels:
    @pytest.fixture(scope="class")
    def models(self, make_model):
        return {}

    @pytest.fixture
    def model(self, name, models, make_model):
        if name not in models:
            models[name] = make_model(*NETWORKS[name])
        return copy.deepcopy(models[name])

    @pytest.fixture
    def image(self):
        return torch.rand(2, 3, 48, 70, generator=torch.Generator().manual_seed(0))

    @pytest.fixture
    def palette(self, make_ids):
        return make_ids("mosaic", (2, 48, 70))

    def test_every_parameter_learns(self, model, image, make_ids):
        model.train()
        composite = model(image, make_ids("random", (2, 48, 70)))
        assert composite.shape == image.shape
        composite.square().mean().backward()
        without = [k for k, p in model.named_parameters() if p.grad is None]
        assert without == []
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters())

    @pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 32)])
    def test_any_size_alone_or_in_a_batch(self, model, make_ids, size):
        images, palettes = torch.rand(2, 3, *size), make_ids("random", (2, *size))
        with torch.no_grad():
            together = model(images, palettes)
            alone = [model(x, ids) for x, ids in zip(images, palettes, strict=True)]
        assert together.shape == (2, 3, *size)
        torch.testing.assert_close(torch.stack(alone), together, atol=1e-4, rtol=1e-4)

    def test_one_encoding_serves_all_palettes(self, model, image, make_ids):
        with torch.no_grad():
            features = model.encode(image)
            for kind in ("single", "mosaic", "unrequested"):
                palette = make_ids(kind, (2, 48, 70))
                torch.testing.assert_close(model.decode(features, palette), model(image, palette))

    def test_each_pixel_has_its_own_task(self, model, image, palette):
        """A palette of ids is one of fractions that are 0 and 1."""
        fractions = torch.stack([palette == k for k in range(5)], 1).float()
        with torch.no_grad():
            torch.testing.assert_close(
                model(image, fractions), model(image, palette), atol=1e-4, rtol=1e-4
            )

    def test_what_is_saved_is_loaded(self, model, image, palette, tmp_path):
        loaded = ctnet.load(save_checkpoint(model, tmp_path / "saved"))
        assert loaded.config == model.config and not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(image, palette), model(image, palette))

    def test_fusing_changes_no_answer(self, model, image, make_ids):
        for kind in ("single", "mosaic", "random", "partly"):
            palette = make_ids(kind, (2, 48, 70))
            with torch.no_grad():
                before = model(image, palette)
                after = copy.deepcopy(model).fuse()(image, palette)
            assert (after - before).abs().max() <= 1e-4 * before.abs().max().clamp(min=1)

    def test_an_exported_file_answers_alike(self, model, image, palette, tmp_path):
        path = export(model, tmp_path / "model.pt", "torchscript")
        with torch.no_grad():
            found, wanted = torch.jit.load(path)(image, palette), model(image, palette)
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max().clamp(min=1)

    def test_predictions_have_the_size_and_kind_of_their_task(self, model):
        image = np.random.default_rng(0).integers(0, 256, (50, 81, 3), np.uint8)
        assert model.tasks == DEFAULT_TASKS
        for task, prediction in model.predict_all(image, 64).items():
            values = prediction.labels[task]
            if task in ("seg", "parts"):
                assert values.dtype == np.uint8 and values.shape == (50, 81)
                assert values.max() < len(get_task(task).classes)
            elif task == "normals":
                assert values.dtype == np.float32 and values.shape == (50, 81, 3)
                np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=1e-5)
            else:
                assert values.dtype == np.float32 and values.shape == (50, 81)
                assert 0 <= values.min() <= values.max() <= 1
            assert prediction.palette.shares() == {task: 1.0}
