"""Deep supervision: coarse heads that watch the decoders of a network in training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctnet.blocks.decoder_config import DecoderConfig
from ctnet.data.sample import Sample
from ctnet.models.base import CompositeModel, build
from ctnet.models.config import ModelConfig
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.auxiliary import AuxiliaryHeads
from ctnet.training.losses import CompositeLoss

DECODER = DecoderConfig((8, 7, 6, 5, 4), (3, 3, 4, 4, 5), (3, 3), (4,) * 6, 6)
SUBPIXEL = replace(DECODER, image=(3,), depthwise=(3, 5, 3, 3, 3), subpixel=True)
WEIGHTS = {"seg": 2.0, "normals": 3.0}
CLASS_WEIGHTS = {"parts": torch.linspace(0.5, 2, 7)}


@pytest.fixture(params=["ctn", "mhn", "stn", "ctn, subpixel"])
def model(request: pytest.FixtureRequest) -> CompositeModel:
    torch.manual_seed(0)
    system, _, subpixel = request.param.partition(", ")
    decoder = SUBPIXEL if subpixel else DECODER
    return build(ModelConfig(system, "efficientnet_lite0", decoder)).train()


@pytest.fixture
def heads(model: CompositeModel) -> AuxiliaryHeads:
    return AuxiliaryHeads(model, CompositeLoss(DEFAULT_TASKS, WEIGHTS, 0.0, CLASS_WEIGHTS, 10.0))


def make_sample(tasks: int = 5) -> Sample:
    """Cells of 8 pixels, which hold one request and one label each."""
    generator = torch.Generator().manual_seed(1)

    def cells(top: int) -> Tensor:
        small = torch.randint(top, (2, 8, 8), generator=generator)
        return small.repeat_interleave(8, 1).repeat_interleave(8, 2)

    palette = cells(tasks + 1)
    palette[palette == tasks] = 255
    normals = torch.randn(2, 3, 8, 8, generator=generator).repeat_interleave(8, 2)
    labels = {
        "seg": cells(21), "parts": cells(7), "edges": cells(2).float(),
        "saliency": cells(2).float(), "normals": F.normalize(normals.repeat_interleave(8, 3)),
    }  # fmt: skip
    valid = torch.stack([cells(4) > 0 for _ in DEFAULT_TASKS], 1)
    return Sample(torch.rand(2, 3, 64, 64, generator=generator), palette, labels, valid)


def coarse(sample: Sample) -> Sample:
    """Every fourth pixel; all pixels of a cell are the same."""
    labels = {name: label[..., ::4, ::4] for name, label in sample.labels.items()}
    return Sample(
        sample.image[..., ::4, ::4],
        sample.palette[..., ::4, ::4],
        labels,
        sample.valid[..., ::4, ::4],
    )


def decoders(model: CompositeModel) -> list[nn.Module]:
    found = [*getattr(model, "decoders", []), *getattr(model, "networks", [])]
    return [getattr(part, "decoder", part) for part in found] or [model.decoder]


def test_losses_are_those_of_linear_heads_at_stride_4(
    model: CompositeModel, heads: AuxiliaryHeads
) -> None:
    sample = make_sample()
    seen: list[Tensor] = []
    for decoder in decoders(model):
        decoder.stages[2].register_forward_hook(lambda _, __, output: seen.append(output))
    model(sample.image, sample.palette)
    result = heads(sample)
    small = coarse(sample)
    composite = torch.zeros_like(small.image)
    expected = torch.zeros(())
    for number, name in enumerate(DEFAULT_TASKS):
        features = seen[number if len(seen) > 1 else 0]
        head = heads.composite[number if len(seen) > 1 else 0]
        asked = small.palette == number
        composite = torch.where(asked[:, None], head(features), composite)
        if name in ("seg", "parts"):
            scores = heads.classes[name](features)
            assert torch.equal(result.guides[name], scores)
            label = small.labels[name].where(asked & small.valid[:, number], -1)
            weights = CLASS_WEIGHTS.get(name)
            entropy = F.cross_entropy(scores, label, weights, ignore_index=-1)
            expected = expected + WEIGHTS.get(name, 1.0) * entropy
    total, losses = heads.loss(composite, small)
    assert result.losses == pytest.approx(losses)
    torch.testing.assert_close(result.total, total + expected)


def test_gradients_reach_what_makes_the_features(
    model: CompositeModel, heads: AuxiliaryHeads
) -> None:
    sample = make_sample()
    model(sample.image, sample.palette)
    heads(sample).total.backward()
    for decoder in decoders(model):
        for parameter in (*decoder.stages[:3].parameters(), *decoder.skips[1:].parameters()):
            assert parameter.grad is not None
        for module in (*decoder.stages[3:], *decoder.image, decoder.skips[0], decoder.head):
            assert all(parameter.grad is None for parameter in module.parameters())
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_coarse_networks_stop_at_the_features(model: CompositeModel, heads: AuxiliaryHeads) -> None:
    sample = make_sample()
    late: list[str] = []
    for decoder in decoders(model):
        for module in (*decoder.stages[3:], *decoder.image, decoder.skips[0], decoder.head):
            module.register_forward_hook(lambda *_: late.append("ran"))
    with torch.no_grad():
        features = model.encode(sample.image)
        model.decode(features, sample.palette)
        expected = heads(sample)
        assert late
        late.clear()
        heads.decode_coarse(model, features, sample.palette)
        found = heads(sample)
        assert not late
    assert found.guides
    torch.testing.assert_close(found.total, expected.total)


def test_labels_elsewhere_do_not_matter(model: CompositeModel, heads: AuxiliaryHeads) -> None:
    sample = make_sample()
    model.eval()

    def total() -> Tensor:
        with torch.no_grad():
            model(sample.image, sample.palette)
            return heads(sample).total

    before = total()
    for number, name in enumerate(DEFAULT_TASKS):
        elsewhere = ~((sample.palette == number) & sample.valid[:, number])
        if name == "normals":
            elsewhere = elsewhere[:, None].expand(-1, 3, -1, -1)
        sample.labels[name][elsewhere] = 255 if name in ("seg", "parts") else torch.nan
    assert torch.equal(total(), before)


def test_nothing_asked_is_nothing_to_learn(model: CompositeModel, heads: AuxiliaryHeads) -> None:
    sample = make_sample()
    sample.palette.fill_(255)
    model(sample.image, sample.palette)
    result = heads(sample)
    assert float(result.total.detach()) == 0
    assert result.losses == {}
    assert result.guides == {}
