import numpy as np
import pytest
import torch

from ctnet.evaluation.metrics import ClassMetric, NormalsMetric, SaliencyMetric


def class_maps(seed, classes=4, size=(17, 23)):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, size).astype(np.uint8)
    target[rng.random(size) < 0.2] = 255
    predicted = np.where(rng.random(size) < 0.6, target, rng.integers(0, classes, size))
    predicted[predicted == 255] = 0
    return predicted.astype(np.uint8), target, rng.random(size) < 0.8


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def test_iou_equals_counts_over_the_whole_set():
    metric, intersection, union = ClassMetric(4), np.zeros(4), np.zeros(4)
    for seed in range(5):
        predicted, target, valid = class_maps(seed)
        metric.update(*tensors(predicted, target, valid))
        keep = valid & (target != 255)
        for c in range(4):
            both = (predicted == c) & (target == c) & keep
            either = ((predicted == c) | (target == c)) & keep
            intersection[c] += both.sum()
            union[c] += either.sum()
    score = metric.compute()
    assert np.allclose(score.iou, 100 * intersection / union, atol=1e-3)
    assert score.miou == pytest.approx(100 * (intersection / union).mean(), abs=1e-3)
    assert score.images == 5


def test_classes_that_never_occur_do_not_count():
    metric = ClassMetric(5)
    target = torch.tensor([[0, 1], [1, 0]])
    metric.update(torch.tensor([[0, 1], [4, 0]]), target, torch.ones(2, 2, dtype=torch.bool))
    score = metric.compute()
    assert score.miou == pytest.approx((100 + 50) / 2)
    assert np.isnan(score.iou[2:]).all()


def test_saliency_takes_the_best_threshold_of_image_means():
    rng = np.random.default_rng(0)
    metric = SaliencyMetric()
    thresholds = [round(0.05 * k, 2) for k in range(1, 20)]
    ious = []
    for _ in range(4):
        target = (rng.random((12, 15)) < 0.4).astype(np.float32)
        predicted = np.clip(0.5 * target + 0.6 * rng.random((12, 15)), 0, 1).astype(np.float32)
        valid = rng.random((12, 15)) < 0.9
        metric.update(*tensors(predicted, target, valid))
        t, p = target[valid] >= 0.5, predicted[valid].astype(np.float64)
        ious.append([((p > x) & t).sum() / ((p > x) | t).sum() for x in thresholds])
    means = np.mean(ious, axis=0) * 100
    score = metric.compute()
    assert score.miou == pytest.approx(means.max())
    assert score.threshold == thresholds[int(means.argmax())]


def test_nothing_salient_and_nothing_found_is_perfect():
    metric = SaliencyMetric()
    metric.update(torch.zeros(3, 3), torch.zeros(3, 3), torch.ones(3, 3, dtype=torch.bool))
    assert metric.compute().miou == 100


def test_normals_statistics_equal_those_of_all_angles():
    rng = np.random.default_rng(1)
    metric, angles = NormalsMetric(), []
    for _ in range(3):
        a, b = rng.normal(size=(2, 3, 10, 11))
        b = a + 0.5 * b
        a, b = (x / np.linalg.norm(x, axis=0) for x in (a, b))
        valid = rng.random((10, 11)) < 0.7
        metric.update(*tensors(a, b, valid))
        cross = np.linalg.norm(np.cross(a, b, axis=0), axis=0)
        angles.append(np.degrees(np.arctan2(cross, (a * b).sum(0)))[valid])
    angles = np.concatenate(angles)
    score = metric.compute()
    assert score.mean == pytest.approx(angles.mean(), abs=1e-5)
    assert score.median == pytest.approx(np.median(angles), abs=0.2)
    for value, limit in (
        (score.within_11_25, 11.25),
        (score.within_22_5, 22.5),
        (score.within_30, 30),
    ):
        assert value == pytest.approx(100 * (angles < limit).mean())


@pytest.mark.parametrize("metric", [ClassMetric(3), SaliencyMetric(), NormalsMetric()])
def test_nothing_seen_is_an_error(metric):
    with pytest.raises(ValueError, match="nothing to score"):
        metric.compute()


@pytest.mark.parametrize("metric", [ClassMetric(3), SaliencyMetric(), NormalsMetric()])
def test_images_without_valid_pixels_do_not_count(metric):
    shape = (3, 4, 5) if isinstance(metric, NormalsMetric) else (4, 5)
    metric.update(torch.zeros(shape), torch.zeros(shape), torch.zeros(4, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing to score"):
        metric.compute()


def test_the_interval_of_miou_is_a_bootstrap_over_photographs():
    """Against a plain bootstrap: photographs drawn with replacement, quantiles of their mIoU."""
    metric, confusions = ClassMetric(4), []
    rng = np.random.default_rng(3)
    for seed in range(40):
        predicted, target, valid = class_maps(seed)
        # Photographs of different difficulty.
        wrong = rng.random(target.shape) < rng.random()
        predicted = np.where(wrong, 0, predicted).astype(np.uint8)
        metric.update(*tensors(predicted, target, valid))
        keep = valid & (target != 255)
        pairs = 4 * target[keep].astype(int) + predicted[keep]
        confusions.append(np.bincount(pairs, minlength=16).reshape(4, 4))
    confusions = np.array(confusions, float)

    def miou(total):
        both = np.diagonal(total, axis1=-2, axis2=-1)
        return 100 * (both / (total.sum(-1) + total.sum(-2) - both)).mean(-1)

    draws = rng.integers(40, size=(4000, 40))
    wanted = np.quantile(miou(confusions[draws].sum(1)), (0.025, 0.975))
    score = metric.compute()
    assert score.miou == pytest.approx(miou(confusions.sum(0)))
    assert score.interval == pytest.approx(wanted, abs=0.15 * (wanted[1] - wanted[0]))
    assert score.interval[0] < score.miou < score.interval[1]
