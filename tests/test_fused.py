"""Networks compiled for inference equal those that are not, for every kind of request."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import SUBPIXEL, TINY
from test_conditioning import LAYOUTS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import ctnet
from ctnet import reference
from ctnet.blocks.encoders import create_encoder
from ctnet.fused import bands
from ctnet.fused import block as fused
from ctnet.fused.bands import in_bands
from ctnet.fused.folding import fold_encoder
from ctnet.fused.regions import Box, upsampling_reads
from ctnet.fused.scale_shift import compiled_step, step_by_blocks
from ctnet.fused.upsampled_conv import add_convolved, split_taps
from ctnet.profiling.measure import peak_bytes
from ctnet.tasks import DEFAULT_TASKS

SYSTEMS = ["ctn", "mhn", "stn"]
DECODERS = {
    "tiny": TINY,
    "corners": replace(TINY, align_corners=True, bias=True, skips=None, image=None),
    "subpixel": SUBPIXEL,
    "separable": replace(TINY, align_corners=True, bias=True, depthwise=(5, 0, 3, 7, 3)),
    "subpixel corners": replace(
        SUBPIXEL, align_corners=True, bias=True, skips=None, image=None, depthwise=(0,) * 5
    ),
}


def picture(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def fractions(*shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (3 * logits).softmax(1)


class Operators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def model(make_model):
    return make_model("ctn").double()


class TestSameAnswers:
    @pytest.mark.parametrize("wide", [1, 1000], ids=["split", "joined"])
    @pytest.mark.parametrize("decoder", DECODERS)
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_every_kind_of_palette(self, make_model, make_ids, monkeypatch, system, decoder, wide):
        monkeypatch.setattr(fused, "WIDE", wide)
        tasks = DEFAULT_TASKS if system == "ctn" else ("seg", "normals")
        model = make_model(system, decoder=DECODERS[decoder], tasks=tasks).double()
        image, size = picture(2, 3, 40, 33), (2, 40, 33)
        palettes = {layout: make_ids(layout, size, tasks=len(tasks)) for layout in LAYOUTS}
        palettes["soft"] = fractions(2, len(tasks), 40, 33)
        with torch.no_grad():
            features = model.encode(image)
            before = {name: model.decode(features, palette) for name, palette in palettes.items()}
            model.fuse()
            for name, palette in palettes.items():
                found = model.decode(features, palette)
                assert (found - before[name]).abs().max() <= 1e-10, name
                # From tables and folded kernels that are kept.
                assert torch.equal(model.decode(features, palette), found), name

    @pytest.mark.parametrize("layout", [*LAYOUTS, "soft"])
    def test_the_papers_own_formulation(self, model, make_ids, layout):
        image = picture(2, 3, 64, 32)
        soft = layout == "soft"
        palette = fractions(2, 5, 64, 32) if soft else make_ids(layout, (2, 64, 32))
        with torch.no_grad():
            expected = reference.ctn(model, image, palette)
            assert (model.fuse()(image, palette) - expected).abs().max() <= 1e-10

    @pytest.mark.parametrize("encoder", ["efficientnet_lite2", "resnet18"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_encoders_and_types(self, make_model, make_ids, encoder, dtype):
        model = make_model("ctn", encoder).to(dtype)
        image, bound = picture(1, 3, 33, 40, dtype=dtype), 1e-4 if dtype == torch.float32 else 1e-10
        for layout in ("single", "random"):
            palette = make_ids(layout, (1, 33, 40))
            with torch.no_grad():
                before = model.train(False)(image, palette)
                found = model.fuse()(image, palette)
                model.train().eval()
            assert found.dtype == dtype
            assert (found - before).abs().max() <= bound * max(1, before.abs().max())

    @pytest.mark.parametrize(
        ("encoder", "decoder"),
        [
            ("efficientnet_lite0", "compact"),
            ("efficientnet_lite0", "light"),
            ("resnet18", "paper"),
        ],
    )
    def test_decoders_of_the_zoo_in_float32(self, make_model, make_ids, encoder, decoder):
        model = make_model("ctn", encoder, decoder)
        image = picture(1, 3, 64, 64, dtype=torch.float32)
        for layout in ("single", "mosaic", "random"):
            palette = make_ids(layout, (1, 64, 64))
            with torch.no_grad():
                before = model.train(False)(image, palette)
                found = model.fuse()(image, palette)
                model.train().eval()
            assert (found - before).abs().max() <= 1e-4

    @pytest.mark.parametrize(
        "name", ["resnet18", "efficientnet_lite0", "timm:test_efficientnet", "timm:test_resnet"]
    )
    def test_folded_encoders(self, name):
        if name.startswith("timm:"):
            pytest.importorskip("timm")
        torch.manual_seed(0)
        encoder = create_encoder(name).eval().double()
        for key, buffer in encoder.named_buffers():
            if key.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            elif key.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
        x = picture(1, 3, 64, 96)
        with torch.no_grad():
            before = encoder(x)
            folded = fold_encoder(encoder)
            assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
            for level in (before, encoder(x)):
                for ours, theirs in zip(folded(x), level, strict=True):
                    assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()

    @pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
    @pytest.mark.parametrize("size", [(256, 160), (32, 320), (288, 32)])
    def test_large_maps_in_bands(self, monkeypatch, name, size):
        torch.manual_seed(0)
        encoder = create_encoder(name).eval().double()
        x = picture(2, 3, *size)
        with torch.no_grad():
            whole = encoder(x)
            monkeypatch.setattr(bands, "BANDED_FROM", 64)
            monkeypatch.setattr(bands, "BAND", 600)
            banded = in_bands(fold_encoder(encoder))(x)
        for ours, theirs in zip(banded, whole, strict=True):
            assert (ours - theirs).abs().max() <= 1e-10 * theirs.abs().max()

    def test_large_photographs_take_less_memory_in_bands(self, monkeypatch):
        encoder = fold_encoder(create_encoder("efficientnet_lite0").eval())
        image = torch.zeros(1, 3, 512, 512)
        with torch.no_grad():
            whole = peak_bytes(lambda: encoder(image))
            monkeypatch.setattr(bands, "BANDED_FROM", 64 * 64)
            monkeypatch.setattr(bands, "BAND", 64 * 64)
            assert peak_bytes(lambda: in_bands(encoder)(image)) < 0.6 * whole

    def test_weight_standardised_convolutions_keep_their_norms(self):
        timm = pytest.importorskip("timm")
        conv = timm.layers.ScaledStdConv2d(3, 4, 3, padding=1)
        norm = torch.nn.BatchNorm2d(4)
        norm.running_mean.normal_()
        network = torch.nn.Sequential(conv, norm).eval().double()
        x = picture(1, 3, 8, 8)
        with torch.no_grad():
            folded = fold_encoder(network)
            assert isinstance(folded[1], torch.nn.BatchNorm2d)
            assert torch.equal(folded(x), network(x))

    def test_half_the_bits(self, make_model, make_ids):
        model = make_model("ctn")
        image, palette = picture(1, 3, 64, 64, dtype=torch.float32), make_ids("mosaic", (1, 64, 64))
        with torch.no_grad():
            before = model(image, palette)
            found = model.fuse(torch.bfloat16)(image, palette)
        assert found.dtype == torch.float32
        error = (found - before).abs().max() / before.abs().max()
        assert 1e-5 < error < 0.05


class TestConvolvingBeforeUpsampling:
    @pytest.mark.parametrize("align_corners", [True, False])
    @pytest.mark.parametrize("size", [(1, 1), (1, 4), (9, 40)])
    def test_any_part_equals_convolving_after(self, rng, size, align_corners):
        torch.manual_seed(0)
        x, weight = torch.randn(2, 4, *size).double(), torch.randn(3, 4, 3, 3).double()
        fine = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)
        expected = F.conv2d(fine, weight, padding=1)
        for _ in range(10):
            start = [int(rng.integers(2 * side)) for side in size]
            stop = [int(rng.integers(a, 2 * side)) + 1 for a, side in zip(start, size, strict=True)]
            wanted = Box(*start, *stop)
            has = upsampling_reads(wanted.grow(1, fine.shape[2:]), size, align_corners)
            part = x[(..., *has.slices)]
            found = torch.ones(2, *wanted.size, 3).double().permute(0, 3, 1, 2)
            add_convolved(found, part, split_taps(weight), has, wanted, size, align_corners)
            assert (found - expected[(..., *wanted.slices)] - 1).abs().max() <= 1e-10

    def test_it_saves_half_the_decoder(self, make_model):
        image, palette = torch.rand(1, 3, 64, 64), torch.zeros(64, 64, dtype=torch.long)
        model = make_model("ctn", "resnet18", "paper")
        operations = []
        with torch.no_grad():
            for _ in range(2):
                features = model.encode(image)
                model.decode(features, palette)
                with FlopCounterMode(display=False) as counter:
                    model.decode(features, palette)
                operations.append(counter.get_total_flops())
                model.fuse()
        assert operations[1] < 0.6 * operations[0]


class TestStep:
    @pytest.mark.parametrize("count", [1, 7, 5000])
    @pytest.mark.parametrize("kind", ["blocks", "compiled"])
    def test_scales_shifts_and_activates(self, monkeypatch, kind, count):
        monkeypatch.setattr("ctnet.fused.scale_shift.BLOCK", 600)
        monkeypatch.setattr(torch, "compile", lambda function, **_: function)
        step = step_by_blocks if kind == "blocks" else compiled_step()
        torch.manual_seed(0)
        cells, scale, shift = torch.randn(count, 3), torch.randn(4, 3), torch.randn(4, 3)
        index = torch.randint(4, (count,))
        expected = [
            [y if y > 0 else 0.01 * y for y in (cells[i] * scale[row] + shift[row]).tolist()]
            for i, row in enumerate(index.tolist())
        ]
        step(cells, scale, shift, index)
        torch.testing.assert_close(cells, torch.tensor(expected))


class TestCost:
    def test_one_task_costs_no_look_up(self, model, make_ids):
        image = picture(1, 3, 64, 64)
        counts = {}
        model.fuse()
        for layout in ("single", "mosaic"):
            palette = make_ids(layout, (1, 64, 64))
            with torch.no_grad():
                features = model.encode(image)
                model.decode(features, palette)
                with Operators() as operators:
                    model.decode(features, palette)
            counts[layout] = operators.counts
        # 5 skips, 2 blocks on the image, 5 stages and the head.
        assert counts["single"]["convolution"] == counts["mosaic"]["convolution"] == 13
        assert counts["single"]["leaky_relu_"] == 12
        for lookup in ("index_select", "addcmul", "addmm", "mm"):
            assert lookup not in counts["single"]
        assert counts["mosaic"]["index_select"] == 2 * 12

    def test_no_norm_is_left_in_the_encoder(self, model):
        image = picture(1, 3, 64, 64)
        with torch.no_grad():
            model.fuse().encode(image)
            with Operators() as operators:
                model.encode(image)
        norms = [name for name in operators.counts if "batch_norm" in name]
        assert norms == []
        # Nothing is folded anew in each pass.
        assert "rsqrt" not in operators.counts


class TestState:
    def test_weights_are_those_of_the_network(self, model, make_ids):
        before = copy.deepcopy(model.state_dict())
        model.fuse()
        with torch.no_grad():
            model(picture(1, 3, 32, 32), make_ids("random", (1, 32, 32)))
        after = model.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[key], before[key]) for key in before)
        assert len(list(model.parameters())) == len(list(copy.deepcopy(model).parameters()))

    def test_training_mode_undoes_it(self, model):
        assert not model.fused
        assert model.fuse() is model
        assert model.fused
        model.eval()
        assert model.fused
        model.train()
        assert not model.fused
        model.eval()
        assert not model.fused

    def test_gradients_flow_as_before(self, model, make_ids):
        image, palette = picture(1, 3, 32, 32), make_ids("random", (1, 32, 32))
        names, parameters = zip(*model.named_parameters(), strict=True)
        expected = torch.autograd.grad(model(image, palette).square().sum(), parameters)
        found = torch.autograd.grad(model.fuse()(image, palette).square().sum(), parameters)
        for name, ours, theirs in zip(names, found, expected, strict=True):
            assert torch.equal(ours, theirs), name

    def test_gradients_of_a_soft_palette(self, model):
        model.fuse().requires_grad_(False)
        shares = fractions(1, 5, 32, 32).requires_grad_()
        model(picture(1, 3, 32, 32), shares).square().sum().backward()
        assert (shares.grad.abs().amax((0, 2, 3)) > 0).all()

    @pytest.mark.parametrize(
        "change",
        [
            lambda model: model.decoder.stages[2].norm.beta.bias.add_(1),
            lambda model: model.encoder.stem.norm.running_mean.add_(0.5),
            lambda model: model.representation.mapping[0].weight.mul_(2),
            lambda model: setattr(
                model.decoder, "head", torch.nn.Conv2d(5, 3, 1, dtype=torch.float64)
            ),
            lambda model: model.load_state_dict(
                {k: 0.9 * v for k, v in model.state_dict().items()}
            ),
        ],
        ids=["beta", "statistics", "embedding", "module", "load"],
    )
    def test_changes_are_noticed(self, model, make_ids, change):
        image, palette = picture(1, 3, 32, 32), make_ids("mosaic", (1, 32, 32))
        with torch.no_grad():
            before = model.fuse()(image, palette)
            change(model)
            found = model(image, palette)
            model.train().eval()
            expected = model(image, palette)
        assert (found - expected).abs().max() <= 1e-10
        assert (found - before).abs().max() > 1e-6

    def test_other_types_and_copies(self, model, make_ids):
        palette = make_ids("mosaic", (1, 32, 32))
        image = picture(1, 3, 32, 32)
        with torch.no_grad():
            expected = model.fuse()(image, palette)
            assert torch.equal(copy.deepcopy(model)(image, palette), expected)
            found = model.float()(image, palette)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)

    def test_frozen_statistics_of_a_part_in_training(self, model, make_ids):
        model.fuse()
        model.encoder.train()
        with torch.no_grad(), pytest.raises(ValueError, match="training mode; call its eval"):
            model(picture(1, 3, 64, 64), make_ids("mosaic", (1, 64, 64)))

    def test_a_task_more(self, model, make_ids):
        image, palette = picture(1, 3, 32, 32), make_ids("mosaic", (1, 32, 32))
        spec = ctnet.TaskSpec("depth", "depth", "probability", (0, 150, 136))
        grown = ctnet.add_task(model.fuse(), spec, like="normals").fuse()
        new = torch.where(palette == 3, 5, palette)
        with torch.no_grad():
            assert (grown(image, palette) - model(image, palette)).abs().max() <= 1e-12
            assert grown(image, new).isfinite().all()

    def test_made_in_inference_mode_used_outside(self, model, make_ids):
        image, palette = picture(1, 3, 32, 32), make_ids("single", (1, 32, 32))
        model.fuse()
        with torch.inference_mode():
            first = model(image, palette)
        with torch.no_grad():
            assert torch.equal(model(image, palette), first)
