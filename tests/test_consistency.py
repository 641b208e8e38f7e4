"""Consistency: targets, views and losses against independent computations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ctnet import create
from ctnet.data.crops import CHANCES, draw_crops
from ctnet.data.dataset import open_source
from ctnet.data.photograph_stack import PhotographStack
from ctnet.data.sample import Sample
from ctnet.labels import class_anchors
from ctnet.models.base import CompositeModel
from ctnet.models.config import ModelConfig
from ctnet.rules import R1, R2, Rule
from ctnet.tasks import DEFAULT_TASKS, TASKS, TaskName, TaskSpec
from ctnet.training.config import TrainConfig
from ctnet.training.consistency import (
    SURE_LOGIT_SCALE,
    Consistency,
    ConsistencyConfig,
    draw_box,
    strong_view,
)
from ctnet.training.losses import CompositeLoss

SEG, PARTS, EDGES, SALIENCY, NORMALS = range(5)
SIZE = 32


def make_sample(n: int = 3, seed: int = 0) -> Sample:
    """Every task asked for somewhere; about half of the pixels labeled; a border outside."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n, SIZE, SIZE)

    def integers(top: int) -> Tensor:
        return torch.randint(top, shape, generator=generator)

    palette = integers(6)
    palette[palette == 5] = 255
    normals = torch.randn((n, 3, SIZE, SIZE), generator=generator)
    labels = {
        "seg": integers(21), "parts": integers(7), "edges": torch.rand(shape, generator=generator),
        "saliency": torch.rand(shape, generator=generator),
        "normals": torch.nn.functional.normalize(normals, dim=1),
    }  # fmt: skip
    inside = torch.ones(shape, dtype=torch.bool)
    inside[:, :3] = False
    valid = torch.rand((n, 5, SIZE, SIZE), generator=generator) < 0.5
    image, uncolored = torch.rand((2, n, 3, SIZE, SIZE), generator=generator)
    return Sample(image, palette, labels, valid & inside[:, None], uncolored, inside)


@pytest.fixture
def model(make_model: Callable[..., CompositeModel]) -> CompositeModel:
    """A network whose outputs differ from task to task, and reach to the anchors."""
    model = make_model()
    with torch.no_grad():
        model.decoder.head.weight.mul_(6)  # type: ignore[union-attr,operator]
    return model


def make(model: CompositeModel, rule: Rule | None = None, **changes: Any) -> Consistency:
    settings = ConsistencyConfig(
        **{"weight": 1.0, "threshold": 0.6, "cutmix_probability": 0.0} | changes
    )
    twin = create("ctn", decoder=model.config.decoder)
    return Consistency(settings, twin, DEFAULT_TASKS, rule, {"seg": 3})


def probabilities(pixels: np.ndarray, classes: int) -> np.ndarray:
    """Softmax of minus the sharp squared distance to each anchor (P,C), by hand."""
    points = 1 / (1 + np.exp(-pixels.astype(np.float64)))
    distances = np.square(points[:, None] - np.array(class_anchors(classes))).sum(2)
    scores = np.exp(-SURE_LOGIT_SCALE * distances)
    found: np.ndarray = scores / scores.sum(1, keepdims=True)
    return found


def test_targets_are_what_the_average_says(model: CompositeModel) -> None:
    sample = make_sample()
    batch = make(model, R2).prepare(4, sample, model.state_dict())
    assert torch.equal(batch.sample.palette, sample.palette)
    with torch.no_grad():
        outputs = model(sample.uncolored, sample.palette).permute(0, 2, 3, 1).numpy()
    unsure = 0
    for number, name in enumerate(DEFAULT_TASKS):
        asked = (sample.palette == number) & sample.inside & ~sample.valid[:, number]
        assert torch.equal(batch.asked[:, number], asked)
        pixels, label = outputs[asked.numpy()], batch.targets.labels[name]
        valid = batch.targets.valid[:, number]
        assert not (valid & ~asked).any()
        if TASKS[name].kind == "classes":
            expected = probabilities(pixels, len(TASKS[name].classes))
            sure = expected.max(1) >= 0.6
            unsure += int((~sure).sum())
            assert sure.any()
            np.testing.assert_array_equal(valid[asked].numpy(), sure)
            np.testing.assert_array_equal(label[valid].numpy(), expected.argmax(1)[sure])
        elif TASKS[name].kind == "probability":
            assert torch.equal(valid, asked)
            expected = (1 / (1 + np.exp(-pixels))).mean(1)
            np.testing.assert_allclose(label[asked].numpy(), expected, rtol=1e-5)
        else:
            expected = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
            found = label.permute(0, 2, 3, 1)[asked].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert unsure, "the threshold is not tried"


def test_true_labels_stay_as_they_are(model: CompositeModel) -> None:
    sample = make_sample()
    before = sample.map(torch.clone)
    found = make(model).prepare(0, sample, model.state_dict()).sample
    for name, label in before.labels.items():
        assert torch.equal(found.labels[name], label) and torch.equal(sample.labels[name], label)
    assert torch.equal(found.valid, before.valid) and torch.equal(sample.valid, before.valid)
    assert not torch.equal(found.image, before.image)


def test_the_loss_by_hand(model: CompositeModel) -> None:
    consistency = make(model, weight=0.7, warmup_steps=10)
    batch = consistency.prepare(4, make_sample(), model.state_dict())
    outputs = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    class_weights = {"seg": torch.linspace(0.5, 2, 21)}
    weights = {"seg": 3.0, "parts": 4.0, "edges": 50.0, "normals": 5.0}
    loss = CompositeLoss(DEFAULT_TASKS, weights, 2.0, class_weights, SURE_LOGIT_SCALE)
    total, shown = consistency.loss(4, outputs, batch, loss)

    expected = 0.0
    pixels = outputs.permute(0, 2, 3, 1).numpy().astype(np.float64)
    for number, name in enumerate(DEFAULT_TASKS):
        mask = batch.targets.valid[:, number].numpy()
        x, label = pixels[mask], batch.targets.labels[name]
        if TASKS[name].kind == "classes":
            wanted = label.numpy()[mask]
            p = probabilities(x, len(TASKS[name].classes))[np.arange(len(x)), wanted]
            w = class_weights[name].numpy()[wanted] if name in class_weights else np.ones(len(x))
            value = float((w * -((1 - p) ** 2) * np.log(p)).sum() / w.sum())
        elif TASKS[name].kind == "probability":
            t, p = label.numpy()[mask][:, None], 1 / (1 + np.exp(-x))
            value = float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())
        else:
            wanted = label.permute(0, 2, 3, 1).numpy()[mask]
            value = float((1 - (x * wanted).sum(1) / np.linalg.norm(x, axis=1)).mean())
        share = mask.sum() / int(batch.asked[:, number].sum())
        assert shown[f"consistency_{name}"] == pytest.approx(value, rel=1e-4)
        assert shown[f"sure_{name}"] == pytest.approx(share)
        expected += weights.get(name, 1.0) * share * value
    # Half of the warm-up is over at its fifth step.
    assert float(total) == pytest.approx(0.7 * 0.5 * expected, rel=1e-4)


def test_soft_targets_do_not_move_what_agrees_with_them(model: CompositeModel) -> None:
    consistency = make(model)
    batch = consistency.prepare(0, make_sample(), model.state_dict())
    only = torch.zeros_like(batch.targets.valid)
    only[:, [EDGES, SALIENCY]] = batch.targets.valid[:, [EDGES, SALIENCY]]
    batch = replace(batch, targets=replace(batch.targets, valid=only))
    edges = batch.sample.palette == EDGES
    strengths = torch.where(edges, batch.targets.labels["edges"], batch.targets.labels["saliency"])
    outputs = strengths.clamp(1e-4, 1 - 1e-4).logit()[:, None].repeat(1, 3, 1, 1).requires_grad_()
    loss = CompositeLoss(DEFAULT_TASKS, {}, 2.0, {})
    consistency.loss(0, outputs, batch, loss)[0].backward()
    assert outputs.grad is not None
    assert float(outputs.grad.abs().max()) < 1e-6


def test_nothing_to_learn_is_a_zero_with_gradient(model: CompositeModel) -> None:
    sample = replace(make_sample(), palette=torch.full((3, SIZE, SIZE), 255))
    consistency = make(model)
    batch = consistency.prepare(0, sample, model.state_dict())
    outputs = torch.zeros(3, 3, SIZE, SIZE, requires_grad=True)
    total, shown = consistency.loss(0, outputs, batch, CompositeLoss(DEFAULT_TASKS, {}, 2.0, {}))
    total.backward()
    assert float(total.detach()) == 0 and not shown and outputs.grad is not None


def test_a_rectangle_of_the_row_before_is_pasted_in(model: CompositeModel) -> None:
    sample = make_sample()
    plain = make(model).prepare(3, sample, model.state_dict())
    mixed = make(model, cutmix_probability=1.0).prepare(3, sample, model.state_dict())
    whole = plain.sample.palette != mixed.sample.palette
    for row in range(3):
        rows, columns = (whole[row].any(1 - axis).nonzero() for axis in (0, 1))
        top, bottom, left, right = (int(x) for x in (rows[0], rows[-1], columns[0], columns[-1]))
        box = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        box[top : bottom + 1, left : right + 1] = True
        assert 0 < int(box.sum()) <= 0.45 * SIZE**2
        for one, other in (
            (plain.sample, mixed.sample), (plain.targets, mixed.targets)
        ):  # fmt: skip
            for x, y in (
                (one.image, other.image), (one.valid, other.valid), (one.palette, other.palette),
                *((one.labels[name], other.labels[name]) for name in one.labels),
            ):  # fmt: skip
                assert torch.equal(y[row], torch.where(box, x[row - 1], x[row]))
        assert torch.equal(
            mixed.asked[row], torch.where(box, plain.asked[row - 1], plain.asked[row])
        )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_boxes_come_as_often_as_they_should(share: float) -> None:
    boxes = [draw_box((40, 50), share, np.random.default_rng(seed)) for seed in range(400)]
    areas = np.array([float(box.float().mean()) for box in boxes])
    assert (areas > 0).mean() == pytest.approx(share, abs=0.07)
    assert areas.max() <= 0.42 and (areas[areas > 0] >= 0.015).all()


def test_strong_views() -> None:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0))
    views = [strong_view(image, np.random.default_rng(seed)) for seed in range(60)]
    assert torch.equal(views[7], strong_view(image, np.random.default_rng(7)))
    for view in views:
        assert view.shape == image.shape and view.min() >= 0 and view.max() <= 1
    gray = [bool((view[0] == view[1]).all() and (view[0] == view[2]).all()) for view in views]
    assert 0.05 < np.mean(gray) < 0.4

    def roughness(view: Tensor) -> float:
        return float(view.diff(dim=2).abs().mean() / (view.std() + 1e-6))

    blurred = [roughness(view) < 0.8 * roughness(image) for view in views]
    assert 0.25 < np.mean(blurred) < 0.75


def test_mosaics_also_ask_for_tasks_without_a_label(model: CompositeModel) -> None:
    sample = make_sample(n=200)
    valid = torch.zeros_like(sample.valid)
    valid[:, [SEG, EDGES]] = True
    valid[100:] = False
    sample = replace(sample, valid=valid)

    def palettes(shares: Mapping[str, int]) -> Tensor:
        batch = make(model, R1, task_shares=shares).prepare(0, sample, model.state_dict())
        return batch.sample.palette

    found = palettes({"normals": 4, "parts": 0})
    # seg 3, edges 1, saliency 1, normals 4; then, without labels, edges and seg 1 as well.
    for rows, shares in ((found[:100], (3, 0, 1, 1, 4)), (found[100:], (1, 0, 1, 1, 4))):
        corners = rows[:, [0, 0, -1, -1], [0, -1, 0, -1]]
        counts = torch.bincount(corners.flatten(), minlength=5) / corners.numel()
        expected = torch.tensor(shares) / sum(shares)
        torch.testing.assert_close(counts, expected, rtol=0, atol=0.08)
    nothing = palettes(dict.fromkeys(DEFAULT_TASKS, 0))
    assert (nothing[100:] == 255).all() and set(nothing[:100].unique().tolist()) == {SEG, EDGES}


def test_chance_is_that_of_step_and_row(model: CompositeModel) -> None:
    consistency, state = make(model, R1, cutmix_probability=0.5), model.state_dict()
    sample = make_sample()
    first = consistency.prepare(1, sample, state)
    torch.rand(5)
    again, other = consistency.prepare(1, sample, state), consistency.prepare(2, sample, state)
    for name in ("image", "palette"):
        assert torch.equal(getattr(first.sample, name), getattr(again.sample, name))
        assert not torch.equal(getattr(first.sample, name), getattr(other.sample, name))
    part = sample.select(torch.tensor([2]))
    alone = make(model, R1).prepare(1, part, state, rows=[2])
    whole = make(model, R1).prepare(1, sample, state)
    assert torch.equal(alone.sample.palette, whole.sample.palette[2:])
    assert torch.equal(alone.sample.image, whole.sample.image[2:])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_photographs: Callable[..., Path]) -> Path:
    return write_photographs(tmp_path_factory.mktemp("data"))


def test_crops_come_uncolored_too(data: Path) -> None:
    source = open_source("compositemt", data, "train")
    crops = PhotographStack.load(source, DEFAULT_TASKS, torch.device("cpu"))
    chance = np.random.default_rng(0).random((2, CHANCES))
    drawn = draw_crops(chance, crops.sizes[2:], 64, (0.6, 1.3))
    sample = crops.cut([2, 3], drawn, 64)
    plain = crops.cut([2, 3], replace(drawn, color=torch.ones(2, 3)), 64)
    assert sample.uncolored is not None and sample.inside is not None
    torch.testing.assert_close(sample.uncolored, plain.image)
    assert not torch.equal(sample.image, plain.image)
    assert torch.equal(sample.inside, sample.valid[:, EDGES])
    assert 0 < int(sample.inside.sum()) < 2 * 64 * 64
    beyond = sample.uncolored.permute(0, 2, 3, 1)[~sample.inside]
    assert beyond.sub(127 / 255).abs().max() < 1e-6


def test_batches_without_their_own_colors_are_refused(model: CompositeModel) -> None:
    with pytest.raises(ValueError, match="crops in their own colors"):
        make(model).prepare(0, replace(make_sample(), uncolored=None), model.state_dict())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": -1.0}, "weight must be at least 0; got -1.0"),
        ({"weight": float("nan")}, "weight must be at least 0; got nan"),
        ({"weight": "1"}, "weight must be a number; got '1'"),
        ({"threshold": 1.5}, "threshold is 0 to 1; got 1.5"),
        ({"cutmix_probability": -0.1}, "cutmix_probability is 0 to 1; got -0.1"),
        ({"every": 0}, "every must be at least 1; got 0"),
        ({"every": 1.5}, "every must be a whole number; got 1.5"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0; got -1"),
        ({"task_shares": {"edges": 0.5}}, "task_shares are whole numbers; got 0.5 for edges"),
        ({"task_shares": 3}, "task_shares is a table of tasks; got 3"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConsistencyConfig(**changes)


def test_tasks_are_those_of_the_network() -> None:
    depth = TaskSpec("depth", "depth", "probability", (0, 150, 136))
    own = ModelConfig(tasks=(*DEFAULT_TASKS, TaskName(depth)))
    assert TrainConfig("x", own, consistency=ConsistencyConfig(task_shares={"depth": 2}))
    with pytest.raises(ValueError, match=r"unknown task 'depth' in consistency\.task_shares"):
        TrainConfig("x", consistency=ConsistencyConfig(task_shares={"depth": 2}))
    with pytest.raises(
        ValueError, match=r"'edge' in consistency\.task_shares; did you mean 'edges'"
    ):
        TrainConfig("x", own, consistency=ConsistencyConfig(task_shares={"edge": 1}))


def test_settings_are_read_from_a_file_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "ema_decay = 0.99\n[consistency]\nweight = 1.0\nevery = 3\ntask_shares = { normals = 2 }\n"
    )
    config = TrainConfig.load(file)
    assert config.consistency == ConsistencyConfig(1.0, every=3, task_shares={"normals": 2})
    assert TrainConfig.from_dict(config.to_dict()) == config
    file.write_text(config.to_toml())
    assert TrainConfig.load(file) == config
    assert [step for step in range(9) if config.consistency.due(step)] == [2, 5, 8]
    assert not any(ConsistencyConfig().due(step) for step in range(9))


def test_phases_differ_in_consistency(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[[phases]]\nsteps = 3\n[[phases]]\nsteps = 4\nema_decay = 0.9\n"
        "[phases.consistency]\nweight = 0.5\n"
    )
    first, second = TrainConfig.load(file).spans
    assert first.config.consistency == ConsistencyConfig()
    assert second.config.consistency == ConsistencyConfig(0.5)
    file.write_text("[[phases]]\nsteps = 3\n[phases.consistency]\nweight = 0.5\n")
    with pytest.raises(ValueError, match="phase 1: consistency needs a moving average"):
        TrainConfig.load(file)
