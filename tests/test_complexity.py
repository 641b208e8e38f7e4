"""The complexity benchmark: counts against independent ones; never its times."""

import pytest
import torch

from benchmarks.__main__ import build_parser, main
from benchmarks.complexity import LiveBytes, count, five_tasks, measure, requests
from benchmarks.plot import draw
from ctnet.blocks.conditioned_batch_norm import ConditionedBatchNorm
from ctnet.models.base import create
from ctnet.tasks import DEFAULT_TASKS
from tools.complexity import Complexity, Cost, complexity_table, read_complexity

SIDE = 64
SHRINK = (256 // SIDE) ** 2
"""Convolutions cost in proportion to the pixels; figures of 256 x 256 are this times larger."""

SYSTEMS = {"ctn": 29_321_219, "mhn": 54_425_487, "stn": 5 * 27_912_835}


def blank(system):
    """One of the paper's networks with any weights at all: to draw them takes long."""
    with torch.device("meta"):
        model = create(system, "resnet34", "paper").eval()
    return model.to_empty(device="cpu")


@pytest.fixture(scope="module")
def paper():
    """Counts of both requests and the parameters of the paper's networks, by system."""
    found = {}
    for system in SYSTEMS:
        model = blank(system)
        costs = [count(request) for request in requests(model, SIDE)]
        found[system] = (sum(p.numel() for p in model.parameters()), *costs)
    return found


@pytest.fixture(scope="module")
def measured():
    return measure(rounds=1, threads=torch.get_num_threads(), sizes=("compact",), side=32)


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameters_of_the_papers_networks(paper, system):
    assert paper[system][0] == SYSTEMS[system]


@pytest.mark.parametrize(("system", "giga"), [("mhn", 111.8), ("stn", 130.9)])
def test_multiply_adds_of_the_plain_systems(paper, system, giga):
    # design.md's figures, counted from shapes.
    _, composite, dense = paper[system]
    assert composite.macs * SHRINK == pytest.approx(giga * 1e9, abs=0.05e9)
    assert dense.macs == composite.macs


def test_multiply_adds_of_the_ctn_beyond_its_tables():
    # design.md: 34.8 GMAC as published, of which 8.66 compute scales and shifts at every pixel.
    model = blank("ctn")
    tables, per_pixel = [], []

    def add(module, inputs, output):
        cells, rows = output[0, 0].numel(), len(inputs[1].weights)
        hidden, length = module.shared.weight.shape
        one = hidden * length + 2 * hidden * output.shape[1]
        products = inputs[1].weights.shape[1] * length
        tables.append(rows * (one + products))
        per_pixel.append(cells * one)

    for module in model.modules():
        if isinstance(module, ConditionedBatchNorm):
            module.register_forward_hook(add)
    found = count(requests(model, SIDE)[0])
    mapping = sum(p.numel() for p in model.representation.parameters() if p.ndim == 2)
    rest = found.macs - sum(tables) - len(DEFAULT_TASKS) * mapping
    assert sum(per_pixel) * SHRINK == pytest.approx(8.66e9, abs=0.01e9)
    assert (rest + sum(per_pixel)) * SHRINK == pytest.approx(34.8e9, abs=0.05e9)


def test_one_composite_of_a_ctn_costs_one_decoder(paper):
    _, composite, dense = paper["ctn"]
    _, _, plain = paper["mhn"]
    assert composite.macs < 0.3 * dense.macs
    assert dense.macs == pytest.approx(plain.macs, rel=0.01)
    assert dense.norm_macs == plain.norm_macs


def test_the_composite_asks_for_every_task():
    palette = five_tasks((SIDE, SIDE), DEFAULT_TASKS)
    assert set(palette.requested()) == set(DEFAULT_TASKS)
    shares = palette.shares()
    assert shares["normals"] == pytest.approx(0.25)
    assert shares["seg"] == pytest.approx(3 / 16)


def test_live_bytes_of_a_known_computation():
    x = torch.zeros(1000)
    with LiveBytes([x]) as memory:
        a = x + 1
        b = a + 1
        assert (memory.live, memory.peak) == (8000, 8000)
        del a
        b.view(10, 100).t().add_(1)
        assert (memory.live, memory.peak) == (4000, 8000)
        x.mul_(2)
        big = torch.cat([b, b, x])
        assert (memory.live, memory.peak) == (16000, 16000)
        del b, big
        assert (memory.live, memory.peak) == (0, 16000)


def test_counts_are_the_same_each_time(measured):
    again = measure(rounds=1, threads=torch.get_num_threads(), sizes=("compact",), side=32)
    for a, b in zip(measured.systems, again.systems, strict=True):
        for x, y in ((a.composite, b.composite), (a.dense, b.dense)):
            assert (x.macs, x.norm_macs, x.peak_bytes) == (y.macs, y.norm_macs, y.peak_bytes)


def test_file_and_table(measured, tmp_path):
    measured.save(tmp_path / "new" / "complexity.json")
    assert read_complexity(tmp_path / "new" / "complexity.json") == measured
    assert [cost.system for cost in measured.systems] == list(SYSTEMS)
    assert measured.cpu
    lines = complexity_table(measured).splitlines()
    assert len(lines) == 2 + 2 * 3 + 2
    assert lines[2].startswith("| compact (efficientnet_lite0) | CTN | 4.02 M | one composite |")
    assert "32 × 32" in lines[-1]


def test_plot_bars_are_in_proportion(measured, tmp_path, monkeypatch):
    measured.save(tmp_path / "complexity.json")
    main(
        ["plot", "--costs", str(tmp_path / "complexity.json"), "--out", str(tmp_path / "new/x.png")]
    )
    assert (tmp_path / "new" / "x.png").stat().st_size > 0
    cost = Cost(10**9, 0, 2**20, 1.0, 1.0)
    double = Cost(2 * 10**9, 0, 2**20, 1.0, 1.0)
    pair = [type(measured.systems[0])("paper", "ctn", "resnet34", 10, cost, double)]
    pixels = draw(Complexity(tuple(pair), 256, 1, 1, "x", "2")).load()
    widths = {}
    for color in ((31, 119, 180), (174, 199, 232)):
        panel = [(x, y) for x in range(400, 800) for y in range(60, 270) if pixels[x, y] == color]
        widths[color] = max(x for x, _ in panel) - min(x for x, _ in panel)
    assert widths[174, 199, 232] == pytest.approx(2 * widths[31, 119, 180], abs=2)


def test_wrong_numbers_are_errors():
    with pytest.raises(ValueError, match="at least one round"):
        measure(rounds=0)
    with pytest.raises(SystemExit):
        build_parser().parse_args(["complexities"])
