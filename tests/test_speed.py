"""Measurements of speed run and say what they mean; never how fast it is."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SUBPIXEL, TINY

from benchmarks import alternatives
from benchmarks.__main__ import main
from benchmarks.calibration import calibration, calibration_table, save_calibration
from benchmarks.formulations import Twin
from benchmarks.speed import Finding, Speed
from ctnet import reference
from ctnet.data.dataset import open_source
from ctnet.data.palette_batches import make_palettes
from ctnet.label_tables import table_cells
from ctnet.models.base import build
from ctnet.profiling.bench import COLORS, Point, bench, draw, table
from ctnet.profiling.measure import time_in_turn
from ctnet.rules import R1, R2, RRND, single


@pytest.fixture(scope="module", params=[TINY, SUBPIXEL], ids=["tiny", "subpixel"])
def model(request, make_model):
    return make_model("ctn", decoder=request.param).double()


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_the_literal_formulation_is_the_same_network(model, image, make_ids):
    for layout in ("single", "mosaic", "random"):
        palette = make_ids(layout, (2, 64, 32))
        with torch.no_grad():
            difference = reference.ctn(model, image, palette) - model(image, palette)
        assert difference.abs().max() <= 1e-10


def test_the_twin_does_the_first_task(model, image):
    with torch.no_grad():
        expected = model(image, torch.zeros(64, 32, dtype=torch.long))
    assert (Twin(model)(image) - expected).abs().max() <= 1e-10


def test_ratios_are_to_the_first_run(monkeypatch):
    clock = iter(range(1000))
    durations = {"a": 2, "b": 6}
    ticks = []

    def spend(name):
        ticks.append(name)
        for _ in range(durations[name] - 1):
            next(clock)

    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    found = time_in_turn({name: lambda n=name: spend(n) for name in durations}, 3)
    assert ticks == ["a", "b"] * 4
    assert found["a"].ratio == 1
    assert found["a"].milliseconds == 2000
    assert found["b"].ratio == 3
    assert found["b"].quartiles == (3, 3)
    with pytest.raises(ValueError, match="at least one round"):
        time_in_turn({"a": lambda: None}, 0)


def test_measurements_by_name(tmp_path, capsys):
    path = tmp_path / "new" / "speed.json"
    threads = str(torch.get_num_threads())
    main(
        ["speed", "palettes", "--quick", "--rounds", "1", "--threads", threads, "--out", str(path)]
    )
    printed = capsys.readouterr().out
    values = json.loads(path.read_text())
    assert len(values["findings"]) == 3
    for finding in values["findings"]:
        assert finding["question"] in printed
        assert finding["limit"] == 0.16
    with pytest.raises(ValueError, match="unknown measurement 'palette'; did you mean 'palettes'"):
        main(["speed", "palette", "--out", str(path)])


def test_reading_labels_is_measured(tmp_path):
    path = tmp_path / "speed.json"
    threads = str(torch.get_num_threads())
    main(["speed", "labels", "--quick", "--rounds", "1", "--threads", threads, "--out", str(path)])
    findings = json.loads(path.read_text())["findings"]
    assert [x["question"] for x in findings] == [
        f"labels of {task} by label table / by eq. 5, 128 x 128" for task in ("seg", "parts")
    ]
    assert all(x["limit"] == 1 for x in findings)


def test_memory_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.memory._process", lambda size, large: 512.0)
    path = tmp_path / "memory.json"
    main(["memory", "--quick", "--out", str(path)])
    rows = capsys.readouterr().out.splitlines()
    assert rows[-2].endswith("| 512 MiB | 2048 MiB | 0.25 | 1.00 |")
    for found in json.loads(path.read_text())[:4]:
        assert found["mebibytes"] > 128 * 128 * 3 * 4 / 2**20, "the outputs alone"


def test_calibration_is_the_distance_of_confidence_and_accuracy(
    make_model, write_photographs, tmp_path
):
    source = open_source(
        "compositemt", write_photographs(tmp_path, (0, 5), ("val",) * 3, (64, 64)), "val"
    )
    plain = make_model("ctn")
    model = build(replace(plain.config, label_tables=("seg",)))
    cells = table_cells(21)
    shares = torch.full((21,), 0.1 / 20)
    shares[2] = 0.9
    table = shares.log().expand(cells, cells, cells, 21).half()
    model.load_state_dict(plain.state_dict() | {"label_tables.seg": table})
    found = {x.task: x for x in calibration("mine", model.eval(), source)}
    labels = np.stack([source.load(i)["seg"][::4, ::4] for i in range(3)])
    assert found["seg"].table == pytest.approx(100 * (0.9 - (labels == 2).mean()), abs=0.1)
    assert found["parts"].table is None and 0 < found["parts"].anchors < 100
    save_calibration([*found.values()], tmp_path / "found.json")
    lines = calibration_table(tmp_path / "found.json").splitlines()
    assert lines[2].startswith(f"| `mine` | seg | 3 | {found['seg'].table:.1f} % | ")
    assert lines[3].startswith("| `mine` | parts | 3 | – | ")


def test_alternatives_are_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(alternatives, "DECODERS", ("light",))
    path, threads = tmp_path / "new" / "alternatives.json", str(torch.get_num_threads())
    main(["alternatives", "--quick", "--rounds", "1", "--threads", threads, "--out", str(path)])
    printed = capsys.readouterr().out
    found = alternatives.Comparison.load(path)
    assert found.table() in printed and found.place() in printed
    asked = {(cost.side, cost.network, cost.request): cost for cost in found.costs}
    # Two networks of one task and four requests of ours, at two sizes.
    assert len(asked) == len(found.costs) == 2 * (2 + 4)
    for (side, network, request), cost in asked.items():
        reference = asked[side, alternatives.REFERENCE, ""]
        assert cost.ratios[1] == pytest.approx(
            cost.milliseconds[1] / reference.milliseconds[1], abs=0.01 * cost.ratios[1] + 1e-3
        )
        limited = network == "light" and side == 320
        assert cost.limit == (alternatives.LIMITS.get(request) if limited else None)
    with pytest.raises(ValueError, match="at least one round and one thread; got 0"):
        main(["alternatives", "--quick", "--rounds", "0", "--out", str(path)])


def test_parts_are_measured_again(tmp_path):
    found = (Finding("a", 1.5, None, part="labels"), Finding("b", 0.4, None, part="steps"))
    earlier = Speed(found, "cpu", 2, 7, "2.6")
    again = Speed((Finding("c", 1.0, None, part="labels"),), "cpu", 2, 5, "2.6")
    assert [x.question for x in again.on_top_of(earlier).findings] == ["b", "c"]
    with pytest.raises(ValueError, match="do not stand beside"):
        replace(again, threads=1).on_top_of(earlier)


def test_table_of_findings():
    found = (
        Finding("a / b", 1.5, 1.03, 15, 10, quartiles=(1.4, 1.62)),
        Finding("memory", 0.4, None),
    )
    lines = Speed(found, "cpu", 2, 7, "2.6").table().splitlines()
    assert lines[2] == "| a / b | 15.0 ms | 10.0 ms | 1.500 (1.40 to 1.62) | 1.03 |"
    assert lines[3] == "| memory |  |  | 0.400 |  |"


def test_bench_measures_every_size_and_batch(make_model):
    points = bench(make_model("ctn").fuse(), R1, (32, 64), (1, 2), rounds=1)
    assert [(p.side, p.batch) for p in points] == [(32, 1), (32, 2), (64, 1), (64, 2)]
    assert all(p.milliseconds > 0 for p in points)
    memory = [p.megabytes for p in points]
    assert memory[3] == pytest.approx(2 * memory[2], rel=0.1)
    assert len(table(points).splitlines()) == 2 + 4
    with pytest.raises(ValueError, match="rule R2 needs class maps"):
        bench(make_model("ctn"), R2)
    with pytest.raises(ValueError, match="at least 1"):
        bench(make_model("ctn"), R1, batches=(0,))


def test_plot_rises_where_costs_do():
    points = [Point(128, 1, 10, 5), Point(256, 1, 40, 20), Point(128, 2, 20, 10)]
    picture = np.array(draw(points, "ctn-r1"))
    blue = (picture == COLORS[0]).all(-1)
    rows, columns = np.nonzero(blue[:370, :520])
    assert rows[columns.argmax()] < rows[columns.argmin()] - 100


class TestPalettes:
    def test_mosaics_are_four_rectangles(self):
        palettes = make_palettes(R1, 50, (40, 60), np.random.default_rng(0))
        assert palettes.shape == (50, 40, 60)
        for ids in palettes:
            rows = (ids[1:] != ids[:-1]).any(1).nonzero()
            columns = (ids[:, 1:] != ids[:, :-1]).any(0).nonzero()
            assert len(rows) <= 1 and len(columns) <= 1
            assert all(10 <= row + 1 <= 30 for row in rows)
            assert all(15 <= column + 1 <= 45 for column in columns)
        shares = torch.bincount(palettes[:, [0, 0, -1, -1], [0, -1, 0, -1]].flatten()) / 200
        assert shares == pytest.approx([0.2] * 5, abs=0.1)

    def test_weights_rule_what_is_drawn(self):
        weights = torch.tensor([[1.0, 0, 3, 0, 0], [0, 0, 0, 0, 0]])
        for rule in (R1, RRND):
            found = make_palettes(rule, 2, (64, 64), np.random.default_rng(1), weights=weights)
            assert set(found[0].unique().tolist()) <= {0, 2}
            assert (found[1] == 255).all()
        assert (found[0] == 2).double().mean() == pytest.approx(0.75, abs=0.05)

    def test_semantic_rules_read_the_classes(self):
        labels = torch.tensor([[[15, 8, 0, 255]]])
        found = make_palettes(R2, 1, (1, 4), np.random.default_rng(0), labels=labels)
        assert found.tolist() == [[[1, 0, 2, 255]]]
        for wrong in (None, labels[0]):
            with pytest.raises(ValueError, match=r"rule R2 needs class ids \(1, 1, 4\)"):
                make_palettes(R2, 1, (1, 4), np.random.default_rng(0), labels=wrong)

    def test_single_tasks(self):
        rule = single("normals")
        assert (make_palettes(rule, 2, (3, 4), np.random.default_rng(0)) == 4).all()
        with pytest.raises(ValueError, match="asks for 'normals', not one of"):
            make_palettes(rule, 2, (3, 4), np.random.default_rng(0), tasks=("seg",))
