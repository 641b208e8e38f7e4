"""The boundary benchmark against brute force, the BSDS assignment, and pyEdgeEval."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from pyEdgeEval.common.binary_label.calculate_metrics import calculate_metrics
from pyEdgeEval.common.binary_label.evaluate_boundaries import (
    evaluate_boundaries_threshold_multiple_gts,
)
from scipy.ndimage import gaussian_filter
from scipy.optimize import linear_sum_assignment
from skimage.draw import ellipse, polygon
from skimage.morphology import thin as morphological_thin
from skimage.segmentation import find_boundaries

from ctnet.data.compositemt import decode_annotators
from ctnet.evaluation import boundaries
from ctnet.evaluation.boundaries import BoundaryF, BoundaryScore, match, thin

TOLERANCE = 2.9 / np.hypot(96, 128)
"""As many pixels of reach on the synthetic images as the benchmark has on 320x214."""


def exhaustive_cardinality(adjacent: np.ndarray) -> int:
    """Size of the largest matching, trying every partner of every row."""
    options = [np.flatnonzero(row).tolist() for row in adjacent]

    @functools.cache
    def best(row: int, used: int) -> int:
        if row == len(options):
            return 0
        free = [column for column in options[row] if not used >> column & 1]
        paired = [1 + best(row + 1, used | 1 << column) for column in free]
        return max([best(row + 1, used), *paired])

    return best(0, 0)


def bsds_assignment(
    predicted: np.ndarray, truth: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """The benchmark's own definition, dense: least total distance with costly outliers."""
    points, others = np.argwhere(predicted), np.argwhere(truth)
    distance = np.sqrt(((points[:, None] - others[None]) ** 2).sum(-1))
    outlier = 100 * reach
    # An out-of-reach pair costs more than leaving both of its pixels to the outliers.
    real = np.where(distance <= reach, distance, 10 * outlier)
    cost = np.hstack([real, np.full((len(points), len(points)), outlier)])
    rows, columns = linear_sum_assignment(cost)
    paired = columns < len(others)
    matched_predicted, matched_truth = np.zeros_like(predicted), np.zeros_like(truth)
    matched_predicted[tuple(points[rows[paired]].T)] = True
    matched_truth[tuple(others[columns[paired]].T)] = True
    return matched_predicted, matched_truth


def bsds_counts(
    strength: np.ndarray, annotators: list[np.ndarray], thresholds: np.ndarray, tolerance: float
) -> np.ndarray:
    """Counts per threshold (paired and all predicted, paired and all true), written literally."""
    reach = tolerance * np.hypot(*strength.shape)
    counts = []
    for threshold in thresholds:
        predicted = morphological_thin(strength >= threshold)
        found = [bsds_assignment(predicted, truth, reach) for truth in annotators]
        counts.append(
            [
                np.any([p for p, _ in found], axis=0).sum(),
                predicted.sum(),
                sum(t.sum() for _, t in found),
                sum(truth.sum() for truth in annotators),
            ]
        )
    return np.array(counts)


def best_f(counts: np.ndarray) -> np.ndarray:
    precision = counts[..., 0] / np.maximum(counts[..., 1], 1)
    recall = counts[..., 2] / np.maximum(counts[..., 3], 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)


def scene(seed: int, size: tuple[int, int] = (96, 128)) -> tuple[np.ndarray, list[np.ndarray]]:
    """A soft edge map with misses, clutter and blur, and four people who disagree a little."""
    rng = np.random.default_rng(seed)
    shapes = []
    for k in range(7):
        center = rng.uniform(0.1, 0.9, 2) * size
        radii = rng.uniform(0.1, 0.3, 2) * min(size)
        angle = rng.uniform(0, np.pi)
        if k % 2:
            shapes.append((ellipse, (*center, *radii, size, angle)))
        else:
            corners = center[:, None] + radii.mean() * np.stack(
                [np.sin(angle + np.arange(4) * 1.6), np.cos(angle + np.arange(4) * 1.6)]
            )
            shapes.append((polygon, (corners[0], corners[1], size)))

    def outlines(chosen: range | np.ndarray, shift: tuple[int, int]) -> np.ndarray:
        labels = np.zeros(size, dtype=int)
        for k in chosen:
            draw, arguments = shapes[k]
            labels[draw(*arguments)] = k + 1
        boundary = morphological_thin(find_boundaries(labels, mode="inner"))
        return np.roll(boundary, shift, axis=(0, 1))

    annotators = [
        outlines(np.sort(rng.permutation(7)[: rng.integers(4, 8)]), tuple(rng.integers(-1, 2, 2)))
        for _ in range(4)
    ]
    signal = gaussian_filter(outlines(range(6), (1, 0)).astype(float), 1.3)
    clutter = np.abs(gaussian_filter(rng.normal(size=size), 2))
    patchy = 0.3 + gaussian_filter(rng.random(size), 6) / 0.7
    strength = patchy * signal / signal.max() + 0.3 * clutter / clutter.max()
    return np.clip(strength, 0, 1), annotators


def random_cases(count: int, side: int, fill: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(20)
    for _ in range(count):
        yield rng.random((side, side)) < fill, rng.random((side, side)) < fill


# Matching


def adjacency(predicted: np.ndarray, truth: np.ndarray, reach: float) -> np.ndarray:
    offset = np.argwhere(predicted)[:, None] - np.argwhere(truth)[None]
    return (offset**2).sum(-1) <= reach**2


def test_matching_is_as_large_as_exhaustive_search_finds() -> None:
    for predicted, truth in random_cases(150, side=5, fill=0.25):
        for reach in (0.0, 1.0, 1.5, 2.9):
            expected = exhaustive_cardinality(adjacency(predicted, truth, reach))
            assert match(predicted, truth, reach)[0].sum() == expected


def test_matching_counts_as_the_bsds_assignment() -> None:
    for predicted, truth in random_cases(60, side=14, fill=0.3):
        for reach in (1.0, 2.0, 2.9, 4.3):
            expected, _ = bsds_assignment(predicted, truth, reach)
            assert match(predicted, truth, reach)[0].sum() == expected.sum()


def test_matching_is_one_to_one_and_within_reach() -> None:
    for predicted, truth in random_cases(60, side=8, fill=0.3):
        reach = 1.5
        matched_predicted, matched_truth = match(predicted, truth, reach)
        assert not (matched_predicted & ~predicted).any()
        assert not (matched_truth & ~truth).any()
        # The two sides admit a perfect pairing among themselves, every pair within reach.
        adjacent = adjacency(matched_predicted, matched_truth, reach)
        rows, columns = linear_sum_assignment(adjacent, maximize=True)
        assert adjacent.shape[0] == adjacent.shape[1] == adjacent[rows, columns].sum()


def test_two_predictions_cannot_share_one_true_pixel() -> None:
    predicted = np.zeros((3, 3), dtype=bool)
    truth = predicted.copy()
    predicted[0, 1] = predicted[2, 1] = truth[1, 1] = True
    assert [m.sum() for m in match(predicted, truth, 1)] == [1, 1]


def test_an_early_pair_gives_way_to_a_larger_matching() -> None:
    predicted, truth = np.zeros((1, 7), dtype=bool), np.zeros((1, 7), dtype=bool)
    predicted[0, [1, 3]] = True
    truth[0, [2, 5]] = True
    # Nearest first would pair 3 with 2 and strand 1.
    assert match(predicted, truth, 2)[0].sum() == 2


@pytest.mark.parametrize(("reach", "paired"), [(4.99, 0), (5.0, 1)])
def test_reach_is_euclidean_and_inclusive(reach: float, paired: int) -> None:
    predicted, truth = np.zeros((5, 6), dtype=bool), np.zeros((5, 6), dtype=bool)
    predicted[0, 0] = truth[3, 4] = True
    assert match(predicted, truth, reach)[1].sum() == paired


def test_empty_masks_match_nothing() -> None:
    empty, full = np.zeros((4, 5), dtype=bool), np.ones((4, 5), dtype=bool)
    for predicted, truth in itertools.product((empty, full), repeat=2):
        expected = 20 if predicted.all() and truth.all() else 0
        assert [m.sum() for m in match(predicted, truth, 1)] == [expected, expected]


# Thinning


def literal_edges_nms(strength: np.ndarray, border: int) -> np.ndarray:
    """edgesNms pixel by pixel, from its published description."""

    def smooth(image: np.ndarray, radius: int) -> np.ndarray:
        kernel = np.array([radius + 1 - abs(k) for k in range(-radius, radius + 1)], dtype=float)
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        padded = np.pad(image, radius, mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape)
        return np.einsum("hwij,ij->hw", windows, kernel)

    edge = smooth(strength, 1)
    oy, ox = np.gradient(smooth(edge, 4))
    oxy, oxx = np.gradient(ox)
    oyy = np.gradient(oy)[0]
    height, width = edge.shape
    out = edge.copy()
    for y, x in itertools.product(range(height), range(width)):
        angle = np.arctan(oyy[y, x] * (-np.sign(oxy[y, x]) or 1) / (oxx[y, x] + 1e-5)) % np.pi
        for side in (-1, 1):
            v = np.clip(y + side * np.sin(angle), 0, height - 1.001)
            u = np.clip(x + side * np.cos(angle), 0, width - 1.001)
            v0, u0 = int(v), int(u)
            fv, fu = v - v0, u - u0
            top = edge[v0, u0] * (1 - fu) + edge[v0, u0 + 1] * fu
            bottom = edge[v0 + 1, u0] * (1 - fu) + edge[v0 + 1, u0 + 1] * fu
            if 1.01 * edge[y, x] < top * (1 - fv) + bottom * fv:
                out[y, x] = 0
        for position, length in ((x, width), (y, height)):
            margin = min(position, length - 1 - position)
            if margin < border:
                out[y, x] *= margin / border
    return out


@pytest.mark.parametrize("border", [0, 5])
def test_thin_is_edges_nms(border: int) -> None:
    strength = scene(3)[0][:60, :50]
    expected = literal_edges_nms(strength, border)
    thinned = thin(strength, border=border)
    assert thinned.dtype == np.float32
    inner = (slice(1, -1), slice(1, -1))  # at the rim the two clamp a thousandth apart
    np.testing.assert_allclose(thinned[inner], expected[inner], atol=1e-6)


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 135])
def test_thin_leaves_the_crest_of_a_soft_line(degrees: float) -> None:
    y, x = np.mgrid[-30:31, -30:31]
    across = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
    inner = (slice(10, -10), slice(10, -10))
    crest = thin(np.exp(-((across / 4) ** 2)), border=0)[inner] > 0.2
    assert np.abs(across[inner][crest]).max() <= 1
    assert 41 <= crest.sum() <= 82  # one to two pixels wide all along; the soft line is ten


def test_thin_fades_the_border_and_survives_tiny_maps() -> None:
    fade = np.array([0, 0.2, 0.4, 0.6, 0.8, 1])
    faded = thin(np.ones((20, 30)))
    np.testing.assert_allclose(faded[10, :6], fade, rtol=1e-6)
    np.testing.assert_allclose(faded[:-7:-1, 10], fade, rtol=1e-6)
    np.testing.assert_allclose(thin(np.ones((4, 30)))[:, 15], [0, 0.5, 0.5, 0], rtol=1e-6)
    assert thin(np.ones((20, 30)), border=0).min() == 1
    for shape in ((1, 1), (1, 9), (2, 2), (9, 1)):
        assert thin(np.full(shape, 0.5), border=0).shape == shape


# Scores


def test_a_perfect_map_scores_one() -> None:
    truth = scene(0)[1][0]
    score = BoundaryF(apply_nms=False)
    score.update(morphological_thin(truth), [morphological_thin(truth)])
    result = score.compute()
    assert (result.ods_f, result.ods_precision, result.ods_recall, result.ois_f) == (1, 1, 1, 1)
    assert result.images == 1


def test_a_soft_perfect_map_scores_nearly_one_through_nms() -> None:
    truth = np.zeros((96, 128), dtype=bool)
    truth[20:70, 40] = truth[70, 40:100] = True
    soft = gaussian_filter(truth.astype(float), 1.5)
    score = BoundaryF(tolerance=TOLERANCE)
    score.update(soft / soft.max(), [truth])
    assert score.compute().ods_f > 0.97


@pytest.mark.parametrize(("shift", "f"), [(2, 1.0), (3, 0.0)])
def test_a_shift_counts_only_beyond_the_tolerance(shift: int, f: float) -> None:
    truth = np.zeros((96, 128), dtype=bool)
    truth[:, 60] = True
    score = BoundaryF(tolerance=TOLERANCE, apply_nms=False)
    score.update(np.roll(truth, shift, axis=1), [truth])
    assert score.compute().ods_f == f


def test_precision_takes_any_annotator_and_recall_sums_over_all() -> None:
    left, right = np.zeros((96, 128), dtype=bool), np.zeros((96, 128), dtype=bool)
    left[:, 30] = True
    right[:, 90] = True
    score = BoundaryF(apply_nms=False)
    score.update(left, [left, right])
    result = score.compute()
    assert (result.ods_precision, result.ods_recall) == (1.0, 0.5)
    both = BoundaryF(apply_nms=False)
    both.update(left | right, [left, right])
    assert both.compute().ods_f == 1.0


def test_pixels_outside_valid_count_nowhere() -> None:
    truth, clutter = np.zeros((96, 128), dtype=bool), np.zeros((96, 128), dtype=bool)
    truth[:, 30] = truth[:, 100] = True
    clutter[:, 30] = clutter[:, 80] = True
    valid = np.zeros((96, 128), dtype=bool)
    valid[:, :60] = True
    score = BoundaryF(apply_nms=False)
    score.update(clutter, [truth], valid)
    assert score.compute().ods_f == 1.0
    everywhere = BoundaryF(apply_nms=False)
    everywhere.update(clutter, [truth])
    assert everywhere.compute().ods_f == 0.5


def test_streaming_sums_counts_and_keeps_no_images() -> None:
    scenes = [scene(seed) for seed in range(3)]
    together = BoundaryF(tolerance=TOLERANCE)
    singles = []
    for strength, annotators in scenes:
        together.update(strength, annotators)
        single = BoundaryF(tolerance=TOLERANCE)
        single.update(strength, annotators)
        singles.append(single)
    np.testing.assert_array_equal(together.counts, sum(single.counts for single in singles))
    best = sum(single.counts[np.argmax(best_f(single.counts))] for single in singles)
    result = together.compute()
    assert result == together.compute()
    assert result.images == 3
    assert result.ois_f == pytest.approx(float(best_f(best)))
    assert result.ods_f >= best_f(together.counts).max()
    assert result.ois_f >= best_f(together.counts).max() - 0.02
    assert all(a.size <= 4 * 33 for a in vars(together).values() if isinstance(a, np.ndarray))


def test_scores_of_known_counts() -> None:
    score = BoundaryF(thresholds=[0.2, 0.6])
    score.counts = np.array([[60, 100, 90, 100], [90, 100, 30, 100]])
    score.best_counts = np.array([50, 100, 50, 100])
    score.images = 2
    steps = np.linspace(0, 1, 101)
    precision, recall = 0.6 + 0.3 * steps, 0.9 - 0.6 * steps
    f = 2 * precision * recall / (precision + recall)
    result = score.compute()
    assert result.ods_f == pytest.approx(f.max())
    assert result.ods_threshold == pytest.approx(0.2 + 0.4 * steps[f.argmax()])
    assert result.ois_f == 0.5
    levels = np.array([k / 100 for k in range(30, 91)])
    area = sum(0.9 - 0.3 * (levels - 0.3) / 0.6) / 100
    assert result.average_precision == pytest.approx(area)


def test_equal_masks_at_several_thresholds_are_matched_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = scene(1)[1][0]
    calls = []
    original = boundaries.partners
    monkeypatch.setattr(boundaries, "partners", lambda graph: calls.append(1) or original(graph))
    score = BoundaryF(apply_nms=False)
    score.update(truth, [truth])
    assert len(calls) == 1
    assert score.counts[0].all()
    assert (score.counts == score.counts[0]).all()


def test_a_strength_equal_to_the_threshold_is_an_edge() -> None:
    truth = morphological_thin(scene(0)[1][0])
    score = BoundaryF(thresholds=[0.5], apply_nms=False)
    score.update(truth * 0.5, [truth])
    assert score.compute().ods_f == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_the_bsds_definition(seed: int) -> None:
    strength, annotators = scene(seed)
    score = BoundaryF(thresholds=9, tolerance=TOLERANCE)
    score.update(strength, annotators)
    counts = bsds_counts(thin(strength), annotators, score.thresholds, TOLERANCE)
    # Pair counts are exact; which pixel is paired is not, so the union over people may differ.
    np.testing.assert_array_equal(score.counts[:, 1:], counts[:, 1:])
    np.testing.assert_allclose(score.counts[:, 0], counts[:, 0], rtol=0.01, atol=2)
    assert score.compute().ois_f == pytest.approx(best_f(counts).max(), abs=2e-3)

    one = BoundaryF(thresholds=5, tolerance=TOLERANCE)
    one.update(strength, annotators[:1])
    expected = bsds_counts(thin(strength), annotators[:1], one.thresholds, TOLERANCE)
    np.testing.assert_array_equal(one.counts, expected)


def test_scores_agree_with_pyedgeeval() -> None:
    """The same check as above against the benchmark's own C++ solver."""
    score = BoundaryF(thresholds=9, tolerance=TOLERANCE)
    counts = []
    for seed in range(5):
        strength, annotators = scene(seed)
        score.update(strength, annotators)
        counts.append(
            evaluate_boundaries_threshold_multiple_gts(
                score.thresholds,
                strength,
                np.array(annotators),
                max_dist=TOLERANCE,
                apply_nms=True,
            )
        )
    samples = [{"name": k} for k in range(5)]
    *_, theirs = calculate_metrics(lambda s: counts[s["name"]], 9, samples, nproc=1)
    ours = score.compute()
    assert ours.ods_f == pytest.approx(theirs["ODS_f1"], abs=3e-3)
    assert ours.ois_f == pytest.approx(theirs["OIS_f1"], abs=3e-3)
    assert ours.ods_recall == pytest.approx(theirs["ODS_recall"], abs=1e-2)
    # The area under nine points depends on the interpolation between them.
    assert ours.average_precision == pytest.approx(theirs["AUC"], abs=1e-2)


# Annotator masks and errors


def test_annotators_come_back_in_the_order_of_their_bits() -> None:
    masks = np.random.default_rng(0).random((16, 6, 7)) < 0.3
    packed = sum(mask.astype(np.uint16) << np.uint16(k) for k, mask in enumerate(masks))
    assert packed.dtype == np.uint16
    decoded = decode_annotators(packed, 16)
    np.testing.assert_array_equal(decoded, masks)
    assert all(mask.dtype == bool for mask in decoded)
    few = decode_annotators(packed & 7, 4)
    np.testing.assert_array_equal(few[:3], masks[:3])
    assert not few[3].any()


@pytest.mark.parametrize(
    ("mask", "count", "message"),
    [
        (np.zeros((4, 4)), 3, r"type float64; \(H, W\) integers"),
        (np.zeros((4, 4, 1), dtype=np.uint16), 3, r"shape \(4, 4, 1\)"),
        (np.zeros((4, 4), dtype=np.uint16), 0, "count is 0.*1 to 16"),
        (np.zeros((4, 4), dtype=np.uint16), 17, "count is 17"),
        (np.full((4, 4), 8, dtype=np.uint16), 3, "to 8; 3 annotators give 0 to 7"),
        (np.full((4, 4), -1), 3, "from -1"),
    ],
)
def test_bad_annotator_masks(mask: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_annotators(mask, count)


FLAT = np.full((6, 8), 0.5)
NONE = np.zeros((6, 8), dtype=bool)


@pytest.mark.parametrize(
    ("strength", "annotators", "valid", "message"),
    [
        (FLAT, [], None, "annotators is empty"),
        (FLAT[0], [NONE], None, r"strength has shape \(8,\); \(H, W\)"),
        (np.zeros((0, 4)), [np.zeros((0, 4), dtype=bool)], None, r"shape \(0, 4\)"),
        (np.where(np.eye(6, 8), np.nan, 0.5), [NONE], None, "strength has 6 NaN"),
        (FLAT * 3, [NONE], None, r"from 1.5 to 1.5; all must be in \[0, 1\]"),
        (FLAT - 1, [NONE], None, "from -0.5"),
        (FLAT, [NONE, NONE.T], None, r"annotators\[1\] has shape \(8, 6\).*\(6, 8\)"),
        (FLAT, [NONE.astype(np.uint8)], None, r"annotators\[0\].*uint8; \(H, W\) bool"),
        (FLAT, [NONE], NONE.T, r"valid has shape \(8, 6\)"),
    ],
)
def test_bad_images_leave_the_accumulator_alone(
    strength: np.ndarray, annotators: list[np.ndarray], valid: np.ndarray | None, message: str
) -> None:
    score = BoundaryF()
    with pytest.raises(ValueError, match=message):
        score.update(strength, annotators, valid)
    assert score.images == 0
    assert not score.counts.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"thresholds": 0}, "count of 1 or more"),
        ({"thresholds": [0.5, 0.5]}, "increasing"),
        ({"thresholds": [0.0, 0.5]}, r"\(0, 1\]"),
        ({"thresholds": [0.5, 1.5]}, r"\[0.5, 1.5\]"),
        ({"thresholds": [float("nan")]}, "nan"),
        ({"tolerance": 0}, "tolerance is 0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"border": -1}, "border is -1"),
    ],
)
def test_bad_settings(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoundaryF(**arguments)


def test_bad_calls_of_the_parts() -> None:
    with pytest.raises(ValueError, match="no images to score"):
        BoundaryF().compute()
    with pytest.raises(ValueError, match="border is -2"):
        thin(FLAT, border=-2)
    for distance in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="max_distance"):
            match(NONE, NONE, distance)
    with pytest.raises(ValueError, match=r"truth has shape \(8, 6\)"):
        match(NONE, NONE.T, 1)


def test_no_edges_anywhere_scores_zero() -> None:
    score = BoundaryF()
    score.update(np.zeros((6, 8)), [NONE])
    assert score.compute() == BoundaryScore(0, 1 / 34, 0, 0, 0, 0, 1)
