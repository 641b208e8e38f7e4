"""The command line: ``python -m benchmarks COMMAND``; ``--help`` names the commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.alternatives import Comparison
from benchmarks.alternatives import compare as compare_alternatives
from benchmarks.labels import reading
from benchmarks.memory import memory_table
from benchmarks.speed import PARTS as SPEED_PARTS
from benchmarks.speed import Bench, Part, Speed
from benchmarks.speed import measure as measure_speed
from ctnet.checks import did_you_mean
from ctnet.evaluation.results import read_results
from tools.complexity import COMPLEXITY_FILE, complexity_table, read_complexity
from tools.pages import replace_marked
from tools.result_tables import metrics_table

PARTS: dict[str, Part] = {**SPEED_PARTS, "labels": reading}
"""Measurements of ``speed`` by name."""


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all measurements."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    default = Path("results") / COMPLEXITY_FILE

    complexity = commands.add_parser(
        "complexity", help="parameters, MACs, memory and time of CTN, MHN and STN"
    )
    complexity.set_defaults(run=_complexity)
    complexity.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    complexity.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    complexity.add_argument("--out", type=Path, default=default, help="default: %(default)s")

    plot = commands.add_parser("plot", help="draw what complexity measured")
    plot.set_defaults(run=_plot)
    plot.add_argument("--costs", type=Path, default=default, help="default: %(default)s")
    plot.add_argument(
        "--out", type=Path, default=Path("docs/complexity.png"), help="default: %(default)s"
    )

    speed = commands.add_parser("speed", help="what conditioning costs, as ratios against limits")
    speed.set_defaults(run=_speed)
    speed.add_argument(
        "parts",
        nargs="*",
        help=f"of {', '.join(PARTS)} (default: all); the others in the file stay",
    )
    speed.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    speed.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    speed.add_argument("--device", default="cpu", help="default: %(default)s")
    speed.add_argument("--compile", action="store_true", help="the compiled look-up too")
    speed.add_argument("--quick", action="store_true", help="small: does everything run?")
    speed.add_argument(
        "--out", type=Path, default=Path("results/speed.json"), help="default: %(default)s"
    )

    export = commands.add_parser("export", help="ONNX Runtime against PyTorch (extra [export])")
    export.set_defaults(run=_export)
    export.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    export.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    export.add_argument("--quick", action="store_true", help="small: does everything run?")
    export.add_argument(
        "--out", type=Path, default=Path("results/export.json"), help="default: %(default)s"
    )

    alternatives = commands.add_parser(
        "alternatives", help="torchvision's mobile networks of one task against ours"
    )
    alternatives.set_defaults(run=_alternatives)
    alternatives.add_argument("--rounds", type=int, default=31, help="default: %(default)s")
    alternatives.add_argument("--threads", type=int, default=2, help="default: %(default)s")
    alternatives.add_argument("--quick", action="store_true", help="small: does everything run?")
    alternatives.add_argument(
        "--out", type=Path, default=Path("results/alternatives.json"), help="default: %(default)s"
    )

    int8 = commands.add_parser("int8", help="accuracy of kernels in 8 bits (extra [export])")
    int8.set_defaults(run=_int8)
    int8.add_argument("model", help="a model's name")
    int8.add_argument("--data", type=Path, default=Path("~/data/compositemt"), help="the data set")
    int8.add_argument("--limit", type=int, help="most photographs a task (default: all)")
    int8.add_argument(
        "--out", type=Path, default=Path("results/precision"), help="default: %(default)s"
    )

    ece = commands.add_parser("calibration", help="calibration error of class probabilities")
    ece.set_defaults(run=_calibration)
    ece.add_argument("models", nargs="+", help="names of models")
    ece.add_argument("--data", type=Path, default=Path("~/data/compositemt"), help="the data set")
    ece.add_argument("--limit", type=int, help="most photographs a task (default: all)")
    ece.add_argument(
        "--out", type=Path, default=Path("results/calibration.json"), help="default: %(default)s"
    )
    ece.add_argument(
        "--page", type=Path, default=Path("docs/labels.md"), help="default: %(default)s"
    )

    throughput = commands.add_parser(
        "throughput", help="photographs per second of ctnet predict on a folder (extra [ray])"
    )
    throughput.set_defaults(run=_throughput)
    throughput.add_argument("--count", type=int, default=200, help="default: %(default)s")
    throughput.add_argument("--quick", action="store_true", help="small: does everything run?")
    throughput.add_argument(
        "--out", type=Path, default=Path("results/throughput.json"), help="default: %(default)s"
    )
    throughput.add_argument(
        "--page", type=Path, default=Path("docs/predicting.md"), help="default: %(default)s"
    )

    memory = commands.add_parser("memory", help="memory of composites and of large photographs")
    memory.set_defaults(run=_memory)
    memory.add_argument("--quick", action="store_true", help="small: does everything run?")
    memory.add_argument(
        "--out", type=Path, default=Path("results/memory.json"), help="default: %(default)s"
    )

    demo = commands.add_parser("demo", help="delay of the demo's picture after a stroke")
    demo.set_defaults(run=_demo)
    demo.add_argument("--strokes", type=int, default=31, help="default: %(default)s")
    demo.add_argument(
        "--out", type=Path, default=Path("results/demo.json"), help="default: %(default)s"
    )
    demo.add_argument(
        "--page", type=Path, default=Path("docs/demo.md"), help="default: %(default)s"
    )

    page = commands.add_parser("page", help="write the tables of docs/speed.md from results")
    page.set_defaults(run=_page)
    page.add_argument("--results", type=Path, default=Path("results"), help="default: %(default)s/")
    page.add_argument(
        "--out", type=Path, default=Path("docs/speed.md"), help="default: %(default)s"
    )
    return parser


def _speed(args: argparse.Namespace) -> None:
    for part in args.parts:
        if part not in PARTS:
            raise ValueError(f"unknown measurement {part!r}{did_you_mean(part, PARTS)}")
    bench = Bench(args.device, args.rounds, args.quick, args.compile)
    parts = {part: PARTS[part] for part in args.parts or PARTS}
    found = measure_speed(bench, parts, args.threads)
    if args.parts and args.out.is_file():
        found = found.on_top_of(Speed.load(args.out))
    _report(found, args.out)


def _export(args: argparse.Namespace) -> None:
    from benchmarks.export import exported

    bench = Bench(rounds=args.rounds, quick=args.quick)
    _report(measure_speed(bench, {"export": exported}, args.threads), args.out)


def _alternatives(args: argparse.Namespace) -> None:
    found = compare_alternatives(Bench(rounds=args.rounds, quick=args.quick), args.threads)
    _report(found, args.out)


def _int8(args: argparse.Namespace) -> None:
    from benchmarks.int8 import measure_int8

    found = measure_int8(args.model, args.data.expanduser(), args.limit)
    print(metrics_table([found]))
    print(f"written: {found.save(args.out)}")


def _calibration(args: argparse.Namespace) -> None:
    from benchmarks.calibration import calibration_table, measure_calibration, save_calibration

    found = measure_calibration(args.models, args.data.expanduser(), args.limit)
    save_calibration(found, args.out)
    table = calibration_table(args.out)
    print(table)
    text = replace_marked(args.page.read_text("utf-8"), "calibration", table)
    args.page.write_text(text, "utf-8")
    print(f"written: {args.out} and {args.page}")


def _throughput(args: argparse.Namespace) -> None:
    from benchmarks.throughput import RUNS, measure, save, write_page

    names = [name for name, _ in RUNS[:2]] if args.quick else []
    save(measure(3 if args.quick else args.count, names), args.out)
    write_page(args.out, args.page)
    print(f"written: {args.out} and {args.page}")


def _memory(args: argparse.Namespace) -> None:
    from benchmarks.memory import measure, save

    save(measure(args.quick), args.out)
    print(memory_table(args.out))
    print(f"written: {args.out}")


def _demo(args: argparse.Namespace) -> None:
    from benchmarks.demo import measure, save, write_page

    found = measure(args.strokes)
    save(found, args.out)
    write_page(found, args.page)
    print(found.table())
    print(f"written: {args.out} and {args.page}")


def _report(found: Speed | Comparison, path: Path) -> None:
    found.save(path)
    print(found.table())
    print(found.place())
    print(f"written: {path}")


def _page(args: argparse.Namespace) -> None:
    speed = Speed.load(args.results / "speed.json")
    text = replace_marked(args.out.read_text("utf-8"), "place", speed.place())
    for part in PARTS:
        text = replace_marked(text, part, speed.table(part))
    text = replace_marked(text, "memory", memory_table(args.results / "memory.json"))
    comparison = Comparison.load(args.results / "alternatives.json")
    text = replace_marked(text, "alternatives", comparison.table())
    text = replace_marked(text, "alternatives place", comparison.place())
    exported = Speed.load(args.results / "export.json")
    text = replace_marked(text, "export", exported.table())
    text = replace_marked(text, "export place", exported.place())
    gpu = Speed.load(args.results / "speed-gpu.json")
    text = replace_marked(text, "gpu place", gpu.place())
    text = replace_marked(text, "gpu", gpu.table("conditioning"))
    text = replace_marked(text, "gpu beyond", gpu.table("beyond"))
    precision = metrics_table(read_results(args.results / "precision"))
    args.out.write_text(replace_marked(text, "precision", precision), "utf-8")
    print(f"written: {args.out}")


def _complexity(args: argparse.Namespace) -> None:
    from benchmarks.complexity import measure as measure_complexity

    found = measure_complexity(rounds=args.rounds, threads=args.threads)
    found.save(args.out)
    print(complexity_table(found))
    print(f"written: {args.out}")


def _plot(args: argparse.Namespace) -> None:
    from benchmarks.plot import draw

    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(read_complexity(args.costs)).save(args.out, optimize=True)
    print(f"written: {args.out}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one measurement."""
    args = build_parser().parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    main()
