"""Counting label tables: the right counts, smoothed and weighed as described, judged fairly."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

import ctnet
from ctnet.cli import main
from ctnet.decoding import class_anchors
from ctnet.label_tables import table_cells
from ctnet.training.count_tables import (
    FOLDS,
    MIN_GAIN,
    add_label_tables,
    choose,
    count_labels,
    make_table,
)
from ctnet.training.datasets import CompositeDataset, open_source


@pytest.fixture
def source(write_photographs, tmp_path):
    """Six photographs, 40 x 48, whose seg has the classes 0 to 4 and the label 255."""
    root = write_photographs(tmp_path, classes=(0, 5), splits=("train",) * 6 + ("val",))
    from PIL import Image

    for number in range(6):
        path = root / f"voc_{number}.seg.png"
        label = np.array(Image.open(path))
        label[:4] = 255
        Image.fromarray(label).save(path)
    return open_source("compositemt", root, "train")


def count_by_hand(model, source, task):
    """The same counts pixel by pixel, in plain numpy."""
    classes = 21 if task == "seg" else 7
    cells = table_cells(classes)
    counted = np.zeros((FOLDS, cells, cells, cells, classes))
    confusion = np.zeros((FOLDS, classes, classes))
    anchors = np.array(class_anchors(classes))
    for index, name in enumerate(source.ids):
        sample = CompositeDataset(source, None)[index]
        palette = torch.full((1, 40, 48), model.tasks.index(task))
        with torch.no_grad():
            outputs = model(sample.image[None], palette)[0].double().numpy()
        points = 1 / (1 + np.exp(-outputs))
        fold = zlib.crc32(name.encode()) % FOLDS
        for y, x in np.argwhere(sample.labels[task].numpy() != 255):
            point, label = points[:, y, x], int(sample.labels[task][y, x])
            counted[(fold, *(int(p * cells) for p in point), label)] += 1
            nearest = np.linalg.norm(anchors - point, axis=1).argmin()
            confusion[fold, label, nearest] += 1
    return counted, confusion


@pytest.mark.parametrize("task", ["seg", "parts"])
def test_every_labeled_pixel_counts_in_its_cell(make_model, source, task):
    model = make_model()
    (counts,) = count_labels(model, source, [task], progress=False)
    counted, confusion = count_by_hand(model, source, task)
    assert counts.photographs == 6
    pixels = 6 * (36 if task == "seg" else 40) * 48
    assert counts.counted.sum() == counted.sum() == pixels
    # Rounding may move an output over the border of a cell.
    assert np.abs(counts.counted.numpy().reshape(counted.shape) - counted).sum() <= 0.001 * pixels
    assert np.abs(counts.anchors.numpy() - confusion).sum() <= 0.001 * pixels
    assert torch.equal(counts.measured, counts.counted)


def test_sources_that_a_task_is_not_measured_on_count_but_do_not_judge(make_model, source):
    for row in source.rows[:3]:
        row["source"] = "ecssd"
    (counts,) = count_labels(make_model(), source, ["seg"], progress=False)
    assert counts.counted.sum() == 2 * counts.measured.sum() == 6 * 36 * 48


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize("power", [0.0, 0.3])
def test_a_table_is_smoothed_counts_and_eq_5_weighed_by_frequency(
    make_model, source, rng, passes, power
):
    (counts,) = count_labels(make_model(), source, ["parts"], limit=1, progress=False)
    classes, cells = 7, 24
    counted = rng.poisson(0.3, (cells, cells, cells, classes)).astype(float)
    counted[:12] = 0
    smooth = counted
    for _ in range(passes):
        total, times = np.zeros_like(smooth), np.zeros_like(smooth)
        for shift in np.ndindex(3, 3, 3):
            to = tuple(slice(max(0, s - 1), cells + min(0, s - 1)) for s in shift)
            of = tuple(slice(max(0, 1 - s), cells + min(0, 1 - s)) for s in shift)
            total[to] += smooth[of]
            times[to] += 1
        smooth = total / times
    centers = np.stack(np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 3, indexing="ij"), -1)
    away = np.linalg.norm(centers[..., None, :] - np.array(class_anchors(classes)), axis=-1)
    scores = np.exp(1 / (away + 1e-2))
    prior = scores / scores.sum(-1, keepdims=True)
    frequency = counted.sum((0, 1, 2)) / counted.sum()
    wanted = (smooth + prior) * frequency**-power
    wanted /= wanted.sum(-1, keepdims=True)
    flat = torch.from_numpy(counted.reshape(-1, classes))
    found = make_table(counts, flat, power, passes)
    np.testing.assert_allclose(found.numpy().reshape(wanted.shape), wanted, rtol=2e-4)


def fill(counts, label_of_cell, seed=0):
    """Counts of 200,000 pixels anywhere in the cube, the class of a pixel as its cell says."""
    generator = torch.Generator().manual_seed(seed)
    cells, classes = counts.counted.shape[1:]
    counted = torch.zeros_like(counts.counted)
    confusion = torch.zeros_like(counts.anchors)
    nearest = counts.prior.argmax(1)
    for fold in range(FOLDS):
        where = torch.randint(cells, (200_000,), generator=generator)
        label = label_of_cell(where, generator)
        index = where * classes + label
        counted[fold] = torch.bincount(index, minlength=cells * classes).view(cells, classes)
        pairs = label * classes + nearest[where]
        confusion[fold] = torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    return replace(counts, counted=counted, measured=counted, anchors=confusion)


def test_a_table_wins_where_labels_follow_the_outputs_and_not_the_anchors(make_model, source):
    (counts,) = count_labels(make_model(), source, ["parts"], limit=1, progress=False)
    shifted = fill(counts, lambda where, _: (counts.prior[where].argmax(1) + 1) % 7)
    report = choose(shifted)
    assert report.gains and report.anchors == 0 and report.table > 90


def test_no_table_where_eq_5_reads_as_well(make_model, source):
    (counts,) = count_labels(make_model(), source, ["parts"], limit=1, progress=False)
    exact = fill(counts, lambda where, _: counts.prior[where].argmax(1))
    report = choose(exact)
    assert report.anchors == 100 and not report.gains
    chance = fill(counts, lambda where, g: torch.randint(7, where.shape, generator=g))
    report = choose(chance)
    assert report.table < report.anchors + MIN_GAIN + 1


def test_tables_are_added_and_nothing_else_changes(make_model, source, photo):
    model = make_model()
    read, reports = add_label_tables(model, source, progress=False)
    assert [report.task for report in reports] == ["seg", "parts"]
    assert read.config.label_tables == tuple(report.task for report in reports if report.gains)
    assert model.config.label_tables == ()
    found = read.state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    read.label_tables.check()
    edges = [network.predict(photo, "single:edges").labels["edges"] for network in (model, read)]
    assert np.array_equal(*edges)


def test_tables_of_other_tasks_stay(make_model, source):
    model = make_model()
    counted, reports = add_label_tables(model, source, ["seg"], progress=False)
    assert reports[0].gains
    again, _ = add_label_tables(counted, source, ["parts"], progress=False)
    assert "seg" in again.config.label_tables
    kept = (network.label_tables.reader("seg").table for network in (counted, again))
    assert torch.equal(*kept)


def test_the_mode_of_a_network_stays(make_model, source):
    model = make_model()
    model.train()
    count_labels(model, source, ["seg"], limit=1, progress=False)
    assert model.training and not model.fused
    model.eval()


def test_counting_without_labels_says_so(make_model, source, tmp_path, capsys):
    model = make_model()
    for row in source.rows:
        row["parts"] = ""
    with pytest.raises(ValueError, match=r"CompositeMT-mini \(train\) has labels of 'parts'"):
        add_label_tables(model, source, ["parts"], progress=False)
    with pytest.raises(ValueError, match="'edges' has no classes to count; those with: seg, parts"):
        add_label_tables(model, source, ["edges"], progress=False)
    ctnet.model_info("ctn-r1")
    command = ["label-tables", "ctn-r1", "--data", str(tmp_path / "none"), "--out", "x"]
    assert main(command) != 0
    assert "no index.csv" in capsys.readouterr().err
