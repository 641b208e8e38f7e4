"""The command line: ``ctnet list | info | predict | palette | train | eval | tables``."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ctnet import __version__
from ctnet.palette import Palette, read_ids
from ctnet.rules import get_rule
from ctnet.tasks import nearest

DEFAULT_MODEL = "ctn-r2"


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

    info = _command(
        commands, "info", "show all that is known of a model", "ctnet info ctn-r2", _info
    )
    info.add_argument("name")

    predict = _command(
        commands,
        "predict",
        "do the tasks on photographs",
        "ctnet predict photo.jpg --palette single:normals --out out/",
        _predict,
    )
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="images or folders of images")
    predict.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")
    predict.add_argument(
        "--palette",
        default="R2",
        help="a rule (R1, R2, R3, Rrnd, or a .toml/.yaml file), single:TASK, or a palette PNG; R2 "
        "and R3 read the model's own segmentation (default: %(default)s)",
    )
    predict.add_argument("--out", type=Path, default=Path("out"), help="default: %(default)s/")
    predict.add_argument("--long-side", type=int, help="working size in pixels (default: 320)")
    predict.add_argument("--seed", type=int, default=0, help="of mosaics and random palettes")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")

    _add_palette(commands)

    train = _command(
        commands,
        "train",
        "train a network (needs the extra [train])",
        "ctnet train --config ctn-r1 --data ~/data/compositemt --out runs/ctn-r1",
        _train,
    )
    train.add_argument("--config", required=True, help="a TOML or YAML file, or a recipe's name")
    train.add_argument("--data", help="folder of the data set")
    train.add_argument("--out", type=Path, help="default: runs/NAME; a run there is resumed")
    train.add_argument("--steps", type=int)
    train.add_argument("--device", help="auto, cpu, cuda, mps")
    train.add_argument("--seed", type=int)

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
    evaluate.add_argument("--split", default="val", choices=("train", "val"))
    evaluate.add_argument("--out", type=Path, default=Path("results"), help="default: %(default)s/")
    evaluate.add_argument("--name", help="name in the result, where the model is a folder")
    evaluate.add_argument("--limit", type=int, help="most images a task")
    evaluate.add_argument("--seed", type=int, default=0, help="of mosaics and random palettes")
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")

    tables = _command(
        commands,
        "tables",
        "write the README's tables from results (needs the extra [train])",
        "ctnet tables --results results --readme README.md",
        _tables,
    )
    tables.add_argument("--results", type=Path, default=Path("results"), help="default: results/")
    tables.add_argument("--readme", type=Path, default=Path("README.md"))
    return parser


def _add_palette(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    palette = _command(
        commands,
        "palette",
        "make, edit and look at palettes",
        "ctnet palette make mosaic --size 240x320 --out palette.png",
        lambda _: 0,
    )
    actions = palette.add_subparsers(required=True, metavar="ACTION")
    make = _command(
        actions,
        "make",
        "make a palette by a rule",
        "ctnet palette make R2 --labels classes.png --out palette.png",
        _palette_make,
    )
    make.add_argument("rule", help="R1, R2, R3, Rrnd, single:TASK or a rule file")
    make.add_argument("--size", metavar="HxW", help="height and width, where no labels are given")
    make.add_argument("--labels", type=Path, help="class map (PNG of class ids) for R2, R3, files")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--out", type=Path, required=True)
    edit = _command(
        actions,
        "edit",
        "paint boxes or replace tasks in a palette",
        "ctnet palette edit palette.png --box normals 10 20 110 90 --replace seg parts "
        "--out edited.png",
        _palette_edit,
    )
    edit.add_argument("palette", type=Path)
    edit.add_argument(
        "--box",
        nargs=5,
        action="append",
        default=[],
        metavar=("TASK", "LEFT", "TOP", "RIGHT", "BOTTOM"),
    )
    edit.add_argument("--replace", nargs=2, action="append", default=[], metavar=("OLD", "NEW"))
    edit.add_argument("--out", type=Path, required=True)
    show = _command(
        actions,
        "show",
        "say what a palette asks for",
        "ctnet palette show palette.png",
        _palette_show,
    )
    show.add_argument("palette", type=Path)


def _list(args: argparse.Namespace) -> int:
    from ctnet.zoo import list_models, model_info

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}{nearest(args.pattern, list_models())}")
    for name in names:
        info = model_info(name)
        print(f"{name:<14}{info.parameters / 1e6:6.2f} M parameters  {info.summary}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from ctnet.zoo import model_info
    from ctnet.zoo.hub import locate

    info = model_info(args.name)
    print(json.dumps(asdict(info), indent=2))
    print(f"files: {locate(args.name)}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from ctnet.device import pick_device
    from ctnet.images import find_images
    from ctnet.zoo import load

    paths = find_images(args.images)
    model = load(args.model, device=pick_device(args.device))
    failed = 0
    stems: Counter[str] = Counter()
    for path in paths:
        try:
            prediction = model.predict(path, args.palette, args.long_side, args.seed)
            stems[path.stem] += 1
            count = stems[path.stem]
            written = prediction.save(args.out, f"{path.stem}_{count}" if count > 1 else path.stem)
        except (ValueError, OSError) as error:
            print(f"ctnet: {path}: {error}", file=sys.stderr)
            failed += 1
            continue
        print(f"{path}: {prediction.palette!r}")
        for kind, file in written.items():
            print(f"  {kind:<10} {file}")
    if failed:
        print(f"ctnet: {failed} of {len(paths)} images failed", file=sys.stderr)
    return 1 if failed else 0


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise ValueError(f"--size is HEIGHTxWIDTH, such as 240x320; got {text!r}.")
    return int(height), int(width)


def _palette_make(args: argparse.Namespace) -> int:
    labels = None if args.labels is None else read_ids(args.labels)
    if labels is None and args.size is None:
        raise ValueError("give --size HxW, or --labels for a rule that maps classes.")
    size = labels.shape if labels is not None else _parse_size(args.size)
    palette = get_rule(args.rule).palette(size, np.random.default_rng(args.seed), labels)
    return _write_palette(palette, args.out)


def _palette_edit(args: argparse.Namespace) -> int:
    palette = Palette.load(args.palette)
    for task, *corners in args.box:
        left, top, right, bottom = (int(x) for x in corners)
        palette = palette.paint_box((left, top, right, bottom), task)
    for old, new in args.replace:
        palette = palette.replace(old, new)
    return _write_palette(palette, args.out)


def _write_palette(palette: Palette, path: Path) -> int:
    palette.save(path)
    print(f"{path}: {palette!r}")
    return 0


def _palette_show(args: argparse.Namespace) -> int:
    palette = Palette.load(args.palette)
    print(f"{args.palette}: {palette.size[0]} x {palette.size[1]} pixels")
    for task, share in palette.shares().items():
        print(f"  {task:<10} {share:6.1%}")
    return 0


def _train(args: argparse.Namespace) -> int:
    from ctnet.evaluation.validation import validator
    from ctnet.training.config import TrainConfig
    from ctnet.training.trainer import Trainer
    from ctnet.zoo.checkpoint import save_checkpoint

    given = {name: getattr(args, name) for name in ("data", "steps", "device", "seed")}
    config = TrainConfig.load(args.config, **{k: v for k, v in given.items() if v is not None})
    folder = args.out or Path("runs") / config.name
    model = Trainer(config, folder, validator(config)).train()
    print(f"weights: {save_checkpoint(model, folder / 'checkpoint')}")
    return 0


def _eval(args: argparse.Namespace) -> int:
    from ctnet.device import pick_device
    from ctnet.evaluation.evaluate import evaluate
    from ctnet.training.datasets import open_source
    from ctnet.zoo import load

    model = load(args.model, device=pick_device(args.device))
    name = args.name or args.model.rsplit("/", 1)[-1]
    source = open_source(args.layout, args.data, args.split)
    result = evaluate(model, source, args.rule, name, args.limit, seed=args.seed)
    for task in result.scores:
        kinds = " + ".join(result.labels[task])
        print(f"{task:<10} {result.headline(task):8.3f}  ({kinds} labels)")
    print(f"written: {result.save(args.out)}")
    return 0


def _tables(args: argparse.Namespace) -> int:
    from ctnet.evaluation.tables import update_readme

    update_readme(args.readme, args.results)
    print(f"written: {args.readme}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"ctnet: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
