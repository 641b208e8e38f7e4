"""Counting label tables: the right counts, smoothed and weighed as described, judged fairly."""

import zlib

import numpy as np
import pytest
import torch

import ctnet
from ctnet.cli.main import main
from ctnet.data.dataset import CompositeDataset, open_source
from ctnet.evaluation.metrics import mean_iou
from ctnet.label_tables import table_cells
from ctnet.labels import class_anchors
from ctnet.models.base import build
from ctnet.models.convert import config_with_tables
from ctnet.tasks import get_task
from ctnet.training.count_tables import (
    FOLDS,
    MIN_GAIN,
    Counts,
    RuleCounts,
    TableChoice,
    add_label_tables,
    choose,
    count_labels,
    make_table,
)


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


def count_by_hand(model, source, task, rule):
    """The same counts pixel by pixel, in plain numpy."""
    classes = 21 if task == "seg" else 7
    cells = table_cells(classes)
    counted = np.zeros((FOLDS, cells, cells, cells, classes))
    confusion = np.zeros((FOLDS, classes, classes))
    anchors = np.array(class_anchors(classes))
    for index, name in enumerate(source.ids):
        sample = CompositeDataset(source, ctnet.get_rule("R2"))[index]
        number = model.tasks.index(task)
        palette = sample.palette if rule else torch.full((1, 40, 48), number)
        with torch.no_grad():
            outputs = model(sample.image[None], palette)[0].double().numpy()
        points = 1 / (1 + np.exp(-outputs))
        fold = zlib.crc32(name.encode()) % FOLDS
        asked = sample.palette.numpy() == number if rule else True
        for y, x in np.argwhere((sample.labels[task].numpy() != 255) & asked):
            point, label = points[:, y, x], int(sample.labels[task][y, x])
            counted[(fold, *(int(p * cells) for p in point), label)] += 1
            nearest = np.linalg.norm(anchors - point, axis=1).argmin()
            confusion[fold, label, nearest] += 1
    return counted, confusion


@pytest.mark.parametrize("rule", [False, True])
@pytest.mark.parametrize("task", ["seg", "parts"])
def test_every_labeled_pixel_counts_in_its_cell(make_model, source, task, rule):
    model = make_model()
    (counts,) = count_labels(model, source, [task], progress=False)
    counted, confusion = count_by_hand(model, source, task, rule)
    assert counts.photographs == 6
    found = counts.ruled if rule else counts.everywhere
    pixels = counted.sum()
    if not rule:
        assert pixels == 6 * (36 if task == "seg" else 40) * 48
    assert found.counted.sum() == pixels and (pixels > 0) == (not rule or task == "seg")
    # Rounding may move an output over the border of a cell.
    assert np.abs(found.counted.numpy().reshape(counted.shape) - counted).sum() <= 0.001 * pixels
    assert np.abs(found.before.numpy() - confusion).sum() <= 0.001 * pixels


def test_only_sources_with_the_best_labels_of_a_task_count(make_model, source):
    for row, name in zip(source.rows, ("ecssd", "ecssd", "ccp", "voc", "coco", "nyu"), strict=True):
        row["source"] = name
    seg, parts = count_labels(make_model(), source, ["seg", "parts"], progress=False)
    assert (seg.photographs, parts.photographs) == (2, 3)
    assert seg.everywhere.counted.sum() == 2 * 36 * 48


def eq_5(classes, cells):
    """Probabilities (G,G,G,C) of eq. 5 at the centers of cells."""
    centers = np.stack(np.meshgrid(*[(np.arange(cells) + 0.5) / cells] * 3, indexing="ij"), -1)
    away = np.linalg.norm(centers[..., None, :] - np.array(class_anchors(classes)), axis=-1)
    scores = np.exp(1 / (away + 1e-2))
    return scores / scores.sum(-1, keepdims=True)


@pytest.fixture
def counts():
    """Counts of nothing, for parts."""
    prior = torch.from_numpy(eq_5(7, 24).reshape(-1, 7))
    return Counts(
        get_task("parts"), prior, RuleCounts.empty(7), RuleCounts.empty(7), torch.arange(7), 10
    )


def filtered(smooth, passes):
    """Means over the neighbors that there are, pass by pass."""
    cells = len(smooth)
    for _ in range(passes):
        total, times = np.zeros_like(smooth), np.zeros_like(smooth)
        for shift in np.ndindex(3, 3, 3):
            to = tuple(slice(max(0, s - 1), cells + min(0, s - 1)) for s in shift)
            of = tuple(slice(max(0, 1 - s), cells + min(0, 1 - s)) for s in shift)
            total[to] += smooth[of]
            times[to] += 1
        smooth = total / times
    return smooth


@pytest.mark.parametrize("passes", [0, 1, 2])
@pytest.mark.parametrize(("power", "share"), [(0.0, 1.0), (0.3, 0.5)])
def test_a_table_is_smoothed_counts_and_eq_5_weighed_by_frequency(
    counts, rng, passes, power, share
):
    everywhere, ruled = (rng.poisson(m, (24, 24, 24, 7)).astype(float) for m in (0.3, 0.1))
    everywhere[:12] = 0
    counts.everywhere.counted[2] = torch.from_numpy(everywhere.reshape(-1, 7))
    counts.ruled.counted[1] = torch.from_numpy(ruled.reshape(-1, 7))
    frequency = everywhere.sum((0, 1, 2)) / everywhere.sum()
    wanted = filtered(everywhere, passes) + share * filtered(ruled, passes) + eq_5(7, 24)
    wanted *= frequency**-power
    wanted /= wanted.sum(-1, keepdims=True)
    found = make_table(counts, TableChoice(power, passes, share)).numpy()
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, rtol=1e-6)


def fill(counts, label_of_cell, seed=0):
    """Adds 200,000 pixels a fold anywhere in the cube, the class of a pixel as its cell says."""
    generator = torch.Generator().manual_seed(seed)
    cells, classes = counts.counted.shape[1:]
    nearest = torch.from_numpy(eq_5(classes, 24).reshape(-1, classes).argmax(1))
    for fold in range(FOLDS):
        where = torch.randint(cells, (200_000,), generator=generator)
        label = label_of_cell(nearest[where], generator)
        found = torch.bincount(where * classes + label, minlength=cells * classes)
        counts.counted[fold] += found.view(cells, classes)
        pairs = label * classes + nearest[where]
        found = torch.bincount(pairs, minlength=classes**2)
        counts.before[fold] += found.view(classes, classes)


def test_a_table_wins_where_labels_follow_the_outputs_and_not_the_anchors(counts):
    fill(counts.everywhere, lambda nearest, _: (nearest + 1) % 7)
    report = choose(counts)
    assert report.gains and report.before == 0 and report.table > 90
    assert np.isnan(report.rule_table)


def test_no_table_where_eq_5_reads_as_well(counts):
    fill(counts.everywhere, lambda nearest, _: nearest)
    report = choose(counts)
    assert report.before == 100 and not report.gains


def test_chance_is_not_taken_for_a_gain(counts):
    fill(counts.everywhere, lambda x, g: torch.randint(7, x.shape, generator=g))
    report = choose(counts)
    assert report.table < report.before + MIN_GAIN + 1


def test_what_a_rule_asks_for_is_read_no_worse(counts):
    """Under S six of ten pixels are background; the rule asks where the same outputs are not."""

    def mostly_background(nearest, generator):
        hidden = torch.rand(nearest.shape, generator=generator) < 0.6
        return torch.where(hidden, 0, (nearest + 1) % 7)

    fill(counts.everywhere, mostly_background)
    fill(counts.ruled, lambda nearest, _: nearest.clamp(min=1), seed=1)
    report = choose(counts)
    assert report.rule_table >= report.rule_before > 80
    plain = make_table(counts, TableChoice(0.0, 0, 0.0)).argmax(1)
    assert (plain == 0).float().mean() > 0.9


def test_tables_are_added_and_nothing_else_changes(make_model, source, photo):
    model = make_model()
    read, reports = add_label_tables(model, source, progress=False, min_photographs=0)
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
    counted, reports = add_label_tables(model, source, ["seg"], progress=False, min_photographs=0)
    assert reports[0].gains
    again, _ = add_label_tables(counted, source, ["parts"], progress=False)
    assert "seg" in again.config.label_tables
    kept = (network.label_tables.reader("seg").table for network in (counted, again))
    assert torch.equal(*kept)


def test_a_table_that_is_there_stays_where_a_new_one_is_not_taken(make_model, source):
    model = make_model()
    counted, _ = add_label_tables(model, source, ["seg"], progress=False, min_photographs=0)
    again, (report,) = add_label_tables(
        counted, source, ["seg"], progress=False, min_photographs=10**6
    )
    reader = counted.label_tables.reader("seg")
    confusion = torch.zeros(21, 21, dtype=torch.int64)
    for index in range(6):
        sample = CompositeDataset(source, ctnet.get_rule("R2"))[index]
        with torch.inference_mode():
            outputs = counted.fuse()(sample.image, torch.zeros_like(sample.palette))
        valid = sample.valid[0]
        read = reader.classes(outputs.permute(1, 2, 0)[valid]).long()
        confusion.view(-1).index_add_(
            0, sample.labels["seg"][valid] * 21 + read, torch.ones_like(read)
        )
    assert report.before == pytest.approx(mean_iou(confusion), abs=0.05)
    kept = (network.label_tables.reader("seg").table for network in (counted, again))
    assert torch.equal(*kept)


def test_anchors_of_a_task_that_reads_itself_become_the_means_of_its_classes(make_model, source):
    model = make_model()
    cells = table_cells(21)
    table = torch.full((cells,) * 3 + (21,), -20.0)
    table[..., 20] = 0
    config = config_with_tables(model.config, {"label_tables.seg": table})
    own = build(config)
    own.load_state_dict(model.state_dict() | {"label_tables.seg": table.half()})
    (counts,) = count_labels(own.eval(), source, ["seg"], progress=False)
    assert counts.everywhere.before.sum(0)[:, :20].sum() == 0
    read, (report,) = add_label_tables(own, source, ["seg"], progress=False, min_photographs=0)
    assert report.gains
    (anchors,) = (entry.points for entry in read.config.anchors if entry.task == "seg")
    counted = counts.everywhere.counted.sum(0).numpy()
    axis = (np.arange(cells) + 0.5) / cells
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    for number, point in enumerate(anchors):
        if counted[:, number].sum():
            wanted = np.average(grid, axis=0, weights=counted[:, number])
            assert np.allclose(point, wanted, atol=1e-6)


def test_a_class_on_few_photographs_leaves_a_task_to_eq_5(make_model, source):
    """Five of the 21 classes are on six photographs, the others on none."""
    model = make_model()
    read, (report,) = add_label_tables(model, source, ["seg"], progress=False)
    assert report.rarest == 0 and read.config.label_tables == ()
    labels = [np.unique(source.load(i)["seg"]) for i in range(6)]
    (counts,) = count_labels(model, source, ["seg"], progress=False)
    wanted = [sum(c in found for found in labels) for c in range(21)]
    assert counts.shown.tolist() == wanted and max(wanted) == 6


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
    command = ["label-tables", "ctn-r1", "--data", str(tmp_path / "none"), "--out", "x"]
    assert main(command) != 0
    assert "no folder" in capsys.readouterr().err
