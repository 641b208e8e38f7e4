"""The command line: ``ctnet list | predict | palette | train | finetune | eval | ...``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctnet import __version__, defaults
from ctnet.cli.demo import add_demo_command
from ctnet.cli.export import add_export_command
from ctnet.cli.hub import add_hub_commands
from ctnet.cli.palette import add_palette_commands
from ctnet.cli.predict import add_predict_command
from ctnet.rules import get_rule
from ctnet.tasks import nearest


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    example: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="ctnet",
        description="A zoo of CompositeTasking networks: each task done where it is asked.",
        epilog="example:\n  ctnet predict photo.jpg --out out/",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ctnet {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = _command(
        commands, "list", "list the zoo's models with their figures", "ctnet list 'ctn-*'", _list
    )
    listing.add_argument("pattern", nargs="?", default="*", help="shell-style pattern of names")

    add_hub_commands(commands, _command)

    add_predict_command(commands, _command)
    add_palette_commands(commands, _command)

    train = _command(
        commands,
        "train",
        "train a network (needs the extra [train])",
        "ctnet train --config ctn-r1 --data ~/data/compositemt --out runs/ctn-r1",
        _train,
    )
    train.add_argument(
        "--config",
        "--recipe",
        required=True,
        help="a TOML or YAML file, or the name of a recipe, such as ctn-r1 or zoo/mhn-r2",
    )
    train.add_argument("--data", help="folder of the data set")
    train.add_argument("--encoder-weights", help="file of ImageNet weights, in place of a download")
    train.add_argument("--out", type=Path, help="default: runs/NAME; a run there is resumed")
    train.add_argument("--steps", type=int)
    train.add_argument("--device", help="auto, cpu, cuda, mps")
    _add_processes(train)
    train.add_argument("--seed", type=int)
    train.add_argument(
        "--print-config",
        action="store_true",
        help="print the whole configuration, defaults and phases too, as TOML, and do nothing else",
    )

    zoo = _command(
        commands,
        "train-zoo",
        "train all networks of the zoo, sharing decoding and augmentation (extra [train])",
        "ctnet train-zoo --data ~/data/compositemt --out runs/zoo",
        _train_zoo,
    )
    zoo.add_argument("--data", help="folder of the data set")
    zoo.add_argument("--out", type=Path, default=Path("runs/zoo"), help="default: %(default)s/")
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="train these alone")
    zoo.add_argument("--steps", type=int)
    zoo.add_argument("--batch-size", type=int)
    zoo.add_argument("--device", help="auto, cpu, cuda, mps")
    zoo.add_argument("--seed", type=int)

    finetune = _command(
        commands,
        "finetune",
        "train a trained network on a rule of one's own, or a task more (needs the extra [train])",
        "ctnet finetune ctn-r2 --rule pets.toml --data ~/data/compositemt --out runs/pets",
        _finetune,
    )
    finetune.add_argument("model", help="a model's name, or local-dir:PATH")
    finetune.add_argument("--rule", required=True, help="R1, R2, R3, single:TASK or a rule file")
    finetune.add_argument("--data", default="~/data/compositemt", help="default: %(default)s")
    finetune.add_argument("--out", type=Path, required=True, help="a run there is resumed")
    finetune.add_argument(
        "--add-task",
        metavar="TASK",
        help="a task more, such as foreground; only its embedding learns, unless --all",
    )
    finetune.add_argument("--like", metavar="TASK", help="task that the new one starts from")
    finetune.add_argument("--all", action="store_true", help="train everything with the new task")
    finetune.add_argument("--recipe", help="a TOML or YAML file in place of the package's own")
    finetune.add_argument("--steps", type=int)
    finetune.add_argument("--device", help="auto, cpu, cuda, mps")
    _add_processes(finetune)
    finetune.add_argument("--seed", type=int)
    finetune.add_argument(
        "--limit", type=int, default=100, help="most images a task to compare on (default: 100)"
    )

    evaluate = _command(
        commands,
        "eval",
        "measure a model on labelled photographs (needs the extra [train])",
        "ctnet eval ctn-r1 --rule S --data ~/data/compositemt",
        _eval,
    )
    evaluate.add_argument("model", help="a model's name, or local-dir:PATH")
    evaluate.add_argument(
        "--rule", default="S", help="S, R1, R2, R3, Rrnd or a rule file (default: %(default)s)"
    )
    evaluate.add_argument("--data", default="~/data/compositemt", help="default: %(default)s")
    evaluate.add_argument("--layout", default="compositemt", help="compositemt or pascal-mt")
    evaluate.add_argument("--split", default="val", choices=("train", "held-in", "held-out", "val"))
    evaluate.add_argument("--out", type=Path, default=Path("results"), help="default: %(default)s/")
    evaluate.add_argument("--name", help="name in the result, where the model is a folder")
    evaluate.add_argument("--limit", type=int, help="most images a task")
    evaluate.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="measure only these; figures of other tasks in the same file stay",
    )
    evaluate.add_argument(
        "--no-label-tables", action="store_true", help="read classes by eq. 5 alone"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of mosaics and random palettes")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    evaluate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="type to compute in (default: %(default)s)",
    )

    tables = _command(
        commands,
        "label-tables",
        "count how a trained network's outputs are read as classes (needs the extra [train])",
        "ctnet label-tables local-dir:runs/mine/checkpoint --data ~/data/compositemt --out mine",
        _label_tables,
    )
    tables.add_argument("model", help="a model's name, or local-dir:PATH")
    tables.add_argument("--data", default="~/data/compositemt", help="default: %(default)s")
    tables.add_argument("--layout", default="compositemt", help="compositemt or pascal-mt")
    tables.add_argument("--tasks", nargs="+", metavar="TASK", help="default: all with classes")
    tables.add_argument(
        "--rule",
        default="R2",
        help="semantic rule under which they must not read worse (default: %(default)s)",
    )
    tables.add_argument("--limit", type=int, help="most photographs (default: all of train)")
    tables.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    tables.add_argument("--half", action="store_true", help="store weights as fp16")
    tables.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")

    bench = _command(
        commands,
        "bench",
        "measure time and memory of a model on this machine, against image size and batch",
        "ctnet bench ctn-r1 --sides 256 512 --batches 1 4 --out bench.png",
        _bench,
    )
    bench.add_argument("model", nargs="?", default=defaults.MODEL, help="default: %(default)s")
    bench.add_argument("--palette", default="R1", help="R1, Rrnd or single:TASK (default: R1)")
    bench.add_argument("--sides", type=int, nargs="+", default=[128, 256, 512], metavar="PIXELS")
    bench.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], metavar="N")
    bench.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    bench.add_argument("--threads", type=int, help="of torch on a CPU; default: torch's own")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    bench.add_argument("--compile", action="store_true", help="compile the look-up")
    bench.add_argument("--out", type=Path, help="plot (PNG); a table is printed in any case")

    add_export_command(commands, _command)
    add_demo_command(commands, _command)

    published = _command(
        commands,
        "import",
        "turn a checkpoint of the paper's published code into one of ctnet",
        "ctnet import epoch=99.ckpt --out imported/",
        _import,
    )
    published.add_argument("checkpoint", type=Path, help="layout v0 or v1, .ckpt or .safetensors")
    published.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    return parser


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train in N processes that share each batch (or start this command by torchrun)",
    )


def _list(args: argparse.Namespace) -> int:
    from ctnet.zoo.manifest import list_models, model_info

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}{nearest(args.pattern, list_models())}")
    for name in names:
        info = model_info(name)
        print(f"{name:<14}{info.parameters / 1e6:6.2f} M parameters  {info.summary}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from ctnet.models.checkpoint import save_checkpoint
    from ctnet.training.config import TrainConfig
    from ctnet.training.distributed import is_main, joined, world_size
    from ctnet.training.launch import launch, must_launch
    from ctnet.training.zoo_trainer import create_loop

    given = _given(args, "data", "encoder_weights", "steps", "device", "seed")
    config = TrainConfig.load(args.config, **given)
    if args.print_config:
        print(config.to_toml(), end="")
        return 0
    if must_launch(args.processes):
        return launch(args.processes, ["-m", "ctnet", *args.words])
    folder = args.out or Path("runs") / config.name
    with joined(config.device):
        loop = create_loop(config, folder)
        started = time.monotonic()
        model = loop.train()
        if is_main():
            rate = loop.images / (time.monotonic() - started)
            print(f"{loop.images:,} images at {rate:.1f} images/s, processes: {world_size()}")
            print(f"weights: {save_checkpoint(model, folder / 'checkpoint')}")
    return 0


def _train_zoo(args: argparse.Namespace) -> int:
    from ctnet.training.distributed import launched
    from ctnet.training.zoo_trainer import train_zoo

    if launched():
        raise ValueError(
            "train-zoo runs in one process; several train its recipes one after the other: "
            "ctnet train --config zoo/NAME --processes N."
        )
    changes = _given(args, "data", "steps", "batch_size", "device", "seed")
    for name, folder in train_zoo(args.out, args.only, **changes):
        print(f"{name}: {folder}")
    return 0


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns the options that were given, by name."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _finetune(args: argparse.Namespace) -> int:
    from ctnet.data.derived import DERIVATIONS
    from ctnet.models.add_task import add_task
    from ctnet.models.base import CompositeModel
    from ctnet.training.config import TrainConfig
    from ctnet.training.distributed import is_main, joined
    from ctnet.training.finetune import CHECKPOINT, compare, finetune
    from ctnet.training.launch import launch, must_launch

    if args.add_task is None and (args.like or args.all):
        raise ValueError("--like and --all go with --add-task.")
    if must_launch(args.processes):
        return launch(args.processes, ["-m", "ctnet", *args.words])
    changes = _given(args, "steps", "device", "seed")
    before = CompositeModel.from_pretrained(args.model)
    start = args.model
    if args.add_task is not None:
        known = DERIVATIONS.get(args.add_task)
        before = start = add_task(before, known.task if known else args.add_task, args.like)
    recipe = args.recipe or ("new-task" if args.add_task and not args.all else "finetune")
    with joined(TrainConfig.load(recipe, **changes).device):
        after = finetune(start, args.rule, args.data, args.out, recipe, **changes)
        if not is_main():
            return 0
    print(f"weights: {args.out / CHECKPOINT}")
    for result in compare(before, after, args.rule, args.data, limit=args.limit):
        figures = (f"{task} {result.headline(task):.3f}" for task in result.scores)
        print(
            f"{result.model:<8}{', '.join(figures) or 'nothing that the rule asks for is labelled'}"
        )
        print(f"  written: {result.save(args.out)}")
    return 0


def _eval(args: argparse.Namespace) -> int:
    import torch

    from ctnet.data.dataset import open_source
    from ctnet.evaluation.evaluate import evaluate
    from ctnet.evaluation.palettes import evaluate_palettes
    from ctnet.evaluation.results import read_result
    from ctnet.models.device import pick_device
    from ctnet.models.palette_network import PaletteNetwork
    from ctnet.models.pretrained import load

    model = load(args.model, pick_device(args.device))
    name = args.name or args.model.rsplit("/", 1)[-1]
    source = open_source(args.layout, args.data, args.split, model.tasks)
    if isinstance(model, PaletteNetwork):
        result = evaluate_palettes(model, source, args.rule, name, args.limit)
    else:
        model.fuse(getattr(torch, args.dtype))
        result = evaluate(
            model, source, args.rule, name, args.limit,
            seed=args.seed, tasks=args.tasks, label_tables=not args.no_label_tables,
        )  # fmt: skip
    for task in result.scores:
        kinds = " + ".join(result.labels[task])
        print(f"{task:<10} {result.headline(task):8.3f}  ({kinds} labels)")
    earlier = read_result(result.path(args.out)) if args.tasks else None
    if earlier is not None:
        result = result.on_top_of(earlier)
    print(f"written: {result.save(args.out)}")
    return 0


def _label_tables(args: argparse.Namespace) -> int:
    from ctnet.data.dataset import open_source
    from ctnet.models.base import CompositeModel
    from ctnet.models.checkpoint import save_checkpoint
    from ctnet.models.device import pick_device
    from ctnet.training.count_tables import add_label_tables

    model = CompositeModel.from_pretrained(args.model, device=pick_device(args.device))
    source = open_source(args.layout, args.data, "train", model.tasks)
    model, reports = add_label_tables(model, source, args.tasks, args.limit, rule=args.rule)
    print("mIoU on photographs left out of the counting, by the new table and as before:")
    for report in reports:
        print(
            f"{report.task:<10} S {report.table:.1f} / {report.before:.1f}, {args.rule} "
            f"{report.rule_table:.1f} / {report.rule_before:.1f}"
            f"{'' if report.gains else ': not taken'} "
            f"({report.photographs} photographs, {report.rarest} of the rarest class, "
            f"{report.choice})"
        )
    print(f"written: {save_checkpoint(model, args.out, args.half)}")
    return 0


def _bench(args: argparse.Namespace) -> int:
    from ctnet.models.base import CompositeModel
    from ctnet.models.device import pick_device
    from ctnet.profiling.bench import bench, draw, table

    model = CompositeModel.from_pretrained(args.model, device=pick_device(args.device))
    model.fuse(compile=args.compile)
    rule = get_rule(args.palette, model.tasks)
    points = bench(model, rule, args.sides, args.batches, args.rounds, args.threads)
    print(table(points))
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        draw(points, args.model).save(args.out, optimize=True)
        print(f"written: {args.out}")
    return 0


def _import(args: argparse.Namespace) -> int:
    from ctnet.models.checkpoint import save_checkpoint
    from ctnet.models.import_original import import_published

    save_checkpoint(import_published(args.checkpoint), args.out)
    print(f"weights: {args.out}; use them as local-dir:{args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser().parse_args(words)
    args.words = words
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads, such as head, has enough; what is left must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ModuleNotFoundError) as error:
        # Which process it is, if torchrun started several.
        who = f"ctnet, process {os.environ['RANK']}" if "RANK" in os.environ else "ctnet"
        print(f"{who}: {error}", file=sys.stderr)
        return 1
    return status
