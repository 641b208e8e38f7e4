"""CTN, MHN and STN behind one call: sizes, palettes, errors, configurations, costs."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ctnet.blocks.decoder_config import DECODERS, DecoderConfig, get_decoder_config
from ctnet.blocks.features import Features, pad_to_grid
from ctnet.models.base import build, create
from ctnet.models.config import ModelConfig
from ctnet.models.ctn import CTN
from ctnet.models.mhn_stn import MHN, STN
from ctnet.palette import Palette
from ctnet.tasks import DEFAULT_TASKS

SYSTEMS = ["ctn", "mhn", "stn"]
SIZES = [(1, 1), (31, 33), (64, 96), (32, 32), (1, 70), (45, 7)]


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


class CountMacs(TorchDispatchMode):
    """Counts the multiplications of convolutions and matrix products, whoever calls them."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if "convolution" in name:
            self.total += out.numel() * math.prod(args[1].shape[1:])
        elif name in ("mm", "addmm"):
            self.total += out.numel() * args[-1].shape[0]
        elif name in ("bmm", "baddbmm", "matmul", "linear"):
            raise AssertionError(f"{name} is not counted")
        return out


@pytest.fixture(scope="module")
def models(make_model):
    """One network of each system; no test may change them."""
    return {system: make_model(system) for system in SYSTEMS}


@pytest.fixture(params=SYSTEMS)
def model(request, models):
    return models[request.param]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def picture(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fractions(*shape):
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(1))).softmax(1)


def padded(array):
    """Repeats the last row and column up to multiples of 32, by numpy."""
    height, width = array.shape[-2:]
    edges = [(0, 0)] * (array.ndim - 2) + [(0, -height % 32), (0, -width % 32)]
    return torch.from_numpy(np.pad(array.numpy(), edges, mode="edge"))


def per_task_answers(model, image):
    """Raw outputs of every task of an MHN or STN, from its parts."""
    height, width = image.shape[-2:]
    if isinstance(model, MHN):
        parts = [(model.encoder, decoder) for decoder in model.decoders]
    else:
        parts = [(network.encoder, network.decoder) for network in model.networks]
    answers = []
    for encoder, decoder in parts:
        x = (255 * padded(image) - 127) / 128
        answers.append(decoder(x, encoder(x), None)[..., :height, :width])
    return answers


class TestSize:
    def test_paper_ctn(self):
        with torch.device("meta"):
            model = create("ctn", encoder="resnet34", decoder="paper")
        assert parameters(model) == 29_321_219

    def test_paper_stn(self):
        with torch.device("meta"):
            model = create("stn", encoder="resnet34", decoder="paper")
        assert [parameters(network) for network in model.networks] == [27_912_835] * 5
        assert parameters(model) == 5 * 27_912_835

    def test_paper_mhn(self):
        with torch.device("meta"):
            model = create("mhn", encoder="resnet34", decoder="paper")
        assert len(model.decoders) == 5
        assert parameters(model) == 54_425_487

    def test_paper_multiplications(self):
        # design.md: 111.8 GMAC for an MHN of 5 tasks, 130.9 for five STN, both of ResNet-34.
        with torch.device("meta"):
            model = create("mhn", encoder="resnet34", decoder="paper")
            image = torch.empty(1, 3, 256, 256)
            with CountMacs() as encoding:
                features = model.encoder(image)
            with CountMacs() as decoding:
                model.decoders[0](image, features, None)
        assert encoding.total + 5 * decoding.total == pytest.approx(111.8e9, abs=0.05e9)
        assert 5 * (encoding.total + decoding.total) == pytest.approx(130.9e9, abs=0.05e9)

    def test_compact_ctn_is_small(self):
        assert parameters(create("ctn", "efficientnet_lite0", "compact")) <= 4_500_000

    @pytest.mark.parametrize("layout", ["single", "mosaic", "curved", "random"])
    def test_compact_ctn_is_fast(self, make_ids, layout):
        model = create("ctn", "efficientnet_lite0", "compact").eval()
        with CountMacs() as counted:
            model(picture(3, 256, 256), make_ids(layout, (1, 256, 256)))
        # Not too few either: the decoder alone has to be in there.
        assert 0.8e9 < counted.total <= 3e9

    @pytest.mark.parametrize(
        ("module", "shape", "expected"),
        [
            (torch.nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 7), 2 * 5 * 7 * 6 * 4 * 9),
            (torch.nn.Conv2d(4, 4, 5, groups=4, padding=2), (1, 4, 5, 7), 5 * 7 * 4 * 25),
            (torch.nn.Linear(4, 9), (3, 4), 3 * 4 * 9),
            (torch.nn.Linear(4, 9, bias=False), (3, 4), 3 * 4 * 9),
        ],
    )
    def test_the_count_itself(self, module, shape, expected):
        with CountMacs() as counted:
            module(torch.rand(shape))
        assert counted.total == expected


class TestCall:
    @pytest.mark.parametrize(("name", "kind"), [("ctn", CTN), ("mhn", MHN), ("stn", STN)])
    def test_systems(self, models, name, kind):
        model = models[name]
        assert isinstance(model, kind)
        assert model.config.system == name
        assert model.tasks == DEFAULT_TASKS
        assert model.device == torch.device("cpu")

    @pytest.mark.parametrize("size", SIZES)
    def test_any_size(self, model, make_ids, size):
        composite = model(picture(2, 3, *size), make_ids("random", (2, *size)))
        assert composite.shape == (2, 3, *size)
        assert composite.isfinite().all()

    def test_one_image_without_a_batch(self, model, make_ids):
        image, palette = picture(3, 40, 50), make_ids("mosaic", (1, 40, 50))
        composite = model(image, palette[0])
        assert composite.shape == (3, 40, 50)
        assert torch.equal(composite, model(image[None], palette)[0])
        assert torch.equal(composite, model(image, palette))

    @pytest.mark.parametrize("size", [(50, 70), (1, 1), (33, 32)])
    def test_padding_repeats_the_border(self, model, make_ids, size):
        height, width = size
        image, palette = picture(1, 3, *size), make_ids("random", (1, *size))
        expected = model(padded(image), padded(palette))[..., :height, :width]
        assert torch.equal(model(image, palette), expected)

    def test_multiples_of_32_are_not_padded(self, model):
        image = picture(1, 3, 64, 96)
        assert pad_to_grid(image) is image
        assert model.encode(image).image.shape == image.shape

    @pytest.mark.parametrize("size", [(1, 1), (31, 33), (64, 40), (5, 96)])
    def test_pad_to_grid(self, size):
        image = picture(2, 3, *size)
        found = pad_to_grid(image)
        assert torch.equal(found, padded(image))
        assert torch.equal(found[..., : size[0], : size[1]], image)

    def test_batch_equals_single(self, make_model, make_ids):
        for system in SYSTEMS:
            model = make_model(system, tasks=("seg", "normals")).double()
            images = picture(2, 3, 40, 50, dtype=torch.float64)
            palettes = make_ids("partly", (2, 40, 50), tasks=2)
            together = model(images, palettes)
            for image, palette, expected in zip(images, palettes, together, strict=True):
                assert (model(image, palette) - expected).abs().max() <= 1e-10

    def test_one_palette_for_the_batch(self, model, make_ids):
        images, palette = picture(2, 3, 40, 50), make_ids("mosaic", (1, 40, 50))
        expected = model(images, palette.expand(2, -1, -1))
        assert torch.equal(model(images, palette), expected)
        assert torch.equal(model(images, palette[0]), expected)

    def test_a_palette_for_each_image(self, model, make_ids):
        image = picture(3, 40, 50)
        palettes = make_ids("random", (2, 40, 50))
        composite = model(image.expand(2, -1, -1, -1), palettes)
        assert (composite[0] - composite[1]).abs().max() > 0.01

    def test_encode_once_decode_many(self, model, make_ids):
        image = picture(2, 3, 40, 50)
        features = model.encode(image)
        assert isinstance(features, Features)
        assert features.size == (40, 50)
        for layout in ("single", "partly", "mosaic", "single"):
            palette = make_ids(layout, (2, 40, 50))
            assert torch.equal(model.decode(features, palette), model(image, palette))

    def test_image_is_left_alone(self, model, make_ids):
        image, palette = picture(1, 3, 32, 64), make_ids("partly", (1, 32, 64))
        kept, asked = image.clone(), palette.clone()
        model(image, palette)
        assert torch.equal(image, kept)
        assert torch.equal(palette, asked)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
    def test_palettes_of_any_integers(self, model, make_ids, dtype):
        image, palette = picture(1, 3, 33, 40), make_ids("random", (1, 33, 40))
        palette[0, :5] = 255
        assert torch.equal(model(image, palette.to(dtype)), model(image, palette))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
    def test_images_of_any_floats(self, model, make_ids, dtype):
        image, palette = picture(1, 3, 33, 40), make_ids("random", (1, 33, 40))
        image = image.to(dtype)
        composite = model(image, palette)
        assert composite.dtype == torch.float32
        assert torch.equal(composite, model(image.float(), palette))

    def test_palette_object(self, model):
        image = picture(2, 3, 40, 50)
        palette = Palette.mosaic((40, 50), np.random.default_rng(0)).paint_box((3, 4, 9, 9), None)
        assert torch.equal(model(image, palette), model(image, palette.tensor()))

    def test_same_call_same_answer(self, model, make_ids):
        image, palette = picture(2, 3, 40, 50), make_ids("random", (2, 40, 50))
        assert torch.equal(model(image, palette), model(image, palette))

    def test_normalized_image_is_the_encoders(self, model):
        features = model.encode(picture(1, 3, 32, 32))
        expected = (picture(1, 3, 32, 32) * 255 - 127) / 128
        torch.testing.assert_close(features.image, expected)
        assert len(features.pyramids) == (5 if model.config.system == "stn" else 1)


class TestRequests:
    @pytest.mark.parametrize("layout", ["single", "mosaic", "curved", "random", "partly"])
    @pytest.mark.parametrize("system", ["mhn", "stn"])
    def test_composite_picks_each_tasks_answer(self, models, make_ids, system, layout):
        image, palette = picture(2, 3, 40, 50), make_ids(layout, (2, 40, 50))
        answers = per_task_answers(models[system], image)
        expected = torch.zeros(2, 3, 40, 50)
        for k, answer in enumerate(answers):
            mask = (palette == k)[:, None].expand_as(expected)
            expected[mask] = answer[mask]
        composite = models[system](image, palette)
        torch.testing.assert_close(composite, expected, rtol=1e-4, atol=1e-5)
        assert (composite[(palette == 255)[:, None].expand_as(composite)] == 0).all()

    @pytest.mark.parametrize("system", ["mhn", "stn"])
    def test_soft_composite_weighs_each_tasks_answer(self, models, system):
        image, shares = picture(2, 3, 40, 50), fractions(2, 5, 40, 50)
        answers = per_task_answers(models[system], image)
        expected = sum(shares[:, k, None] * answers[k] for k in range(5))
        torch.testing.assert_close(models[system](image, shares), expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("layout", ["single", "mosaic", "random"])
    def test_soft_one_hot_is_hard(self, model, make_ids, layout):
        image, palette = picture(2, 3, 40, 50), make_ids(layout, (2, 40, 50))
        soft = F.one_hot(palette, 5).permute(0, 3, 1, 2).float()
        torch.testing.assert_close(model(image, soft), model(image, palette), rtol=1e-3, atol=1e-5)

    def test_soft_palette_for_one_image_or_the_batch(self, model):
        images, shares = picture(2, 3, 40, 50), fractions(1, 5, 40, 50)
        expected = model(images, shares.expand(2, -1, -1, -1))
        assert torch.equal(model(images, shares), expected)
        assert torch.equal(model(images, shares[0]), expected)
        assert torch.equal(model(images, shares.double()), expected)
        assert model(images[0], shares).shape == (3, 40, 50)

    def test_gradients_reach_a_soft_palette(self, model):
        image = picture(1, 3, 32, 64)
        with torch.enable_grad():
            shares = fractions(1, 5, 32, 64).requires_grad_()
            model(image, shares).square().sum().backward()
        assert shares.grad.isfinite().all()
        assert (shares.grad.abs().amax((0, 2, 3)) > 0).all()

    @pytest.mark.parametrize("system", ["mhn", "stn"])
    def test_only_requested_tasks_are_computed(self, make_model, system):
        model = make_model(system)
        decoders = model.decoders if system == "mhn" else [n.decoder for n in model.networks]
        ran = []
        for k, decoder in enumerate(decoders):
            decoder.register_forward_hook(lambda *_, k=k: ran.append(k))
        palette = torch.full((32, 32), 3)
        palette[:4] = 1
        palette[4:8] = 255
        model(picture(3, 32, 32), palette)
        assert ran == [1, 3]

    def test_order_of_tasks_gives_the_ids(self, make_model):
        model = make_model("stn", tasks=("normals", "seg"))
        image = picture(1, 3, 32, 32)
        answers = per_task_answers(model, image)
        for k, task in enumerate(model.tasks):
            composite = model(image, Palette.single(task, (32, 32), model.tasks))
            torch.testing.assert_close(composite, answers[k], rtol=1e-4, atol=1e-5)


class TestFeatures:
    @pytest.mark.parametrize("known", [False, True])
    def test_some_images_of_a_batch(self, model, make_ids, known):
        image, palette = picture(3, 3, 40, 50), make_ids("mosaic", (3, 40, 50))
        features = model.encode(image)
        if known:
            model.decode(features, palette)
        expected = model(image, palette)
        for rows in (torch.tensor([True, False, True]), torch.tensor([2, 0])):
            found = model.decode(features.select(rows), palette[rows])
            torch.testing.assert_close(found, expected[rows], rtol=1e-4, atol=1e-5)

    def test_an_stn_encodes_what_is_asked_once(self, make_model):
        model = make_model("stn")
        ran = []
        for k, network in enumerate(model.networks):
            network.encoder.register_forward_hook(lambda *_, k=k: ran.append(k))
        features = model.encode(picture(1, 3, 32, 32))
        assert ran == []
        for task in (3, 1, 3):
            model.decode(features, torch.full((32, 32), task))
        assert ran == [3, 1]
        assert [len(pyramid) for pyramid in features.pyramids] == [5] * 5
        assert ran == [3, 1, 0, 2, 4]
        assert features.pyramids[1:3] == [features.pyramids[1], features.pyramids[-3]]
        with pytest.raises(IndexError):
            features.pyramids[5]


class TestErrors:
    @pytest.mark.parametrize(
        "shape", [(40, 50), (1, 40, 50), (4, 40, 50), (1, 1, 3, 40, 50), (1, 4, 40, 50), (3, 0, 50)]
    )
    def test_image_of_another_shape(self, model, shape):
        with pytest.raises(ValueError, match=r"an image is \(N,3,H,W\) or \(3,H,W\); got"):
            model(torch.zeros(shape), torch.zeros(40, 50, dtype=torch.long))

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
    def test_image_of_whole_numbers(self, model, dtype):
        with pytest.raises(ValueError, match=r"float RGB in \[0, 1\].*Divide 8-bit values by 255"):
            model(torch.zeros(3, 40, 50, dtype=dtype), torch.zeros(40, 50, dtype=torch.long))

    @pytest.mark.parametrize(
        ("palette", "message"),
        [
            (torch.zeros(40, 49, dtype=torch.long), r"the palette is \(40, 49\)|\(1, 40, 49\)"),
            (torch.zeros(50, 40, dtype=torch.long), "both need the same height and width"),
            (torch.zeros(3, 40, 50, dtype=torch.long), "one palette or one for each image"),
            (torch.zeros(1, 1, 40, 50, dtype=torch.long), "the palette is"),
            (torch.zeros(40, dtype=torch.long), "the palette is"),
            (torch.zeros(40, 50, dtype=torch.bool), "got bool"),
            (torch.full((40, 50), 5), r"unknown task ids \[5\]; known: 0 = seg.*255 = nothing"),
            (torch.full((40, 50), -1), r"unknown task ids \[-1\]"),
            (torch.full((40, 50), 254, dtype=torch.uint8), r"unknown task ids \[254\]"),
            (torch.zeros(40, 50), r"fractions is \(N,K,H,W\), here \(2, 5, 40, 50\)"),
            (torch.full((4, 40, 50), 0.25), "a palette of fractions is"),
            (torch.full((3, 5, 40, 50), 0.2), "a palette of fractions is"),
            (torch.full((2, 5, 40, 49), 0.2), "a palette of fractions is"),
            (torch.full((2, 5, 40, 50), 0.3), "sums to 1"),
            (torch.zeros(2, 5, 40, 50), "sums to 1"),
            (torch.full((2, 5, 40, 50), math.nan), "sums to 1"),
            (
                torch.tensor([1.5, -0.5, 0, 0, 0]).view(1, 5, 1, 1).expand(2, 5, 40, 50),
                "at least 0",
            ),
            (Palette.single("seg", (40, 49)), "both need the same height and width"),
            (Palette.single("seg", (40, 50), ("seg",)), r"tasks are \('seg',\), ours \('seg', 'p"),
            (Palette.single("seg", (40, 50), DEFAULT_TASKS[::-1]), "the palette's tasks are"),
        ],
    )
    def test_bad_palette(self, model, palette, message):
        with pytest.raises(ValueError, match=message):
            model(torch.zeros(2, 3, 40, 50), palette)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"system": "cnt"}, "unknown system 'cnt'; did you mean 'ctn'"),
            ({"system": "CTN"}, "unknown system 'CTN'; allowed: ctn, mhn, stn"),
            ({"encoder": "resnet43"}, "unknown encoder 'resnet43'; did you mean 'resnet34'"),
            ({"decoder": "papier"}, "unknown decoder 'papier'; did you mean 'paper'"),
            ({"tasks": ()}, "one or more different names"),
            ({"tasks": ("seg", "seg")}, "one or more different names"),
            ({"tasks": ("seg", "normal")}, "unknown task 'normal'; did you mean 'normals'"),
        ],
    )
    def test_bad_configuration(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            create(**arguments)

    def test_codes_too_short_for_the_tasks(self):
        with pytest.raises(ValueError, match="5 tasks need codes of at least 100 entries, got 80"):
            build(ModelConfig(code_length=80))

    def test_unknown_decoder(self):
        with pytest.raises(ValueError, match="unknown decoder 'compakt'; did you mean 'compact'"):
            get_decoder_config("compakt")
        assert get_decoder_config("paper") is DECODERS["paper"]


class TestConfig:
    @pytest.mark.parametrize(
        "config",
        [
            ModelConfig(),
            ModelConfig("mhn", "resnet18", "paper", ("normals", "seg"), 60),
            ModelConfig("stn", "timm:resnet10t", DECODERS["compact"]),
            ModelConfig(decoder=DecoderConfig((9, 8, 7, 6, 5), image=(2, 3), align_corners=True)),
            ModelConfig(decoder=DECODERS["light"]),
        ],
        ids=["default", "named", "stn", "own", "light"],
    )
    def test_round_trip_through_json(self, config):
        plain = config.to_dict()
        assert json.loads(json.dumps(plain)) == plain
        again = ModelConfig.from_dict(plain)
        assert again == config
        assert again.decoder_config == config.decoder_config

    def test_fields_that_came_later_are_left_out_where_unused(self):
        plain = ModelConfig(decoder=DECODERS["compact"]).to_dict()
        assert set(plain["decoder"]) == {
            "stages", "skips", "image", "hidden", "embedding", "bias", "align_corners", "outputs",
        }  # fmt: skip
        later = ModelConfig(decoder=DECODERS["light"]).to_dict()["decoder"]
        assert later["subpixel"] is True and len(later["depthwise"]) == 5

    def test_partial(self):
        assert ModelConfig.from_dict({"tasks": ["seg"]}) == ModelConfig(tasks=("seg",))
        assert ModelConfig.from_dict({}) == ModelConfig()

    def test_is_a_value(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            ModelConfig().system = "mhn"

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"sytem": "ctn"}, "unknown key 'sytem' in a model's config; did you mean 'system'"),
            ({"system": "xyz"}, "unknown system 'xyz'"),
            ({"decoder": "none"}, "unknown decoder 'none'"),
            ({"tasks": []}, "one or more different names"),
            (
                {"decoder": {"stages": [1] * 5, "skip": [1] * 5}},
                "unknown key 'skip' in a decoder's config; did you mean 'skips'",
            ),
            ({"decoder": {"bias": True}}, "a decoder's config lacks the key 'stages'"),
        ],
    )
    def test_bad_values(self, values, message):
        with pytest.raises(ValueError, match=message):
            ModelConfig.from_dict(values)

    @pytest.mark.parametrize("tasks", [("normals", "edges", "seg"), ("parts",)])
    def test_rebuilt_network_is_the_same(self, make_model, make_ids, tasks):
        for system in SYSTEMS:
            model = make_model(system, tasks=tasks)
            config = ModelConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
            torch.manual_seed(99)
            again = build(config).eval()
            image = picture(2, 3, 33, 40)
            palette = make_ids("random", (2, 33, 40), tasks=len(tasks))
            before = model(image, palette)
            assert again.tasks == tasks
            assert not torch.equal(again(image, palette), before)
            again.load_state_dict(model.state_dict(), strict=True)
            assert torch.equal(again(image, palette), before)

    @pytest.mark.parametrize("system", SYSTEMS)
    def test_seed_gives_the_weights(self, tiny, system):
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(create(system, decoder=tiny, tasks=("seg", "edges")).state_dict())
        first, again, other = states
        assert list(first) == list(again) == list(other)
        assert all(torch.equal(first[key], again[key]) for key in first)
        assert any(not torch.equal(first[key], other[key]) for key in first)

    def test_weights_of_another_system_are_refused(self, models):
        with pytest.raises(RuntimeError, match="Missing key"):
            build(models["mhn"].config).load_state_dict(models["ctn"].state_dict(), strict=True)

    @pytest.mark.parametrize("encoder", ["resnet18", "timm:test_efficientnet"])
    def test_other_encoders(self, make_model, make_ids, encoder):
        if encoder.startswith("timm:"):
            pytest.importorskip("timm")
        for system in SYSTEMS:
            model = make_model(system, encoder, tasks=("seg", "normals"))
            composite = model(picture(1, 3, 33, 40), make_ids("random", (1, 33, 40), tasks=2))
            assert composite.shape == (1, 3, 33, 40)
            assert composite.isfinite().all()
