"""The BSDS boundary benchmark in Python: thinning, one-to-one matching, odsF and oisF.

A predicted boundary pixel is right when it can be paired with a human-drawn one nearby, each pixel
in at most one pair (Martin, Fowlkes and Malik, "Learning to detect natural image boundaries using
local brightness, color, and texture cues", PAMI 2004; Arbelaez, Maire, Fowlkes and Malik, "Contour
detection and hierarchical image segmentation", PAMI 2011). The F measure is taken at the one
threshold that serves the whole data set best (ODS), or each image best (OIS).

    score = BoundaryF()
    for strength, annotators in images:
        score.update(strength, annotators)
    print(score.compute().ods_f)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import convolve1d, map_coordinates
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree
from skimage.morphology import thin as morphological_thin

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def thin(strength: ArrayLike, *, border: int = 5) -> NDArray[np.float32]:
    """Keep the crest of every edge of a soft edge map, and zero what lies beside it.

    Non-maximum suppression in the manner of Dollar and Zitnick's edgesNms ("Fast edge detection
    using structured forests", PAMI 2015) with its usual settings: the map is smoothed by a
    triangle filter of radius 1; the direction across the edge comes from the second derivatives
    of a further smoothing of radius 4; a pixel stays unless it is more than 1 % weaker
    than one of the two points one pixel away in that direction, interpolated bilinearly. Flat
    crests stay two pixels wide: the benchmark thins them morphologically after thresholding.

    Args:
        strength: (H, W) edge strength in [0, 1].
        border: width in pixels of the margin over which strengths fade linearly to 0 at the
            outermost pixel, where networks and filters respond to the padding; 0: no fading.

    Returns:
        (H, W) float32 in [0, 1]: the smoothed strength on crests, 0 elsewhere.

    Raises:
        ValueError: ``strength`` is not a finite 2-D map in [0, 1], or ``border`` is negative.
    """
    if border < 0:
        raise ValueError(f"border is {border}; it must be 0 or more pixels")
    edge = _triangle(_checked_strength(strength), 1)

    wide = _triangle(edge, 4)
    if min(wide.shape) < 2:
        return edge.astype(np.float32)
    down, right = np.gradient(wide)
    right_right = np.gradient(right, axis=1)
    right_down, down_down = np.gradient(right, axis=0), np.gradient(down, axis=0)
    # edgesNms's own formula, though the Hessian's eigenvectors would be a little more exact: its
    # crests are what published figures were computed on. Its sign(0) = 0 would turn the direction
    # across an exactly horizontal edge into the direction along it.
    sign = np.where(right_down > 0, -1.0, 1.0)
    angle = np.arctan(sign * down_down / (right_right + 1e-5))

    rows, columns = np.indices(edge.shape)
    crest = np.ones(edge.shape, dtype=bool)
    for side in (-1, 1):
        beside = map_coordinates(
            edge,
            [rows + side * np.sin(angle), columns + side * np.cos(angle)],
            order=1,
            mode="nearest",
        )
        crest &= 1.01 * edge >= beside
    thinned = np.where(crest, edge, 0.0)

    for axis, length in enumerate(edge.shape):
        margin = min(border, length // 2)
        if margin:
            position = np.arange(length)
            fade = np.minimum(np.minimum(position, position[::-1]) / margin, 1.0)
            thinned *= fade[:, None] if axis == 0 else fade
    return thinned.astype(np.float32)


def match(predicted: ArrayLike, truth: ArrayLike, max_distance: float) -> tuple[Mask, Mask]:
    """Pair predicted with true boundary pixels one to one, as many as possible.

    The benchmark solves an assignment of least total distance in which an unpaired pixel costs 100
    times ``max_distance``, so that in practice it too pairs as many pixels as possible: the number
    of pairs agrees. *Which* of several equivalent pixels is paired may differ.

    Args:
        predicted: (H, W) bool, predicted boundary.
        truth: (H, W) bool, true boundary.
        max_distance: greatest Euclidean distance within a pair, in pixels, inclusive.

    Returns:
        The paired pixels of ``predicted`` and those of ``truth``, (H, W) bool each, equal in
        number.

    Raises:
        ValueError: a mask is not 2-D and bool, the shapes differ, or ``max_distance`` is negative
            or not finite.
    """
    predicted = _checked_mask(predicted, "predicted")
    truth = _checked_mask(truth, "truth", predicted.shape)
    if not (np.isfinite(max_distance) and max_distance >= 0):
        raise ValueError(f"max_distance is {max_distance}; it must be finite and 0 or more pixels")
    points, true_points = np.argwhere(predicted), np.argwhere(truth)
    partner = partners(_neighbors(points, true_points, max_distance))
    paired = partner >= 0

    matched_predicted, matched_truth = np.zeros_like(predicted), np.zeros_like(truth)
    matched_predicted[tuple(points[paired].T)] = True
    matched_truth[tuple(true_points[partner[paired]].T)] = True
    return matched_predicted, matched_truth


@dataclass(frozen=True)
class BoundaryScore:
    """Scores of a set of edge maps; every one lies in [0, 1], higher is better.

    Attributes:
        ods_f: F measure at the best single threshold (optimal data-set scale).
        ods_threshold: that threshold; between two that were evaluated, precision and recall are
            interpolated linearly, as the BSDS code does.
        ods_precision: precision there.
        ods_recall: recall there.
        ois_f: F measure with each image at its own best threshold (optimal image scale).
        average_precision: mean precision over recall 0, 0.01 .. 0.99, linear between the measured
            recalls and 0 outside their range, as the BSDS code does; so it is 0 where every
            threshold gives the same recall, as a binary edge map does.
        images: number of images.
    """

    ods_f: float
    ods_threshold: float
    ods_precision: float
    ods_recall: float
    ois_f: float
    average_precision: float
    images: int


class BoundaryF:
    """Accumulate boundary precision and recall over images (odsF, oisF, average precision).

    At every threshold the map is binarized (``>=``), thinned morphologically and matched with each
    annotator's boundary. A predicted pixel is right if it is paired in any annotator's matching;
    recall counts every annotator's pixels. Memory does not grow with the number of images.

    Args:
        thresholds: their number n, evenly spaced at 1/(n+1) .. n/(n+1), or increasing values in
            (0, 1].
        tolerance: greatest distance between paired pixels, as a fraction of the image diagonal;
            0.0075 is the benchmark's on BSDS.
        apply_nms: apply `thin` first. Soft maps need it; maps that are thin already do not.
        border: margin in pixels over which `thin` fades the map; without effect if not
            ``apply_nms``.

    Attributes:
        counts: pixels at each threshold, (T, 4): paired and all predicted ones, paired and all true
            ones.
        best_counts: the same, (4,), of each image at the threshold that is best for it.

    Raises:
        ValueError: thresholds, tolerance or border are outside these ranges.
    """

    def __init__(
        self,
        thresholds: int | Sequence[float] = 33,
        tolerance: float = 0.0075,
        apply_nms: bool = True,
        border: int = 5,
    ) -> None:
        if isinstance(thresholds, int):
            thresholds = [(k + 1) / (thresholds + 1) for k in range(thresholds)]
        self.thresholds: Floats = np.array(thresholds, dtype=np.float64)
        inside = (self.thresholds > 0) & (self.thresholds <= 1)
        rising = self.thresholds.ndim == 1 and bool(np.all(np.diff(self.thresholds) > 0))
        if not (self.thresholds.size and inside.all() and rising):
            raise ValueError(
                f"thresholds are {self.thresholds.tolist()}; they must be a count of 1 or more, "
                "or increasing values in (0, 1]"
            )
        if not 0 < tolerance <= 1:
            raise ValueError(f"tolerance is {tolerance}; it must be in (0, 1] image diagonals")
        if border < 0:
            raise ValueError(f"border is {border}; it must be 0 or more pixels")
        self.tolerance = tolerance
        self.apply_nms = apply_nms
        self.border = border
        self.images = 0
        # One row per threshold: paired and all predicted pixels, paired and all true pixels.
        self.counts = np.zeros((self.thresholds.size, 4), dtype=np.int64)
        self.best_counts = np.zeros(4, dtype=np.int64)

    def update(
        self,
        strength: ArrayLike,
        annotators: Sequence[ArrayLike],
        valid: ArrayLike | None = None,
    ) -> None:
        """Add one image.

        Args:
            strength: (H, W) predicted edge strength in [0, 1].
            annotators: one or several (H, W) bool masks of true boundaries, one per human.
            valid: (H, W) bool; predicted and true pixels outside it are dropped before matching.
                None: all pixels count.

        Raises:
            ValueError: no annotators, shapes that differ, masks that are not bool, or a
                ``strength`` that is not finite or leaves [0, 1]. The accumulator is unchanged.
        """
        edge = _checked_strength(strength)
        shape = edge.shape
        truths = [_checked_mask(a, f"annotators[{k}]", shape) for k, a in enumerate(annotators)]
        if not truths:
            raise ValueError("annotators is empty; at least one (H, W) bool mask is needed")
        keep = np.ones(shape, dtype=bool)
        if valid is not None:
            keep = _checked_mask(valid, "valid", shape)
        if self.apply_nms:
            edge = thin(edge, border=self.border).astype(np.float64)

        counts = self._count(edge, [truth & keep for truth in truths], keep)
        self.counts += counts
        self.best_counts += counts[np.argmax(_precision_recall_f(counts)[2])]
        self.images += 1

    def compute(self) -> BoundaryScore:
        """Return the scores of the images so far; more may follow.

        Raises:
            ValueError: there were no images.
        """
        if not self.images:
            raise ValueError("no images to score: call update() at least once before compute()")
        precision, recall, _ = _precision_recall_f(self.counts)
        steps = np.arange(self.thresholds.size)
        fine_steps = np.linspace(0, steps[-1], 100 * int(steps[-1]) + 1)
        fine_precision = np.interp(fine_steps, steps, precision)
        fine_recall = np.interp(fine_steps, steps, recall)
        fine_f = _f(fine_precision, fine_recall)
        best = int(np.argmax(fine_f))

        recalls, first = np.unique(recall, return_index=True)
        average_precision = 0.0
        if recalls.size > 1:
            levels = np.arange(100) / 100
            curve = np.interp(levels, recalls, precision[first], left=0.0, right=0.0)
            average_precision = float(curve.mean())
        return BoundaryScore(
            ods_f=float(fine_f[best]),
            ods_threshold=float(np.interp(fine_steps[best], steps, self.thresholds)),
            ods_precision=float(fine_precision[best]),
            ods_recall=float(fine_recall[best]),
            ois_f=float(_precision_recall_f(self.best_counts)[2]),
            average_precision=average_precision,
            images=self.images,
        )

    def _count(self, edge: Floats, truths: list[Mask], keep: Mask) -> NDArray[np.int64]:
        """Count one image's pixels as in ``counts``; thinning sees what ``keep`` excludes."""
        reach = self.tolerance * float(np.hypot(*edge.shape))
        candidates = (edge >= self.thresholds[0]) & keep
        row_of = np.cumsum(candidates).reshape(edge.shape) - 1
        points = np.argwhere(candidates)
        # Distances do not depend on the threshold: search once, then take rows of the result.
        graphs = [_neighbors(points, np.argwhere(truth), reach) for truth in truths]

        counts = np.zeros((self.thresholds.size, 4), dtype=np.int64)
        counts[:, 3] = sum(int(truth.sum()) for truth in truths)
        size_before = -1
        for step, threshold in enumerate(self.thresholds):
            binary = edge >= threshold
            size = int(binary.sum())
            if size == size_before:  # the masks are nested, so this one is the same
                counts[step] = counts[step - 1]
                continue
            size_before = size
            thinned: Mask = morphological_thin(binary)  # type: ignore[no-untyped-call]
            rows = row_of[thinned & keep]
            right = np.zeros(rows.size, dtype=bool)
            for graph in graphs:
                paired = partners(graph[rows]) >= 0
                right |= paired
                counts[step, 2] += paired.sum()
            counts[step, :2] = right.sum(), rows.size
        return counts


def _neighbors(points: NDArray[np.intp], others: NDArray[np.intp], reach: float) -> csr_array:
    """Return the (len(points), len(others)) graph of pixels within ``reach``."""
    pairs = KDTree(points).sparse_distance_matrix(KDTree(others), reach, output_type="ndarray")
    # Not the distances as weights: those of 0 would be no edges.
    linked = np.ones(pairs.size, dtype=bool)
    return csr_array((linked, (pairs["i"], pairs["j"])), shape=(len(points), len(others)))


def partners(graph: csr_array) -> NDArray[np.int32]:
    """Return each row's column in a largest matching, -1 where it has none."""
    if 0 in graph.shape:
        return np.full(graph.shape[0], -1, dtype=np.int32)
    found: NDArray[np.int32] = maximum_bipartite_matching(graph, perm_type="column")
    return found


def _triangle(image: Floats, radius: int) -> Floats:
    """Smooth with a separable triangle filter of unit sum, mirrored at the border."""
    weights = radius + 1.0 - np.abs(np.arange(-radius, radius + 1))
    weights /= weights.sum()
    smooth: Floats = convolve1d(convolve1d(image, weights, axis=0), weights, axis=1)
    return smooth


def _precision_recall_f(counts: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    precision = counts[..., 0] / np.maximum(counts[..., 1], 1)
    recall = counts[..., 2] / np.maximum(counts[..., 3], 1)
    return precision, recall, _f(precision, recall)


def _f(precision: Floats, recall: Floats) -> Floats:
    total = precision + recall
    return 2 * precision * recall / np.where(total == 0, 1, total)


def _checked_strength(strength: ArrayLike) -> Floats:
    edge = np.asarray(strength, dtype=np.float64)
    if edge.ndim != 2 or not edge.size:
        raise ValueError(f"strength has shape {edge.shape}; (H, W) is needed")
    if not np.isfinite(edge).all():
        wrong = int((~np.isfinite(edge)).sum())
        raise ValueError(f"strength has {wrong} NaN or infinite values; all must be in [0, 1]")
    if edge.min() < 0 or edge.max() > 1:
        raise ValueError(
            f"strength has values from {edge.min():.6g} to {edge.max():.6g}; all must be in [0, 1]"
        )
    return edge


def _checked_mask(mask: ArrayLike, name: str, shape: tuple[int, ...] | None = None) -> Mask:
    checked = np.asarray(mask)
    if checked.dtype != np.bool_ or checked.ndim != 2:
        raise ValueError(
            f"{name} has shape {checked.shape} and type {checked.dtype}; (H, W) bool is needed"
        )
    if shape is not None and checked.shape != shape:
        raise ValueError(f"{name} has shape {checked.shape}; the map it goes with has {shape}")
    return checked
