"""Composite to labels: anchors, eq. 5, and what each kind of task gives."""

import math

import numpy as np
import pytest
import torch

from ctnet.labels import (
    SCORE_EPS,
    TaskLabels,
    anchor_scores,
    class_anchors,
    decode,
    decode_task,
    task_values,
)
from ctnet.tasks import DEFAULT_TASKS, get_task

COUNTS = [2, 3, 5, 7, 8, 9, 14, 15, 21, 26, 27, 40, 63, 100]


def brute_distance(anchors):
    return min(math.dist(a, b) for i, a in enumerate(anchors) for b in anchors[:i])


def logits_of(points):
    """Raw outputs whose sigmoid is as near to points in [0, 1] as float32 gets."""
    return torch.logit(torch.tensor(points, dtype=torch.float64), eps=1e-12).float()


@pytest.mark.parametrize("classes", COUNTS)
def test_anchors_are_distinct_points_of_the_cube(classes):
    anchors = class_anchors(classes)
    assert len(set(anchors)) == len(anchors) == classes
    assert all(len(anchor) == 3 and 0 <= min(anchor) <= max(anchor) <= 1 for anchor in anchors)
    assert (0.5, 0.5, 0.5) not in anchors
    assert anchors[0] == (0, 0, 0)


@pytest.mark.parametrize("classes", range(2, 27))
def test_anchors_are_far_apart(classes):
    least = 1.0 if classes <= 8 else math.sqrt(0.5) if classes <= 14 else 0.5
    assert brute_distance(class_anchors(classes)) >= least - 1e-12


@pytest.mark.parametrize("classes", [9, 21])
def test_anchors_do_not_change(classes):
    before = class_anchors(classes)
    class_anchors.cache_clear()
    assert class_anchors(classes) == before


def test_anchors_of_more_classes_never_come_closer_than_a_finer_lattice():
    distances = [brute_distance(class_anchors(classes)) for classes in range(2, 65)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] >= 1 / 3 - 1e-12


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_too_few_classes_for_anchors(classes):
    with pytest.raises(ValueError, match="two classes or more"):
        class_anchors(classes)


@pytest.mark.parametrize("classes", [2, 7, 21])
def test_scores_are_eq_5(classes, rng):
    outputs = rng.normal(0, 3, (4, 5, 3))
    points = 1 / (1 + np.exp(-outputs))
    expected = np.empty((4, 5, classes))
    for c, anchor in enumerate(class_anchors(classes)):
        expected[..., c] = 1 / (np.sqrt(((points - np.array(anchor)) ** 2).sum(-1)) + 0.01)
    scores = anchor_scores(torch.from_numpy(outputs), class_anchors(classes))
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("classes", [2, 7, 14, 21, 26])
@pytest.mark.parametrize("distance", [0.0, 0.2])
def test_outputs_at_and_near_an_anchor_are_its_class(classes, distance, rng):
    anchors = np.array(class_anchors(classes))
    directions = rng.normal(size=anchors.shape)
    # Into the cube, so that the points are reachable.
    directions = np.abs(directions) * np.where(anchors > 0.5, -1, 1)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    points = anchors + distance * directions
    classes_found = anchor_scores(logits_of(points), class_anchors(classes)).argmax(-1)
    assert classes_found.tolist() == list(range(classes))


def test_score_on_an_anchor_is_capped():
    outputs = torch.full((1, 3), -1e4)
    scores = anchor_scores(outputs, class_anchors(8))
    assert scores[0, 0].item() == pytest.approx(1 / SCORE_EPS, rel=1e-3)
    assert scores.argmax().item() == 0


@pytest.mark.parametrize("classes", [7, 9, 21, 26])
def test_score_gradients_are_finite_exactly_on_anchors(classes):
    anchors = torch.tensor(class_anchors(classes))
    outputs = ((anchors - 0.5) * 1e4).requires_grad_()
    assert torch.equal(torch.sigmoid(outputs), anchors)
    anchor_scores(outputs, class_anchors(classes)).log_softmax(-1).diagonal().sum().backward()
    assert outputs.grad.isfinite().all()


def test_score_gradients(rng):
    outputs = torch.from_numpy(rng.normal(size=(4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: anchor_scores(x, class_anchors(7)), outputs)


@pytest.mark.parametrize("name", ["seg", "parts"])
def test_class_values_are_a_softmax_of_scores(name, rng):
    task = get_task(name)
    outputs = torch.from_numpy(rng.normal(0, 2, (6, 3)))
    values = task_values(outputs, task).numpy()
    scores = anchor_scores(outputs, class_anchors(len(task.classes))).numpy()
    expected = np.exp(scores - scores.max(1, keepdims=True))
    np.testing.assert_allclose(values, expected / expected.sum(1, keepdims=True), rtol=1e-9)
    assert decode_task(outputs, task).tolist() == values.argmax(1).tolist()
    assert decode_task(outputs, task).dtype == torch.uint8


@pytest.mark.parametrize("name", ["edges", "saliency"])
def test_probability_is_the_mean_of_the_channels_sigmoids(name, rng):
    outputs = rng.normal(0, 3, (50, 3))
    expected = (1 / (1 + np.exp(-outputs))).mean(1)
    probability = decode_task(torch.from_numpy(outputs), get_task(name))
    np.testing.assert_allclose(probability.numpy(), expected, rtol=1e-12)
    assert task_values(torch.from_numpy(outputs), get_task(name)).shape == (50, 1)


def test_normals_are_unit_and_keep_their_direction(rng):
    outputs = rng.normal(0, 3, (50, 3)) * 10.0 ** rng.integers(-4, 5, (50, 1))
    normals = decode_task(torch.from_numpy(outputs), get_task("normals")).numpy()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(np.cross(normals, outputs), 0, atol=1e-9)
    assert (np.sum(normals * outputs, axis=1) > 0).all()


@pytest.fixture
def composite(rng):
    return torch.from_numpy(rng.normal(0, 2, (2, 3, 6, 8)).astype(np.float32))


@pytest.mark.parametrize("name", DEFAULT_TASKS)
def test_decode_fills_what_was_asked_and_nothing_else(name, composite, make_ids):
    palette = make_ids("random", (2, 6, 8), seed=1)
    palette[0, :2] = 255
    i = DEFAULT_TASKS.index(name)
    task = get_task(name)
    labels = decode(composite, palette, DEFAULT_TASKS)[name]
    assert isinstance(labels, TaskLabels)
    assert torch.equal(labels.valid, palette == i)
    values = labels.values
    fill = 255 if task.kind == "classes" else 0
    if task.kind == "normals":
        assert values.shape == (2, 3, 6, 8)
        values = values.permute(0, 2, 3, 1)
    else:
        assert values.shape == (2, 6, 8)
    assert (values[palette != i] == fill).all()
    for n, y, x in torch.nonzero(palette == i).tolist():
        expected = decode_task(composite[n, :, y, x][None], task)[0]
        torch.testing.assert_close(values[n, y, x], expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("seg", torch.uint8),
        ("parts", torch.uint8),
        ("edges", torch.float32),
        ("saliency", torch.float32),
        ("normals", torch.float32),
    ],
)
def test_decode_gives_only_requested_tasks(name, dtype, composite):
    palette = torch.full((2, 6, 8), DEFAULT_TASKS.index(name))
    labels = decode(composite, palette, DEFAULT_TASKS)
    assert list(labels) == [name]
    assert labels[name].values.dtype == dtype
    assert labels[name].valid.all()


def test_decode_reads_ids_in_the_order_of_the_tasks(composite):
    palette = torch.zeros(2, 6, 8, dtype=torch.long)
    palette[:, 3:] = 1
    labels = decode(composite, palette, ("normals", "seg"))
    assert list(labels) == ["normals", "seg"]
    assert torch.equal(labels["seg"].valid, palette == 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_decode_of_other_precisions(composite, make_ids, dtype):
    palette = make_ids("random", (2, 6, 8))
    found = decode(composite.to(dtype), palette, DEFAULT_TASKS)
    expected = decode(composite.to(dtype).double(), palette, DEFAULT_TASKS)
    assert list(found) == list(DEFAULT_TASKS)
    for name in DEFAULT_TASKS:
        difference = found[name].values.double() - expected[name].values.double()
        assert difference.abs().max() <= 0.02


def test_decode_of_nothing_asked_is_empty(composite):
    assert decode(composite, torch.full((2, 6, 8), 255), DEFAULT_TASKS) == {}


@pytest.mark.parametrize(
    ("composite_shape", "palette_shape", "message"),
    [
        ((3, 6, 8), (6, 8), r"a composite is \(N,3,H,W\); got \(3, 6, 8\)"),
        ((1, 4, 6, 8), (1, 6, 8), r"a composite is \(N,3,H,W\)"),
        ((2, 3, 6, 8), (6, 8), r"the palette is \(6, 8\)"),
        ((2, 3, 6, 8), (1, 6, 8), "the palette is"),
        ((2, 3, 6, 8), (2, 8, 6), "the palette is"),
    ],
)
def test_shapes_must_fit(composite_shape, palette_shape, message):
    palette = torch.zeros(palette_shape, dtype=torch.long)
    with pytest.raises(ValueError, match=message):
        decode(torch.zeros(composite_shape), palette, DEFAULT_TASKS)


def test_unknown_task_in_decode(composite):
    with pytest.raises(ValueError, match="unknown task 'depth'"):
        decode(composite, torch.zeros(2, 6, 8, dtype=torch.long), ("depth",))
