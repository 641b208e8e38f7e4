"""Evaluation end to end on a tiny data set, with a model that knows the answers."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ctnet
from ctnet.cli.main import main
from ctnet.data.compositemt import BEST_SOURCES
from ctnet.data.dataset import open_source
from ctnet.evaluation.evaluate import RULE_NAMES, EvalResult, evaluate
from ctnet.evaluation.results import read_results
from ctnet.label_tables import table_cells
from ctnet.labels import class_anchors
from ctnet.models.base import build
from ctnet.tasks import DEFAULT_TASKS, get_task
from tools.pages import update_labels_page, update_readme
from tools.result_tables import metrics_table, palette_table

SIZE = (48, 64)
LABELS = {
    "voc": ("seg", "parts", "edges", "saliency"),
    "nyu": ("normals", "edges", "seg"),
    "ecssd": ("saliency",),
    "bsds": ("edges",),
}


def labels_of(source, seed):
    """Labels with content for every rule: a person, a dog, a chair, a car and background."""
    rng = np.random.default_rng(seed)
    seg = np.zeros(SIZE, np.uint8)
    for k, c in enumerate((15, 12, 9, 7)):
        seg[8:40, 4 + 15 * k : 15 + 15 * k] = c
    parts = np.where(seg == 15, rng.integers(1, 7, (1, SIZE[1])), 0).astype(np.uint8)
    edges = np.zeros(SIZE, np.uint8)
    edges[8, 4:60] = edges[39, 4:60] = 255
    saliency = np.where(seg > 0, 255, 0).astype(np.uint8)
    normals = np.full((*SIZE, 3), 128, np.uint8)
    normals[..., 2] = 255
    found = {"seg": seg, "parts": parts, "edges": edges, "saliency": saliency, "normals": normals}
    return {task: found[task] for task in LABELS[source]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rows = []
    for number, source in enumerate(("voc", "nyu", "ecssd", "bsds", "voc")):
        name = f"{source}_{number}"
        labels = labels_of(source, number)
        Image.new("RGB", SIZE[::-1], (40 * number, 0, 0)).save(
            root / f"{name}.image.jpg", quality=100
        )
        for task, label in labels.items():
            suffix = "jpg" if task == "normals" else "png"
            Image.fromarray(label).save(root / f"{name}.{task}.{suffix}")
            if task == "saliency":
                Image.fromarray(label).save(root / f"{name}.{task}.jpg", quality=100)
        if source == "bsds":
            mask = np.where(labels["edges"] > 0, 3, 0).astype(np.uint16)
            Image.fromarray(mask).save(root / f"{name}.annotators.png")
        kinds = {task: "true" if task in labels else "" for task in DEFAULT_TASKS}
        rows.append(
            {"id": name, "split": "val", "shard": "v", "source": source, "width": SIZE[1],
             "height": SIZE[0], "annotators": 2 if source == "bsds" else "", **kinds}
        )  # fmt: skip
    with (root / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return root


class Oracle(ctnet.CompositeModel):
    """Answers with the labels, which it finds by the image's red."""

    def __init__(self, config):
        super().__init__(config)
        self.wrong = False
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def encode(self, image):
        return round(float(image[0, 0].mean()) * 255 / 40)

    def decode(self, number, palette):
        source = ("voc", "nyu", "ecssd", "bsds", "voc")[number]
        labels = labels_of(source, number)
        composite = torch.zeros(1, 3, *SIZE)
        for k, task in enumerate(self.tasks):
            if task not in labels:
                continue
            answer = torch.from_numpy(labels[task].astype(np.int64))
            spec = get_task(task)
            if spec.kind == "classes":
                answer = (answer + self.wrong) % len(spec.classes)
                outputs = torch.logit(torch.tensor(class_anchors(len(spec.classes)))[answer], 1e-4)
            elif spec.kind == "probability":
                outputs = (20.0 * (answer > 127) - 10)[..., None].expand(-1, -1, 3)
            else:
                outputs = answer / 127.5 - 1
            composite = torch.where(palette == k, outputs.permute(2, 0, 1), composite)
        return composite


def open_val(root):
    return open_source("compositemt", root, "val")


@pytest.fixture
def oracle():
    return Oracle(ctnet.ModelConfig())


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_right_answers_score_perfectly(oracle, data, rule):
    result = evaluate(oracle, open_val(data), rule, progress=False)
    assert result.rule == rule
    perfect = {"seg": 100, "parts": 100, "edges": 1, "saliency": 100, "normals": 0}
    expected = set(DEFAULT_TASKS) - ({"seg"} if rule == "R3" else set())
    if rule == "S":
        assert set(result.scores) == expected
    for task in result.scores:
        assert task in expected
        if rule in ("R1", "Rrnd") and task == "edges":
            continue
        assert result.headline(task) == pytest.approx(perfect[task], abs=1.5)


def test_wrong_classes_score_badly(oracle, data):
    oracle.wrong = True
    scores = evaluate(oracle, open_val(data), "S", progress=False)
    assert scores.headline("seg") < 1
    assert scores.headline("saliency") == 100


def test_each_task_counts_only_the_images_of_its_sources(oracle, data):
    result = evaluate(oracle, open_val(data), "S", progress=False)
    counts = {"seg": 2, "parts": 2, "edges": 1, "saliency": 1, "normals": 1}
    assert {task: s["images"] for task, s in result.scores.items()} == counts
    assert result.sources == BEST_SOURCES


def test_limit_is_images_a_task(oracle, data):
    result = evaluate(oracle, open_val(data), "S", limit=1, progress=False)
    assert all(scores["images"] == 1 for scores in result.scores.values())


def test_random_palettes_are_the_same_for_the_same_seed(data, tmp_path):
    torch.manual_seed(0)
    network = ctnet.create("ctn").eval()
    written = [
        evaluate(network, open_val(data), "R1", seed=3, progress=False).save(tmp_path).read_text()
        for _ in range(2)
    ]
    assert written[0] == written[1]


def test_some_tasks_alone_can_be_measured_again(oracle, data, tmp_path):
    whole = evaluate(oracle, open_val(data), "S", progress=False)
    oracle.wrong = True
    again = evaluate(oracle, open_val(data), "S", progress=False, tasks=["seg"])
    assert set(again.scores) == {"seg"} and again.read_by == {"seg": "eq. 5"}
    merged = again.on_top_of(whole)
    assert merged.headline("seg") < 1 and merged.headline("parts") == 100
    assert whole.headline("seg") == 100
    with pytest.raises(ValueError, match="R3 does not ask for the task 'seg'"):
        evaluate(oracle, open_val(data), "R3", progress=False, tasks=["seg"])


def test_label_tables_can_be_left_out(data, tmp_path):
    """A table that reads everything as class 3 is seen, and is not."""
    plain = ctnet.create("ctn").eval()
    model = build(replace(plain.config, label_tables=("seg",)))
    cells = table_cells(21)
    table = torch.full((cells, cells, cells, 21), -20.0)
    table[..., 3] = 0
    model.load_state_dict(plain.state_dict() | {"label_tables.seg": table.half()})
    model.eval()
    read = evaluate(model, open_val(data), "S", "ctn-r1", tasks=["seg"], progress=False)
    other = evaluate(
        model, open_val(data), "S", "ctn-r1", tasks=["seg"], progress=False, label_tables=False
    )
    assert (read.read_by, other.read_by) == ({"seg": "table"}, {"seg": "eq. 5"})
    assert read.scores["seg"]["iou"] != other.scores["seg"]["iou"]
    read.save(tmp_path)
    other.save(tmp_path / "eq5")
    lines = metrics_table([read], [other]).splitlines()
    assert lines[2].startswith("| `ctn-r1` | S | ") and lines[3].startswith("| *read by eq. 5* | S")
    page = tmp_path / "labels.md"
    page.write_text("<!-- readings: begin -->\nold\n<!-- readings: end -->\n")
    update_labels_page(page, tmp_path)
    row = page.read_text().splitlines()[3]
    low, high = read.scores["seg"]["interval"]
    assert row.startswith(
        f"| `ctn-r1` | S | seg | {read.headline('seg'):.1f} ({low:.1f} to {high:.1f}) | "
    )


def test_the_command_measures_tasks_again(data, model, tmp_path, capsys):
    command = ["eval", model, "--data", str(data), "--name", "mine", "--out", str(tmp_path)]
    assert main(command) == 0
    path = tmp_path / "mine_S.json"
    before = json.loads(path.read_text())
    assert main([*command, "--tasks", "normals", "parts", "--no-label-tables"]) == 0
    assert json.loads(path.read_text()) == before
    assert main([*command, "--tasks", "sed"]) != 0
    assert "did you mean 'seg'" in capsys.readouterr().err


def test_unknown_rule_names_the_nearest(oracle, data):
    with pytest.raises(ValueError, match="did you mean 'R2'"):
        evaluate(oracle, open_val(data), "R22", progress=False)


def test_results_make_the_tables(oracle, data, tmp_path):
    path = evaluate(oracle, open_val(data), "S", name="ctn-r1", progress=False).save(tmp_path)
    assert path.name == "ctn-r1_S.json"
    assert json.loads(path.read_text())["scores"]["seg"]["miou"] == 100
    table = metrics_table(read_results(tmp_path))
    assert table.splitlines()[2].startswith("| `ctn-r1` | S | 100.0 | 100.0 |")
    readme = tmp_path / "README.md"
    marks = "".join(
        f"<!-- {x}: begin -->\nold\n<!-- {x}: end -->\n" for x in ("metrics", "palettes")
    )
    readme.write_text(marks)
    update_readme(readme, tmp_path)
    text = readme.read_text()
    assert table in text
    assert "old" not in text
    update_readme(readme, tmp_path)
    assert readme.read_text() == text


def test_palette_networks_have_a_table_of_their_own():
    scores = {"palette": {"miou": 61.25, "iou": (50.0, 72.5), "images": 3}}
    result = EvalResult(
        "palette-r2", "R2", "data", "val", {"palette": ("voc",)}, {"palette": ("true",)}, scores, 0
    )
    assert palette_table([result]).splitlines()[2:] == ["| `palette-r2` | R2 | 61.2 |"]
    assert metrics_table([result]).splitlines()[2:] == []


def test_tables_without_results_or_marks_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="ctnet eval"):
        read_results(tmp_path)
    (tmp_path / "README.md").write_text("nothing")
    results = Path(__file__).parents[1] / "results"
    with pytest.raises(ValueError, match="metrics: begin"):
        update_readme(tmp_path / "README.md", results)
