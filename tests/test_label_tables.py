"""Label tables: read where labels are read, kept in checkpoints, refused where they are broken."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import ctnet
from ctnet.cli.main import main
from ctnet.export.write import properties
from ctnet.label_tables import LabelTables, table_cells
from ctnet.models.base import build
from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.models.convert import adapt_weights

CLASSES = {"seg": 21, "parts": 7}


def draw_table(task, seed=0):
    """A table (G,G,G,C) of random probabilities, and the same as numpy."""
    cells = table_cells(CLASSES[task])
    scores = np.random.default_rng(seed).normal(0, 3, (cells, cells, cells, CLASSES[task]))
    table = torch.from_numpy(scores).log_softmax(-1).half()
    return table, table.float().numpy()


@pytest.fixture
def tabled(make_model):
    """Function (system) -> network with tables for seg and parts, and the tables."""

    def make(system="ctn"):
        plain = make_model(system)
        model = build(replace(plain.config, label_tables=("seg", "parts")))
        tables = {task: draw_table(task, n) for n, task in enumerate(CLASSES)}
        extra = {f"label_tables.{task}": table for task, (table, _) in tables.items()}
        model.load_state_dict(plain.state_dict() | extra)
        return model.eval(), {task: array for task, (_, array) in tables.items()}

    return make


def look_up(outputs, table):
    """Rows of the cells of raw outputs (...,3), one pixel after the other."""
    points = 1 / (1 + np.exp(-np.asarray(outputs, np.float32)))
    cells = len(table)
    rows = [
        table[tuple(min(int(x * cells), cells - 1) for x in point)]
        for point in points.reshape(-1, 3)
    ]
    return np.array(rows).reshape(*points.shape[:-1], -1)


@pytest.mark.parametrize(
    ("classes", "cells"), [(2, 24), (7, 24), (21, 24), (22, 23), (40, 19), (255, 10)]
)
def test_a_table_is_the_largest_that_fits(classes, cells):
    assert table_cells(classes) == cells
    assert cells**3 * classes * 2 <= 600_000
    assert cells == 24 or (cells + 1) ** 3 * classes * 2 > 600_000


@pytest.mark.parametrize("system", ["ctn", "mhn", "stn"])
def test_predictions_are_read_by_the_table(tabled, photo, system):
    model, tables = tabled(system)
    palette = ctnet.Palette(np.repeat(np.arange(5, dtype=np.uint8), 8)[:, None].repeat(60, 1))
    prediction = model.predict(photo, palette)
    image = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        outputs = model.fuse()(image, palette)[0].permute(1, 2, 0)
    for task, table in tables.items():
        mask = palette.mask(task)
        wanted = np.exp(look_up(outputs[mask], table))
        wanted /= wanted.sum(-1, keepdims=True)
        assert np.array_equal(prediction.labels[task][mask], wanted.argmax(-1))
        found = prediction.probabilities(task)
        assert found.dtype == np.float32 and not found[~mask].any()
        np.testing.assert_allclose(found[mask], wanted, atol=1e-6)
    labels = ctnet.to_labels(outputs.permute(2, 0, 1), palette, model)
    assert np.array_equal(labels["seg"].values.numpy(), prediction.labels["seg"])


def test_all_ways_to_a_label_read_the_table(tabled, photo):
    """predict at one size and another, all tasks at once, a session and a rule agree."""
    model, _ = tabled()
    everywhere = model.predict(photo, "single:seg")
    assert np.array_equal(model.predict_all(photo)["seg"].labels["seg"], everywhere.labels["seg"])
    image = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1) / 255
    palette = ctnet.Palette.single("seg", (40, 60))
    with torch.no_grad():
        outputs = model.fuse().session(image).decode(palette)
    read = ctnet.to_labels(outputs, palette, model)["seg"].values
    assert np.array_equal(read.numpy(), everywhere.labels["seg"])
    ruled = model.predict(photo, "R2").palette
    wanted = ctnet.get_rule("R2").palette((40, 60), None, everywhere.labels["seg"])
    assert np.array_equal(ruled.ids, wanted.ids)
    by_anchors = build(replace(model.config, label_tables=()))
    by_anchors.load_state_dict(adapt_weights(model.state_dict(), by_anchors.config))
    differ = by_anchors.eval().predict(photo, "single:seg").labels["seg"]
    assert (differ != everywhere.labels["seg"]).mean() > 0.5


def test_probabilities_of_a_large_photograph_say_its_labels(tabled, tmp_path):
    model, _ = tabled()
    path = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 255, (70, 100, 3), np.uint8)
    Image.fromarray(noise).resize((450, 333)).save(path)
    prediction = model.predict(path, "R1", long_side=64)
    asked = [task for task in CLASSES if task in prediction.labels]
    assert asked
    for task in asked:
        mask = prediction.palette.mask(task)
        found = prediction.probabilities(task)
        assert found.shape == (333, 450, CLASSES[task])
        np.testing.assert_allclose(found[mask].sum(-1), 1, atol=1e-4)
        assert np.array_equal(found[mask].argmax(-1), prediction.labels[task][mask])


def test_a_task_without_a_table_has_the_probabilities_of_eq_5(make_model, photo):
    prediction = make_model().predict(photo, "single:parts")
    found = prediction.probabilities("parts")
    assert np.array_equal(found.argmax(-1), prediction.labels["parts"])


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("edges", "edges has no classes"),
        ("normals", "unit vectors"),
        ("parts", "does not ask for 'parts'"),
        ("sed", "did you mean 'seg'"),
    ],
)
def test_probabilities_that_there_are_not(tabled, photo, task, words):
    model, _ = tabled()
    prediction = model.predict(photo, "single:seg")
    with pytest.raises(ValueError, match=words):
        prediction.probabilities(task)


def test_a_checkpoint_keeps_its_tables(tabled, photo, tmp_path):
    model, tables = tabled()
    for half in (False, True):
        again = load_network(save_checkpoint(model, tmp_path / f"{half}", half))
        assert again.config == model.config
        state = load_file(tmp_path / f"{half}" / "model.safetensors")
        for task, table in tables.items():
            stored = state[f"label_tables.{task}"]
            assert stored.dtype == torch.float16 and stored.nbytes <= 600_000
            assert np.array_equal(again.label_tables.reader(task).table.float().numpy(), table)
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(
        copy.predict(photo, "single:seg").labels["seg"],
        model.predict(photo, "single:seg").labels["seg"],
    )


def test_checkpoints_of_the_format_before_read_by_eq_5(make_model, tmp_path):
    folder = save_checkpoint(make_model(), tmp_path / "old")
    content = json.loads((folder / "config.json").read_text())
    assert "label_tables" not in content["model"]
    (folder / "config.json").write_text(json.dumps({**content, "format": 1}))
    model = load_network(folder)
    assert model.readers == {} and model.config.label_tables == ()


def rewrite(folder, change):
    """Changes the tensors of a checkpoint."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x[..., :-1].contiguous(), r"label_tables.seg is F16 \(24, 24, 24, 20\)"),
        (lambda x: x[:, :8].contiguous(), r"label_tables.seg is F16 \(24, 8, 24, 21\)"),
        (lambda x: x.long(), "label_tables.seg is I64"),
        (lambda x: x.clone().index_fill_(0, torch.tensor([3]), torch.nan), "of seg holds NaN"),
        (lambda x: torch.full_like(x, -torch.inf), "of seg holds NaN or infinite"),
        (lambda x: x + 1, "of seg holds no probabilities"),
    ],
)
def test_broken_tables_are_refused_by_name(tabled, tmp_path, change, words):
    folder = save_checkpoint(tabled()[0], tmp_path / "mine")
    key = "label_tables.seg"
    rewrite(folder, lambda state: state.update({key: change(state[key])}))
    with pytest.raises(ValueError, match=words):
        ctnet.load(f"local-dir:{folder}")


def test_missing_and_unannounced_tables_are_refused(tabled, make_model, tmp_path):
    folder = save_checkpoint(tabled()[0], tmp_path / "mine")
    rewrite(folder, lambda state: state.pop("label_tables.parts"))
    with pytest.raises(ValueError, match=r"missing label_tables\.parts"):
        ctnet.load(f"local-dir:{folder}")
    folder = save_checkpoint(make_model(), tmp_path / "other")
    rewrite(folder, lambda state: state.update({"label_tables.seg": draw_table("seg")[0]}))
    with pytest.raises(ValueError, match=r"unknown label_tables\.seg"):
        ctnet.load(f"local-dir:{folder}")


@pytest.mark.parametrize(
    "named", [("edges",), ("seg", "seg"), ("sky",), "seg", (1,), [["seg"]], {"seg": 1}]
)
def test_tables_of_impossible_tasks_are_refused(make_model, named):
    plain = make_model().config.to_dict()
    with pytest.raises(ValueError, match="label_tables"):
        ctnet.ModelConfig.from_dict({**plain, "label_tables": named})


def test_a_palette_network_has_no_table(make_model):
    with pytest.raises(ValueError, match="none in a palette network"):
        replace(make_model().config, system="palette", label_tables=("seg",))


def test_a_table_that_was_never_counted_is_refused():
    with pytest.raises(ValueError, match="label table of seg holds no probabilities"):
        LabelTables({"seg": 21}).check()


def test_exported_files_say_the_table(tabled, photo):
    """Whoever reads the properties alone gets the labels of predict."""
    import base64

    model, _ = tabled()
    tasks = json.loads(properties(model)["ctnet.tasks"])
    assert "table" not in tasks[2]
    prediction = model.predict(photo, "single:seg")
    image = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        outputs = model.fuse()(image, torch.zeros(1, 40, 60, dtype=torch.long))[0]
    cells = tasks[0]["table"]["cells"]
    best = np.frombuffer(base64.b64decode(tasks[0]["table"]["classes"]), np.uint8)
    steps = np.minimum(torch.sigmoid(outputs).numpy() * cells, cells - 1).astype(int)
    read = best.reshape(cells, cells, cells)[tuple(steps)]
    assert np.array_equal(read, prediction.labels["seg"])


def test_to_labels_takes_what_the_model_takes_and_gives(tabled):
    model, _ = tabled()
    ids = torch.arange(5).repeat_interleave(8)[:, None].repeat(1, 33)
    outputs = torch.randn(2, 3, 40, 33, generator=torch.Generator().manual_seed(0))
    wanted = ctnet.to_labels(outputs, ids[None].expand(2, -1, -1), model)
    assert [*wanted] == list(model.tasks)
    one_hot = torch.nn.functional.one_hot(ids, 5).permute(2, 0, 1).float()
    for palette in (ids, ids[None], ctnet.Palette(ids.numpy()), one_hot, one_hot[None]):
        found = ctnet.to_labels(outputs, palette, model)
        for task, labels in wanted.items():
            assert torch.equal(found[task].values, labels.values)
        single = ctnet.to_labels(outputs[1], palette, model)
        assert torch.equal(single["normals"].values, wanted["normals"].values[1])
        assert single["seg"].valid.shape == (40, 33)
    nothing = torch.zeros(5, 40, 33)
    assert ctnet.to_labels(outputs, nothing, model) == {}


@pytest.mark.parametrize(
    ("outputs", "palette", "words"),
    [
        ((3, 40), (40, 33), r"outputs are \(N,3,H,W\)"),
        ((1, 4, 40, 33), (40, 33), r"outputs are \(N,3,H,W\)"),
        ((1, 3, 40, 33), (40, 32), "the palette is"),
        ((2, 3, 40, 33), (3, 40, 33), "the palette is"),
    ],
)
def test_to_labels_refuses_what_does_not_fit(make_model, outputs, palette, words):
    with pytest.raises(ValueError, match=words):
        ctnet.to_labels(torch.zeros(outputs), torch.zeros(palette, dtype=torch.long), make_model())
    with pytest.raises(ValueError, match="tasks"):
        other = ctnet.Palette.single("seg", (8, 8), ("seg",))
        ctnet.to_labels(torch.zeros(3, 8, 8), other, make_model())
    with pytest.raises(ValueError, match="fractions"):
        ctnet.to_labels(torch.zeros(3, 8, 8), torch.zeros(4, 8, 8), make_model())


def test_the_command_counts_and_reports(write_photographs, model, tmp_path, capsys):
    data = write_photographs(tmp_path, classes=(0, 3), splits=("train",) * 6 + ("val",))
    out = tmp_path / "tabled"
    assert main(["label-tables", model, "--data", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "mIoU on photographs that were not counted" in printed and "seg        S " in printed
    assert "6 photographs" in printed
    again = ctnet.load(f"local-dir:{out}")
    before = ctnet.load(model)
    for name, value in before.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
