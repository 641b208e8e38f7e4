"""The commands that read a labeled data set: ``ctnet eval | label-tables``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ctnet.cli.commands import (
    Commands,
    add_data,
    add_device,
    add_layout,
    add_long_side,
    add_model,
    add_overwrite,
    add_seed,
)
from ctnet.outputs import check_outputs


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet eval`` and ``ctnet label-tables``."""
    evaluate = commands.add(
        "eval",
        "evaluate a model on labeled photographs (needs the extra [train])",
        "ctnet eval ctn-r1 --rule S --data ~/data/compositemt",
        _eval,
    )
    add_model(evaluate)
    evaluate.add_argument(
        "--rule", default="S", help="S, R1, R2, R3, Rrnd or a rule file (default: %(default)s)"
    )
    add_data(evaluate)
    add_layout(evaluate)
    evaluate.add_argument(
        "--split",
        default="val",
        choices=("train", "held-in", "held-out", "val"),
        help="part of the data set (default: %(default)s)",
    )
    evaluate.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        help="folder of the result (default: %(default)s/)",
    )
    evaluate.add_argument("--name", help="name of the model in the result (default: its own)")
    evaluate.add_argument("--limit", type=int, help="use at most this many images per task")
    evaluate.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="evaluate only these; other tasks in the same file keep their figures",
    )
    evaluate.add_argument(
        "--no-label-tables", action="store_true", help="read classes by eq. 5 only"
    )
    add_long_side(evaluate)
    add_overwrite(evaluate)
    add_seed(evaluate)
    add_device(evaluate)
    evaluate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="number type to compute in (default: %(default)s)",
    )

    tables = commands.add(
        "label-tables",
        "count label tables, which map outputs to classes (needs the extra [train])",
        "ctnet label-tables local-dir:runs/mine/checkpoint --data ~/data/compositemt --out mine",
        _label_tables,
    )
    add_model(tables)
    add_data(tables)
    add_layout(tables)
    tables.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="tasks to count (default: all with classes)"
    )
    tables.add_argument(
        "--rule",
        default="R2",
        help="semantic rule under which tables must not be worse than eq. 5 (default: %(default)s)",
    )
    tables.add_argument(
        "--limit", type=int, help="use at most this many photographs (default: all of train)"
    )
    tables.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    add_overwrite(tables)
    tables.add_argument("--half", action="store_true", help="store weights as fp16")
    add_device(tables)


def _eval(args: argparse.Namespace) -> int:
    import torch

    from ctnet.data.dataset import open_source
    from ctnet.evaluation.evaluate import evaluate, result_path
    from ctnet.evaluation.palettes import evaluate_palettes
    from ctnet.evaluation.results import read_result
    from ctnet.models.device import pick_device
    from ctnet.models.palette_network import PaletteNetwork
    from ctnet.models.pretrained import load
    from ctnet.rules import S, get_rule

    model = load(args.model, pick_device(args.device))
    name = args.name or re.split(r"[/:]", args.model.rstrip("/"))[-1]
    rule = S if args.rule == S else get_rule(args.rule, model.tasks).name
    check_outputs([result_path(args.out, name, rule)], overwrite=args.overwrite)
    source = open_source(args.layout, args.data, args.split, model.tasks)
    if isinstance(model, PaletteNetwork):
        result = evaluate_palettes(model, source, args.rule, name, args.limit)
    else:
        model.fuse(getattr(torch, args.dtype))
        result = evaluate(
            model, source, args.rule, name, args.limit,
            seed=args.seed, tasks=args.tasks, label_tables=not args.no_label_tables,
            long_side=args.long_side,
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
    from ctnet.zoo.files import CONFIG_FILE

    check_outputs([args.out / CONFIG_FILE], overwrite=args.overwrite)
    model = CompositeModel.from_pretrained(args.model, device=pick_device(args.device))
    source = open_source(args.layout, args.data, "train", model.tasks, working_size=True)
    model, reports = add_label_tables(model, source, args.tasks, args.limit, rule=args.rule)
    print("mIoU on photographs that were not counted, by table / by eq. 5:")
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
