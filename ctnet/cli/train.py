"""The commands that train networks: ``ctnet train | train-zoo | finetune``."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctnet.cli.commands import Commands, add_data, add_device, add_layout, add_model

if TYPE_CHECKING:
    from ctnet.training.config import TrainConfig


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet train``, ``finetune`` and ``train-zoo``."""
    train = commands.add(
        "train",
        "train a network (needs the extra [train])",
        "ctnet train --config ctn-r1 --data ~/data/compositemt --out runs/ctn-r1",
        _train,
    )
    train.add_argument(
        "--config",
        "--recipe",
        required=True,
        help="TOML or YAML file, or the name of a recipe, such as ctn-r1 or zoo/mhn-r2",
    )
    train.add_argument("--data", help="folder of the data set")
    train.add_argument(
        "--encoder-weights", help="file of ImageNet weights, instead of downloading them"
    )
    train.add_argument(
        "--out",
        type=Path,
        help="folder of the run; one that is there is resumed (default: runs/NAME)",
    )
    _add_overrides(train)
    _add_processes(train)
    train.add_argument(
        "--print-config",
        action="store_true",
        help="print the whole configuration as TOML, defaults and phases included, and stop",
    )

    finetune = commands.add(
        "finetune",
        "adapt a trained network to your own rule or a new task (needs the extra [train])",
        "ctnet finetune ctn-r1 --data clothing/ --add-task clothing --out runs/clothing",
        _finetune,
    )
    add_model(finetune)
    finetune.add_argument(
        "--rule",
        default="R1",
        help="R1, R2, R3, single:TASK or a rule file (default: %(default)s, mosaics of the tasks "
        "that a photograph has labels for)",
    )
    add_data(finetune)
    finetune.add_argument("--out", type=Path, required=True, help="a run there is resumed")
    finetune.add_argument(
        "--add-task",
        metavar="TASK",
        help="new task: the name of a folder of masks in --data, or foreground; without --all "
        "only its embedding is trained",
    )
    finetune.add_argument(
        "--like", metavar="TASK", help="task whose embedding the new one starts from"
    )
    finetune.add_argument(
        "--all", action="store_true", help="train all weights together with the new task"
    )
    finetune.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="TASK",
        help="tasks that alone get better, such as edges with --rule single:edges: no other "
        "task's answers change",
    )
    finetune.add_argument("--recipe", help="your own TOML or YAML file of training options")
    _add_overrides(finetune)
    _add_processes(finetune)
    finetune.add_argument(
        "--limit",
        type=int,
        default=100,
        help="compare on at most this many images per task (default: %(default)s)",
    )
    finetune.add_argument(
        "--skip-bad", action="store_true", help="go on without photographs that cannot be used"
    )

    zoo = commands.add(
        "train-zoo",
        "train all networks of the zoo on shared batches (needs the extra [train])",
        "ctnet train-zoo --data ~/data/compositemt --out runs/zoo",
        _train_zoo,
    )
    zoo.add_argument("--data", help="folder of the data set")
    zoo.add_argument(
        "--out",
        type=Path,
        default=Path("runs/zoo"),
        help="folder of the runs (default: %(default)s/)",
    )
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="train only these")
    _add_overrides(zoo)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds options that replace a value of the configuration."""
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="training steps")
    length.add_argument("--epochs", type=float, help="passes over the photographs instead")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--crop-size", type=int, help="side of the crops, a multiple of 32")
    parser.add_argument("--lr", type=float, help="learning rate of everything but the encoder")
    add_layout(parser)
    parser.add_argument(
        "--val-share",
        type=float,
        help="share of the photographs of a folder to validate on, where it has no val.txt",
    )
    add_device(parser, default=None)
    parser.add_argument("--seed", type=int, help="random seed")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="train in N processes that share each batch (or start this command with torchrun)",
    )


def _train(args: argparse.Namespace) -> int:
    from ctnet.models.checkpoint import save_checkpoint
    from ctnet.training.distributed import is_main, joined, world_size
    from ctnet.training.launch import launch, must_launch
    from ctnet.training.zoo_trainer import create_loop

    given = _given(args, "data", "encoder_weights")
    config = _load(args.config, args, **given)
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


def _finetune(args: argparse.Namespace) -> int:
    from ctnet.models.add_task import add_task
    from ctnet.models.base import CompositeModel
    from ctnet.training.distributed import is_main, joined
    from ctnet.training.finetune import CHECKPOINT, choose_recipe, compare, find_task, finetune
    from ctnet.training.launch import launch, must_launch

    if args.add_task is None and (args.like or args.all):
        raise ValueError("--like and --all go with --add-task.")
    if args.add_task and args.only:
        raise ValueError("--add-task brings a task, --only trains some that are there.")
    if must_launch(args.processes):
        return launch(args.processes, ["-m", "ctnet", *args.words])
    before = CompositeModel.from_pretrained(args.model)
    if args.add_task is not None:
        before = add_task(before, find_task(args.add_task, args.data, args.layout), args.like)
    added = args.add_task is not None and not args.all
    recipe = args.recipe or choose_recipe(added, args.only)
    config = _load(recipe, args, data=args.data)
    with joined(config.device):
        after = finetune(
            before, args.data, args.out, args.rule, recipe=recipe, skip_bad=args.skip_bad,
            only=args.only, **_overrides(args, config),
        )  # fmt: skip
        if not is_main():
            return 0
    print(f"weights: {args.out / CHECKPOINT}")
    try:
        results = compare(before, after, args.rule, args.out, args.limit)
    except ValueError as error:
        print(f"not compared: {error}")
        return 0
    for result in results:
        figures = (f"{task} {result.headline(task):.3f}" for task in result.scores)
        print(f"{result.model:<8}{', '.join(figures)}")
        print(f"  written: {result.save(args.out)}")
    return 0


def _train_zoo(args: argparse.Namespace) -> int:
    from ctnet.training.config import TrainConfig
    from ctnet.training.distributed import launched
    from ctnet.training.zoo_trainer import train_zoo

    if launched():
        raise ValueError(
            "train-zoo runs in one process; several train its recipes one after the other: "
            "ctnet train --config zoo/NAME --processes N."
        )
    changes = _given(args, "data") | _overrides(args, TrainConfig.load("zoo/base"))
    for name, folder in train_zoo(args.out, args.only, **changes):
        print(f"{name}: {folder}")
    return 0


def _load(recipe: str | Path, args: argparse.Namespace, **changes: Any) -> TrainConfig:
    """Reads a recipe, with what the command line changes of it."""
    from ctnet.training.config import TrainConfig

    config = TrainConfig.load(recipe, **changes)
    return TrainConfig.load(recipe, **changes, **_overrides(args, config))


def _overrides(args: argparse.Namespace, config: TrainConfig) -> dict[str, Any]:
    """Returns the fields of a configuration that options replace.

    Args:
        args: The command line.
        config: The configuration without them, whose data and batches say how long an epoch is.
    """
    found = _given(args, "steps", "batch_size", "crop_size", "val_share", "device", "seed")
    if args.lr is not None:
        found["learning_rate"] = args.lr
    if args.layout != "auto":
        found["layout"] = args.layout
    if args.epochs is not None:
        if args.epochs <= 0:
            raise ValueError(f"--epochs must be above 0; got {args.epochs:g}.")
        shares = {key: found[key] for key in ("layout", "val_share") if key in found}
        images = len(replace(config, **shares).open_data().ids)
        found["steps"] = max(
            1, round(args.epochs * images / found.get("batch_size", config.batch_size))
        )
    return found


def _given(args: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Returns the options that were given, by name."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
