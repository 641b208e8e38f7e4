"""Losses against numpy written by hand; supervision only where asked and labeled."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ctnet.data.sample import Sample
from ctnet.labels import ClassAnchors, anchor_scores, class_anchors
from ctnet.tasks import DEFAULT_TASKS
from ctnet.training.losses import (
    PAPER_WEIGHTS,
    CompositeLoss,
    angular_loss,
    balanced_class_weights,
    balanced_cross_entropy,
    cosine_loss,
    focal_cross_entropy,
    smooth_class_scores,
)
from ctnet.training.trainer import cycled


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def focal_by_hand(
    scores: np.ndarray, target: np.ndarray, gamma: float, weights: np.ndarray
) -> float:
    p = softmax(scores)
    losses = [-((1 - p[i, c]) ** gamma) * math.log(p[i, c]) for i, c in enumerate(target)]
    return float(np.dot(losses, weights[target]) / weights[target].sum())


def balanced_by_hand(outputs: np.ndarray, target: np.ndarray) -> float:
    positive = (sum(target) + 1) / (len(target) + 2)
    total = 0.0
    for output, strength in zip(outputs, target, strict=True):
        for channel in output:
            p = 1 / (1 + math.exp(-channel))
            total -= (1 - positive) * strength * math.log(p)
            total -= positive * (1 - strength) * math.log(1 - p)
    return total / outputs.size


def cosine_by_hand(outputs: np.ndarray, target: np.ndarray) -> float:
    lengths = np.linalg.norm(outputs, axis=1) * np.linalg.norm(target, axis=1)
    return float(np.mean(1 - (outputs * target).sum(1) / lengths))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_cross_entropy(gamma: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 3 * torch.randn(50, 7, dtype=torch.float64, generator=generator)
    target = torch.randint(7, (50,), generator=generator)
    weights = torch.rand(7, dtype=torch.float64, generator=generator) + 0.1
    for given in (None, weights):
        expected = focal_by_hand(
            scores.numpy(), target.numpy(), gamma, np.ones(7) if given is None else given.numpy()
        )
        found = focal_cross_entropy(scores, target, gamma, given)
        assert float(found) == pytest.approx(expected, rel=1e-9)
        if gamma == 0:
            torch.testing.assert_close(found, F.cross_entropy(scores, target, given))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_gradients_are_finite_where_the_net_is_certain(gamma: float) -> None:
    scores = torch.tensor([[100.0, 1.0], [1.0, 100.0], [0.0, 0.0]], requires_grad=True)
    focal_cross_entropy(scores, torch.tensor([0, 0, 1]), gamma).backward()
    assert scores.grad is not None
    assert bool(scores.grad.isfinite().all())
    assert bool((scores.grad[1:] != 0).all())


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_balanced_cross_entropy(share: float) -> None:
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(40, 3))
    target = (generator.random(40) < share) * generator.choice([0.3, 1.0], 40)
    found = balanced_cross_entropy(torch.from_numpy(outputs), torch.from_numpy(target))
    assert float(found) == pytest.approx(balanced_by_hand(outputs, target), rel=1e-9)


def test_balance_gives_rare_edges_the_weight_of_the_rest() -> None:
    target = torch.zeros(10_000, dtype=torch.float64)
    target[:100] = 1
    outputs = torch.zeros(10_000, 3, dtype=torch.float64, requires_grad=True)
    balanced_cross_entropy(outputs, target).backward()
    assert outputs.grad is not None
    edges, rest = -outputs.grad[:100].sum(), outputs.grad[100:].sum()
    assert float(edges / rest) == pytest.approx(1, abs=0.02)


def test_cosine_loss() -> None:
    generator = np.random.default_rng(0)
    outputs, target = generator.normal(size=(2, 30, 3))
    target /= np.linalg.norm(target, axis=1, keepdims=True)
    found = cosine_loss(torch.from_numpy(outputs), torch.from_numpy(target))
    assert float(found) == pytest.approx(cosine_by_hand(outputs, target), rel=1e-9)
    normals = torch.from_numpy(target)
    assert float(cosine_loss(7 * normals, normals)) == pytest.approx(0, abs=1e-12)
    assert float(cosine_loss(-normals, normals)) == pytest.approx(2)
    zero = torch.zeros(2, 3, requires_grad=True)
    cosine_loss(zero, normals[:2].float()).backward()
    assert zero.grad is not None
    assert bool(zero.grad.isfinite().all())


def test_losses_pass_gradcheck() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    classes = torch.randint(3, (6,), generator=generator)
    strengths = torch.rand(6, dtype=torch.float64, generator=generator)
    normals = F.normalize(torch.randn(6, 3, dtype=torch.float64, generator=generator), dim=1)
    weights = torch.tensor([0.5, 1, 2], dtype=torch.float64)
    for gamma in (0.0, 0.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda x, gamma=gamma: focal_cross_entropy(x, classes, gamma, weights), outputs
        )
    assert torch.autograd.gradcheck(lambda x: balanced_cross_entropy(x, strengths), outputs)
    assert torch.autograd.gradcheck(lambda x: cosine_loss(x, normals), outputs)


def make_sample(n: int = 2, height: int = 6, width: int = 8) -> Sample:
    """Every task asked for somewhere, some pixels not asked for, some not labeled."""
    generator = torch.Generator().manual_seed(2)

    def integers(top: int) -> Tensor:
        return torch.randint(top, (n, height, width), generator=generator)

    palette = integers(6)
    palette[palette == 5] = 255
    labels = {
        "seg": integers(21), "parts": integers(7),
        "edges": torch.rand(n, height, width, generator=generator),
        "saliency": torch.rand(n, height, width, generator=generator),
        "normals": F.normalize(torch.randn(n, 3, height, width, generator=generator), dim=1),
    }  # fmt: skip
    valid = torch.rand(n, 5, height, width, generator=generator) < 0.7
    for number, name in enumerate(("seg", "parts")):
        labels[name][~valid[:, number]] = 255
    return Sample(torch.rand(n, 3, height, width), palette, labels, valid)


def composite_for(sample: Sample, dtype: torch.dtype = torch.float64) -> Tensor:
    n, height, width = sample.palette.shape
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, height, width, dtype=dtype, generator=generator, requires_grad=True)


def task_losses_by_hand(composite: Tensor, sample: Sample, gamma: float) -> dict[str, float]:
    pixels = composite.detach().permute(0, 2, 3, 1).numpy()
    found = {}
    for number, name in enumerate(DEFAULT_TASKS):
        where = np.argwhere(((sample.palette == number) & sample.valid[:, number]).numpy())
        outputs = np.array([pixels[i, y, x] for i, y, x in where])
        if name == "normals":
            labels = np.array([sample.labels[name][i, :, y, x].numpy() for i, y, x in where])
            found[name] = cosine_by_hand(outputs, labels)
            continue
        labels = np.array([sample.labels[name][i, y, x].item() for i, y, x in where])
        if name in ("edges", "saliency"):
            found[name] = balanced_by_hand(outputs, labels)
            continue
        anchors = np.array(class_anchors(21 if name == "seg" else 7))
        distances = np.linalg.norm(1 / (1 + np.exp(-outputs))[:, None] - anchors, axis=2)
        ones = np.ones(len(anchors))
        found[name] = focal_by_hand(1 / (distances + 0.01), labels, gamma, ones)
    return found


def test_composite_loss_is_the_weighted_sum() -> None:
    sample = make_sample()
    composite = composite_for(sample)
    total, parts = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, {})(composite, sample)
    expected = task_losses_by_hand(composite, sample, 2.0)
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        assert parts[name] == pytest.approx(value, rel=1e-5), name
    weighted = sum(PAPER_WEIGHTS[name] * value for name, value in expected.items())
    assert float(total.detach()) == pytest.approx(weighted, rel=1e-5)
    assert PAPER_WEIGHTS == {"seg": 3, "parts": 4, "edges": 50, "saliency": 8, "normals": 4}
    unweighted, _ = CompositeLoss(DEFAULT_TASKS, {"edges": 2.0}, 2.0, {})(composite, sample)
    total_edges = sum(expected.values()) + expected["edges"]
    assert float(unweighted.detach()) == pytest.approx(total_edges, rel=1e-5)


def test_only_asked_and_labeled_pixels_are_supervised() -> None:
    sample = make_sample()
    composite = composite_for(sample, torch.float32)
    total, _ = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, {})(composite, sample)
    total.backward()
    asked = sample.palette != 255
    labeled = sample.valid.gather(1, sample.palette.where(asked, 0)[:, None])[:, 0]
    supervised = (asked & labeled)[:, None].expand_as(composite)
    assert composite.grad is not None
    assert bool((composite.grad[~supervised] == 0).all())
    assert bool((composite.grad.abs().sum(1)[supervised[:, 0]] > 0).all())
    assert 0.3 < float(supervised.float().mean()) < 0.8


def test_labels_elsewhere_do_not_matter() -> None:
    sample = make_sample()
    composite = composite_for(sample, torch.float32)
    loss = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, {})
    before, _ = loss(composite, sample)
    for number, name in enumerate(DEFAULT_TASKS):
        elsewhere = ~((sample.palette == number) & sample.valid[:, number])
        if name == "normals":
            elsewhere = elsewhere[:, None].expand(-1, 3, -1, -1)
        spoiled = 255 if name in ("seg", "parts") else torch.nan
        sample.labels[name][elsewhere] = spoiled
    after, _ = loss(composite, sample)
    assert torch.equal(before, after)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("missing", ["request", "label"])
def test_nothing_to_supervise_gives_a_zero_with_gradient(dtype: torch.dtype, missing: str) -> None:
    sample = make_sample()
    if missing == "request":
        sample.palette.fill_(255)
    else:
        sample.valid.fill_(False)
    # Half precision overflows at times, which must not reach the loss.
    composite = composite_for(sample, torch.float32).detach().to(dtype)
    composite[0, 0, 0, 0] = torch.inf
    composite.requires_grad_()
    total, parts = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, {})(composite, sample)
    assert parts == {}
    assert float(total.detach()) == 0
    total.backward()
    assert composite.grad is not None
    assert bool((composite.grad == 0).all())


def test_composite_loss_passes_gradcheck() -> None:
    sample = make_sample(1, 5, 7)
    weights = {"parts": torch.rand(7, dtype=torch.float64) + 0.5}
    loss = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, weights)
    composite = composite_for(sample)
    assert len(loss(composite, sample)[1]) == 5
    assert torch.autograd.gradcheck(lambda x: loss(x, sample)[0], composite, atol=1e-4)


def test_class_weights_and_gamma_reach_the_class_losses() -> None:
    sample = make_sample()
    composite = composite_for(sample)
    plain = CompositeLoss(DEFAULT_TASKS, {}, 0.0, {})(composite, sample)[1]
    weights = {"seg": torch.linspace(0.1, 3, 21, dtype=torch.float64)}
    weighed = CompositeLoss(DEFAULT_TASKS, {}, 0.0, weights)(composite, sample)[1]
    assert weighed["seg"] != pytest.approx(plain["seg"], rel=1e-3)
    assert weighed["parts"] == plain["parts"]
    focal = CompositeLoss(DEFAULT_TASKS, {}, 2.0, {})(composite, sample)[1]
    assert focal["seg"] < plain["seg"]
    assert focal["edges"] == plain["edges"]


@pytest.mark.parametrize("classes", [2, 7, 21])
def test_smooth_scores_are_squared_distances(classes: int) -> None:
    outputs = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = smooth_class_scores(3 * outputs, class_anchors(classes), 12.0)
    points = torch.sigmoid(3 * outputs).numpy()
    squared = ((points[:, None] - np.array(class_anchors(classes))) ** 2).sum(2)
    np.testing.assert_allclose(softmax(scores.numpy()), softmax(-12 * squared), rtol=1e-9)
    assert torch.equal(
        scores.argmax(1), anchor_scores(3 * outputs, class_anchors(classes)).argmax(1)
    )


def test_smooth_scores_have_no_trap_at_a_wrong_anchor() -> None:
    """From beside any anchor, descent reaches any other class; by eq. 5 it gets stuck."""
    anchors = torch.tensor(class_anchors(21)).clamp(0.02, 0.98)
    start = torch.logit(anchors)[:, None].expand(-1, 21, -1).reshape(-1, 3)
    target = torch.arange(21).repeat(21)

    def reached(logit_scale: float) -> float:
        outputs = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([outputs], 0.1)
        loss = CompositeLoss(["seg"], {}, 0.0, {}, logit_scale)
        for _ in range(150):
            optimizer.zero_grad()
            sample = Sample(
                torch.zeros(1, 3, 21, 21),
                torch.zeros(1, 21, 21, dtype=torch.int64),
                {"seg": target.view(1, 21, 21)},
                torch.ones(1, 1, 21, 21, dtype=torch.bool),
            )
            loss(outputs.T.reshape(1, 3, 21, 21), sample)[0].backward()
            optimizer.step()
        return float((anchor_scores(outputs, class_anchors(21)).argmax(1) == target).float().mean())

    assert reached(20.0) == 1
    assert reached(0.0) < 0.9


def test_self_distillation_moves_class_losses_to_the_guides_choice() -> None:
    sample = make_sample()
    composite = composite_for(sample)
    guides = {"seg": torch.randn(2, 21, 3, 4, dtype=torch.float64, requires_grad=True)}

    def losses(share: float, labels: dict[str, Tensor] | None = None) -> dict[str, float]:
        loss = CompositeLoss(DEFAULT_TASKS, {}, 1.0, {}, self_distillation_weight=share)
        given = Sample(sample.image, sample.palette, labels or sample.labels, sample.valid)
        total, parts = loss(composite, given, guides)
        total.backward()
        return parts

    plain, mixed, guided = losses(0.0), losses(0.25), losses(1.0)
    choice = F.interpolate(guides["seg"], size=(6, 8), mode="bilinear").argmax(1)
    by_choice = losses(0.0, sample.labels | {"seg": choice})
    assert plain == CompositeLoss(DEFAULT_TASKS, {}, 1.0, {})(composite, sample)[1]
    assert guided["seg"] == pytest.approx(by_choice["seg"])
    assert mixed["seg"] == pytest.approx(0.75 * plain["seg"] + 0.25 * guided["seg"])
    assert {k: v for k, v in guided.items() if k != "seg"} == {
        k: v for k, v in plain.items() if k != "seg"
    }
    assert guides["seg"].grad is None


def test_balanced_class_weights_by_hand() -> None:
    weights = balanced_class_weights(torch.tensor([900, 90, 10]), 0.5)
    raw = np.array([0.9, 0.09, 0.01]) ** -0.5
    np.testing.assert_allclose(weights, raw / raw.mean(), rtol=1e-6)
    np.testing.assert_array_equal(balanced_class_weights(torch.tensor([5, 7]), 0), [1, 1])
    assert bool(balanced_class_weights(torch.tensor([5, 0]), 0.3).isfinite().all())


def test_angular_loss_is_the_mean_angle():
    generator = torch.Generator().manual_seed(0)
    outputs, target = torch.randn(2, 50, 3, generator=generator, dtype=torch.float64)
    target = F.normalize(target, dim=1)
    angles = [
        math.atan2(float(torch.linalg.cross(o, t).norm()), float(o @ t))
        for o, t in zip(outputs, target, strict=True)
    ]
    assert float(angular_loss(outputs, target)) == pytest.approx(sum(angles) / 50, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_angular_loss_has_a_gradient_at_its_ends(sign):
    outputs = torch.tensor([[0.0, 0.0, 2.0 * sign]], requires_grad=True)
    angular_loss(outputs, torch.tensor([[0.0, 0.0, 1.0]])).backward()
    assert bool(outputs.grad.isfinite().all())


def test_normals_learn_by_the_loss_that_is_chosen():
    outputs = torch.randn(1, 3, 4, 4)
    target = F.normalize(torch.randn(1, 3, 4, 4), dim=1)
    palette = torch.zeros(1, 4, 4, dtype=torch.int64)
    sample = Sample(outputs, palette, {"normals": target}, torch.ones(1, 1, 4, 4, dtype=torch.bool))
    pixels = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (outputs, target)]
    for normals_loss, compare in (("cosine", cosine_loss), ("angular", angular_loss)):
        loss, _ = CompositeLoss(("normals",), {}, 2.0, {}, normals_loss=normals_loss)(
            outputs, sample
        )
        torch.testing.assert_close(loss, compare(*pixels))


def test_networks_with_anchors_of_their_own_learn_them():
    points = tuple((x / 6, 1 - x / 6, 0.5) for x in range(7))
    outputs = torch.logit(torch.tensor(points).clamp(1e-3, 1 - 1e-3)).T[None, :, None]
    sample = Sample(
        outputs, torch.zeros(1, 1, 7, dtype=torch.int64), {"parts": torch.arange(7)[None, None]},
        torch.ones(1, 1, 1, 7, dtype=torch.bool),
    )  # fmt: skip
    for logit_scale in (0.0, 200.0):
        own, other = (
            CompositeLoss(("parts",), {}, 0.0, {}, logit_scale, anchors=anchors)(outputs, sample)[0]
            for anchors in ((ClassAnchors("parts", points),), ())
        )
        assert own < 0.05 < other


def test_repeated_rows_do_not_count() -> None:
    generator = torch.Generator().manual_seed(3)
    number = DEFAULT_TASKS.index("saliency")
    valid = torch.zeros(5, len(DEFAULT_TASKS), 8, 8, dtype=torch.bool)
    valid[1:4, number] = True
    labels = {"saliency": torch.rand(5, 8, 8, generator=generator)}
    image = torch.rand(5, 3, 8, 8, generator=generator)
    sample = Sample(image, torch.full((5, 8, 8), number), labels, valid)
    composite = torch.randn(5, 3, 8, 8, generator=generator)
    rows = cycled(torch.tensor([1, 2, 3]), 5)
    assert rows.tolist() == [1, 2, 3, 1, 2]
    repeated = sample.select(rows)
    repeated.valid[3:] = False
    loss = CompositeLoss(DEFAULT_TASKS, PAPER_WEIGHTS, 2.0, {})
    torch.testing.assert_close(
        loss(composite[rows], repeated)[0], loss(composite[1:4], sample.select(slice(1, 4)))[0]
    )
