"""Parts of an answer, edited palettes, every task at once: equal to full passes, and cheaper."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SUBPIXEL, TINY
from torch.utils.flop_counter import FlopCounterMode

from ctnet.fused import block as fused
from ctnet.fused import network as fused_network
from ctnet.fused.decoder import FusedDecoder
from ctnet.fused.regions import Box
from ctnet.palette import Palette

DECODERS = {
    "corners": replace(TINY, align_corners=True, bias=True),
    "tiny": TINY,
    "subpixel": SUBPIXEL,
    "subpixel corners": replace(SUBPIXEL, align_corners=True, depthwise=(0, 0, 3, 5, 0)),
}


def picture(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module", params=[*DECODERS, "split"])
def model(request, make_model):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "WIDE", 1 if request.param == "split" else 1000)
        model = make_model("ctn", decoder=DECODERS.get(request.param, DECODERS["corners"])).double()
        model.fused_network()
    return model


class TestParts:
    @pytest.mark.parametrize("layout", ["single", "mosaic", "random", "partly"])
    def test_any_part_of_the_answer(self, model, make_ids, rng, layout):
        features = model.encode(picture(1, 3, 160, 128))
        palette = make_ids(layout, (1, 160, 128))
        expected = model.decode(features, palette)
        boxes = [(0, 0, 1, 1), (159, 127, 160, 128), (0, 0, 160, 128), (31, 33, 64, 65)]
        for _ in range(8):
            top, left = (int(rng.integers(0, side)) for side in (160, 128))
            boxes.append(
                (top, left, int(rng.integers(top, 160)) + 1, int(rng.integers(left, 128)) + 1)
            )
        for box in boxes:
            part = model.fused_network().decode(features, palette, Box(*box))
            whole = expected[(..., *Box(*box).slices)]
            assert (part - whole).abs().max() <= 1e-10, box

    @pytest.mark.parametrize("system", ["ctn", "mhn"])
    @pytest.mark.parametrize("layout", ["mosaic", "single"])
    def test_large_images_have_no_seams(self, make_model, make_ids, monkeypatch, system, layout):
        model = make_model(system, tasks=("seg", "normals")).double()
        image, palette = picture(1, 3, 150, 200), make_ids(layout, (1, 150, 200), tasks=2)
        expected = model(image, palette)
        sizes = []
        monkeypatch.setattr(fused_network, "TILE", 64)
        monkeypatch.setattr(fused_network, "TILED_FROM", 100 * 100)
        plan = FusedDecoder.plan
        monkeypatch.setattr(
            FusedDecoder,
            "plan",
            lambda self, *given: sizes.append(given[0].size) or plan(self, *given),
        )
        try:
            found = model.fuse()(image, palette)
            everything = model.decode_all(model.encode(image))
        finally:
            model.train().eval()
        assert len(sizes) == 3 * 12
        assert max(sizes) == (64, 64)
        assert (found - expected).abs().max() <= 1e-10
        for task in range(2):
            dense = model(image, torch.full((150, 200), task))
            assert (everything[:, task] - dense).abs().max() <= 1e-10


class TestSession:
    @pytest.mark.parametrize("layout", ["single", "mosaic", "random"])
    def test_edits_equal_full_passes(self, model, make_ids, rng, layout):
        image, palette = picture(3, 200, 170), make_ids(layout, (1, 200, 170))[0]
        session = model.session(image)
        assert session.computed is None
        kept = session.decode(palette)
        first = kept.clone()
        assert (first - model(image, palette)).abs().max() <= 1e-10
        for _ in range(5):
            top, left = (int(rng.integers(0, side)) for side in (190, 160))
            palette[top : top + int(rng.integers(1, 40)), left : left + 20] = int(rng.integers(5))
            found = session.decode(palette)
            assert found.shape == (3, 200, 170)
            assert (found - model(image, palette)).abs().max() <= 1e-10
        assert torch.equal(kept, first)

    def test_only_what_an_edit_reaches_is_computed(self, model, make_ids):
        image, palette = picture(3, 256, 288), make_ids("mosaic", (1, 256, 288))[0]
        session = model.session(image)
        before = session.decode(palette)
        assert session.computed == Box(0, 0, 256, 288)
        edited = palette.clone()
        edited[100:120, 130:140] = 4
        after = session.decode(edited)
        # The coarsest cells that it touches; around them each stage's upsampling reaches a cell
        # further, and its kernel.
        config = model.config.decoder
        cells = [1 + (side or 3) // 2 for side in config.depthwise]
        around = sum(stride * n for stride, n in zip((16, 8, 4, 2, 1), cells, strict=True))
        # Without upsampling, at stride 2.
        around += 2 * (cells[4] - 1) - cells[4] if config.subpixel else 0
        reached = Box(96 - around, 128 - around, 128 + around, 160 + around)
        computed = session.computed
        assert computed.join(reached) == (
            reached if not model.config.decoder.align_corners else computed.join(reached)
        )
        assert computed.size[0] * computed.size[1] <= 1.1 * reached.size[0] * reached.size[1]
        changed = (after - before).abs().amax(0) > 1e-12
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        assert computed.top <= rows.min() <= computed.top + 3
        assert computed.bottom - 3 <= rows.max() + 1 <= computed.bottom
        assert computed.left <= columns.min() <= computed.left + 3
        assert computed.right - 3 <= columns.max() + 1 <= computed.right

    def test_the_same_palette_costs_nothing(self, model, make_ids):
        image, palette = picture(2, 3, 64, 64), make_ids("mosaic", (2, 64, 64))
        session = model.session(image)
        first = session.decode(palette)
        assert operations(lambda: session.decode(palette)) == 0
        assert session.computed is None
        assert torch.equal(session.decode(palette), first)

    def test_batches_palette_objects_and_soft_palettes(self, model, make_ids):
        image = picture(2, 3, 64, 96)
        session = model.session(image)
        ids = make_ids("random", (2, 64, 96))
        soft = torch.nn.functional.one_hot(ids, 5).permute(0, 3, 1, 2).double()
        other = soft.clone()
        other[1, :, 5:20, 5:20] = 0.2
        mosaic = Palette.mosaic((64, 96), np.random.default_rng(0))
        for palette in (ids, mosaic, soft, other, mosaic.paint_box((3, 4, 9, 9), None)):
            difference = session.decode(palette) - model(image, palette)
            assert difference.abs().max() <= 1e-10

    @pytest.mark.parametrize("system", ["mhn", "stn"])
    def test_other_systems(self, make_model, make_ids, system):
        model = make_model(system, tasks=("seg", "normals")).double()
        image, palette = picture(3, 64, 96), make_ids("mosaic", (1, 64, 96), tasks=2)[0]
        session = model.session(image)
        session.decode(palette)
        palette[10:20, 10:20] = 255
        assert (session.decode(palette) - model(image, palette)).abs().max() <= 1e-10

    @pytest.mark.parametrize("shift", [0, 13], ids=["on-the-grid", "off-the-grid"])
    def test_an_edit_of_a_sixteenth_costs_less_than_a_fifth(self, make_model, shift):
        model = make_model("ctn", "efficientnet_lite0", "compact")
        image = picture(1, 3, 512, 512, dtype=torch.float32)
        palette = Palette.mosaic((512, 512), np.random.default_rng(0)).tensor()
        session = model.session(image)
        session.decode(palette)
        box = slice(192 + shift, 320 + shift)
        palette[box, box] = (palette[box, box] + 1) % 5
        edit = operations(lambda: session.decode(palette))
        assert 5 * edit <= operations(lambda: model.session(image).decode(palette))

    def test_inference_mode_at_one_time_and_not_at_another(self, model, make_ids):
        image, palette = picture(3, 64, 64), make_ids("mosaic", (1, 64, 64))[0]
        with torch.inference_mode():
            session = model.session(image)
            session.decode(palette)
        palette[3:9, 3:9] = 2
        assert (session.decode(palette) - model(image, palette)).abs().max() <= 1e-10
        with torch.inference_mode():
            palette[30:40, 3:9] = 1
            assert (session.decode(palette) - model(image, palette)).abs().max() <= 1e-10

    def test_large_images_are_not_remembered(self, model, make_ids, monkeypatch):
        monkeypatch.setattr(fused_network, "REMEMBERED_TO", 64 * 64)
        image, palette = picture(3, 96, 64), make_ids("mosaic", (1, 96, 64))[0]
        session = model.session(image)
        session.decode(palette)
        palette[3:9, 3:9] = 2
        assert (session.decode(palette) - model(image, palette)).abs().max() <= 1e-10

    def test_training_mode_is_refused(self, make_model):
        model = make_model("ctn").train()
        with pytest.raises(ValueError, match="in training mode; call its eval"):
            model.session(picture(3, 32, 32))


class TestEverything:
    @pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
    def test_each_task_as_if_alone(self, make_model, system):
        model = make_model(system, tasks=("normals", "seg", "edges")).double()
        image = picture(2, 3, 40, 50)
        found = model.decode_all(model.encode(image))
        assert found.shape == (2, 3, 3, 40, 50)
        for task in range(3):
            alone = model(image, torch.full((40, 50), task))
            assert (found[:, task] - alone).abs().max() <= 1e-10

    def test_what_no_request_changes_is_computed_once(self, model):
        image = picture(1, 3, 64, 64)
        model.fused_network()
        features = model.encode(image)
        everything = operations(lambda: model.decode_all(features))
        single = torch.zeros(64, 64, dtype=torch.long)
        # Tables of tasks are a few multiplications: left out by asking twice.
        model.fused_network().decode(features, single[None])
        once = operations(lambda: model.fused_network().decode(features, single[None]))
        config, channels = model.config.decoder, model.encoder.channels
        # A kernel of 3 x 3 at every pixel, or of 4 x 4 at every cell of 2 x 2.
        on_image = 16 * 32**2 if config.subpixel else 9 * 64**2
        shared = 3 * config.image[0] * on_image + sum(
            a * b * (32 >> level) ** 2
            for level, (a, b) in enumerate(zip(channels, config.skips, strict=True))
        )
        tables = everything - (5 * once - 4 * shared)
        assert 0 <= tables <= 0.02 * everything

    def test_predictions(self, make_model):
        model = make_model("ctn", tasks=("normals", "seg"))
        photograph = (255 * np.random.default_rng(0).random((70, 90, 3))).astype(np.uint8)
        found = model.predict_all(photograph, long_side=64)
        assert list(found) == ["normals", "seg"]
        for task, prediction in found.items():
            alone = model.predict(photograph, f"single:{task}", 64)
            assert prediction.palette == alone.palette
            assert prediction.labels.keys() == {task}
            np.testing.assert_allclose(
                prediction.labels[task].astype(float), alone.labels[task].astype(float), atol=1e-4
            )
        with pytest.raises(ValueError, match="long_side is a whole number of at least 32"):
            model.predict_all(photograph, long_side=31)
