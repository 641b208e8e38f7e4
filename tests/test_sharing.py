"""Networks in the hands of others: threads, autocast, pickles, weights written from outside."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import TINY
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import ctnet
from ctnet.palette import Palette

WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def model(make_model):
    return make_model("ctn", decoder=TINY)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def flags(model):
    return [module.training for module in model.modules()]


def answer(model, image, palette="single:normals"):
    """All labels of a prediction as one tensor."""
    labels = model.predict(image, palette).labels
    return torch.cat([torch.from_numpy(values).double().flatten() for values in labels.values()])


class TestThreads:
    @pytest.mark.parametrize("training", [False, True])
    def test_predictions_at_once_are_those_in_turn(self, model, image, training):
        wanted = {seed: model.predict(image, "Rrnd", seed=seed).labels for seed in range(8)}
        model.train(training)
        before, statistics = flags(model), copy.deepcopy(model.state_dict())
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda s: model.predict(image, "Rrnd", seed=s).labels, range(8)))
        for seed, labels in enumerate(found):
            for task, values in labels.items():
                assert np.array_equal(values, wanted[seed][task])
        assert flags(model) == before and not model.fused
        for name, value in model.state_dict().items():
            assert torch.equal(value, statistics[name]), name

    def test_a_prediction_does_not_disturb_a_pass_of_another_thread(self, model, image):
        """A pass with gradients in the middle of a prediction is that of an unfused network."""
        batch = torch.rand(2, 3, 64, 64)
        palette = torch.zeros(2, 64, 64, dtype=torch.long)
        model.train()
        with model.inference(), ThreadPoolExecutor(1) as pool:
            composite = pool.submit(lambda: copy.deepcopy(model)(batch, palette)).result()
        assert composite.requires_grad and model.training

    def test_a_palette_network_keeps_its_mode(self, image):
        network = ctnet.load("palette-r2")
        wanted = network.predict(image)
        network.train()
        statistics = copy.deepcopy(network.state_dict())
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(network.predict, [image] * 4):
                assert np.array_equal(found.ids, wanted.ids)
        assert network.training
        assert all(torch.equal(v, statistics[k]) for k, v in network.state_dict().items())

    def test_threads_share_a_session(self, model):
        generator = torch.Generator().manual_seed(0)
        picture = torch.rand(3, 64, 64, generator=generator)
        palettes = [torch.randint(0, 5, (64, 64), generator=generator) for _ in range(12)]
        with torch.no_grad():
            wanted = [model(picture, palette) for palette in palettes]
        session = model.session(picture)
        with ThreadPoolExecutor(4) as pool:
            for found, expected in zip(pool.map(session.decode, palettes), wanted, strict=True):
                assert (found - expected).abs().max() <= 1e-4


class TestWrittenWeights:
    def change(self, model, how):
        new = 1.5 * parameters_to_vector(model.parameters()).detach()
        if how == "vector_to_parameters":
            vector_to_parameters(new, model.parameters())
        elif how == "in place":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.5)
        elif how == ".data in place":
            for parameter in model.parameters():
                parameter.data.mul_(1.5)
        elif how == "load_state_dict":
            other = copy.deepcopy(model)
            vector_to_parameters(new.clone(), other.parameters())
            model.load_state_dict(other.state_dict())
        else:
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d) and module.running_mean is not None:
                    module.running_mean.data.add_(0.5)

    @pytest.mark.parametrize(
        "how",
        ["vector_to_parameters", "in place", ".data in place", "load_state_dict", "statistics"],
    )
    def test_the_next_prediction_has_all_of_them(self, model, image, how):
        before = answer(model, image)
        self.change(model, how)
        fresh = copy.deepcopy(model)
        assert torch.equal(answer(model, image), answer(fresh, image))
        assert not torch.allclose(answer(model, image), before)

    def test_a_fused_pass_has_parameters_of_another_place(self, model):
        batch, palette = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
        model.fuse()
        with torch.no_grad():
            model(batch, palette)
            self.change(model, "vector_to_parameters")
            fresh = copy.deepcopy(model)
            assert torch.equal(model(batch, palette), fresh(batch, palette))


class TestAutocastAndPickles:
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    def test_predict_under_autocast_is_predict(self, model, image, dtype):
        model.fuse(dtype)
        wanted = {name: answer(model, image, name) for name in ("single:seg", "R1", "Rrnd")}
        session = model.session(torch.rand(3, 64, 64))
        palette = Palette.single("seg", (64, 64))
        edited = palette.paint_box((3, 3, 20, 20), "normals")
        with torch.autocast("cpu", torch.bfloat16):
            for name, expected in wanted.items():
                assert torch.equal(answer(model, image, name), expected)
            assert set(model.predict_all(image)) == set(model.tasks)
            first = session.decode(palette)
            assert not torch.equal(session.decode(edited), first)

    def test_autocast_still_trains(self, model):
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            model(
                torch.rand(2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.long)
            ).sum().backward()
        assert all(
            p.grad is not None and bool(p.grad.isfinite().all()) for p in model.decoder.parameters()
        )

    @pytest.mark.parametrize("compiled", [False, True])
    def test_pickles_and_copies(self, model, image, compiled):
        model.fuse(compile=compiled)
        before = len(pickle.dumps(model))
        if not compiled:  # Compiling takes a compiler and time.
            wanted = answer(model, image)
            assert len(pickle.dumps(model)) == before
            assert torch.equal(answer(pickle.loads(pickle.dumps(model)), image), wanted)
        assert pickle.loads(pickle.dumps(model)).fused
        assert copy.deepcopy(model).fused

    def test_torch_save_stays_small(self, model, image):
        sizes = []
        for _ in range(2):
            buffer = io.BytesIO()
            torch.save(model, buffer)
            sizes.append(buffer.tell())
            model.predict(image, "R1")
        assert sizes[0] == sizes[1]


class TestWrongInputs:
    palette = torch.zeros(32, 48, dtype=torch.long)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (255 * torch.rand(3, 32, 48), "RGB in \\[0, 1\\]; got values from .* Divide 8-bit"),
            (4 * torch.rand(3, 32, 48) - 2, "leave normalizing to the network"),
            (np.zeros((3, 32, 48), np.float32), "got ndarray. model.predict takes any image"),
            ("photo.jpg", "got str"),
        ],
    )
    def test_images(self, model, image, message):
        with pytest.raises(ValueError, match=message):
            model(image, self.palette)

    @pytest.mark.parametrize("palette", ["R1", [[0]], None])
    def test_palettes(self, model, palette):
        with pytest.raises(ValueError, match=r"palette is a ctnet\.Palette, or a tensor or array"):
            model(torch.rand(3, 32, 48), palette)

    def test_an_array_of_ids_is_a_palette(self, model):
        image = torch.rand(3, 32, 48)
        ids = np.random.default_rng(0).integers(0, 5, (32, 48), np.uint8)
        found = model(image, ids)
        assert torch.equal(found, model(image, torch.from_numpy(ids)))
        labels = ctnet.to_labels(found, Palette(ids), model)
        assert labels["seg"].values.shape == (32, 48)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"long_side": "320"}, "long_side is a whole number"),
            ({"long_side": 320.5}, "long_side is a whole number"),
            ({"long_side": 8}, "at least 32"),
            ({"seed": -1}, "seed is a whole number of at least 0"),
            ({"seed": 0.5}, "seed is a whole number of at least 0"),
        ],
    )
    def test_options(self, model, image, options, message):
        with pytest.raises(ValueError, match=message):
            model.predict(image, "R1", **options)

    @pytest.mark.parametrize(
        ("device", "message"),
        [
            pytest.param(
                "cuda",
                "no device 'cuda' here",
                marks=pytest.mark.skipif("torch.cuda.is_available()"),
            ),
            ("gpu", "unknown device 'gpu'; allowed: auto, cpu, cuda, mps"),
            ("", "unknown device"),
        ],
    )
    def test_devices(self, device, message):
        with pytest.raises(ValueError, match=message):
            ctnet.load("ctn-r1", device=device)
        with pytest.raises(ValueError, match=message):
            ctnet.CompositeModel.from_pretrained("ctn-r1", device=device)
