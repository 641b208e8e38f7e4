"""The commands that train networks: ``ctnet train | train-zoo | finetune``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from ctnet.cli.commands import Commands, add_data, add_device, add_model


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
    train.add_argument("--out", type=Path, help="default: runs/NAME; a run there is resumed")
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
        "ctnet finetune ctn-r2 --rule pets.toml --data ~/data/compositemt --out runs/pets",
        _finetune,
    )
    add_model(finetune)
    finetune.add_argument("--rule", required=True, help="R1, R2, R3, single:TASK or a rule file")
    add_data(finetune)
    finetune.add_argument("--out", type=Path, required=True, help="a run there is resumed")
    finetune.add_argument(
        "--add-task",
        metavar="TASK",
        help="new task, such as foreground; without --all only its embedding is trained",
    )
    finetune.add_argument(
        "--like", metavar="TASK", help="task whose embedding the new one starts from"
    )
    finetune.add_argument(
        "--all", action="store_true", help="train all weights together with the new task"
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

    zoo = commands.add(
        "train-zoo",
        "train all networks of the zoo on shared batches (needs the extra [train])",
        "ctnet train-zoo --data ~/data/compositemt --out runs/zoo",
        _train_zoo,
    )
    zoo.add_argument("--data", help="folder of the data set")
    zoo.add_argument("--out", type=Path, default=Path("runs/zoo"), help="default: %(default)s/")
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="train only these")
    zoo.add_argument("--batch-size", type=int, help="images per step")
    _add_overrides(zoo)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    """Adds options that replace a value of the configuration."""
    parser.add_argument("--steps", type=int, help="training steps")
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
    config = TrainConfig.load(recipe, **changes)
    with joined(config.device):
        after = finetune(start, args.rule, args.data, args.out, recipe, **changes)
        if not is_main():
            return 0
    print(f"weights: {args.out / CHECKPOINT}")
    try:
        results = compare(before, after, args.rule, args.data, config.layout, args.limit)
    except ValueError as error:
        print(f"not compared: {error}")
        return 0
    for result in results:
        figures = (f"{task} {result.headline(task):.3f}" for task in result.scores)
        print(f"{result.model:<8}{', '.join(figures)}")
        print(f"  written: {result.save(args.out)}")
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
