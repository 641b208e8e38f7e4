"""The commands on where weights lie: ``ctnet info | download | push``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

AddCommand = Callable[..., argparse.ArgumentParser]


def add_hub_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], add: AddCommand
) -> None:
    """Adds the commands to a parser.

    Args:
        commands: The parser's commands.
        add: Function (commands, name, summary, example, run) that adds one.
    """
    info = add(
        commands,
        "info",
        "show all that is known of a model, and where its files are looked for",
        "ctnet info ctn-r2",
        _info,
    )
    info.add_argument("name")

    download = add(
        commands,
        "download",
        "fetch models that are not installed, and check their files",
        "ctnet download ctn-r1 hf-hub:org/repo@v1",
        _download,
    )
    download.add_argument("names", nargs="*", metavar="NAME", help="of the zoo, or hf-hub:ORG/REPO")
    download.add_argument("--all", action="store_true", help="all models of the zoo")
    download.add_argument(
        "--refresh", action="store_true", help="ask the Hub for the newest commit of a branch"
    )

    push = add(
        commands,
        "push",
        "publish a checkpoint on the Hugging Face Hub",
        "ctnet push local-dir:runs/pets/checkpoint --repo my-name/ctn-pets",
        _push,
    )
    push.add_argument("name", help="a model's name, or local-dir:PATH")
    push.add_argument("--repo", required=True, metavar="ORG/REPO", help="made if missing")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="MANIFEST",
        help="enter repository and commit in the zoo's manifest",
    )


def _info(args: argparse.Namespace) -> int:
    from ctnet.zoo.locate import locate, places
    from ctnet.zoo.manifest import model_info

    info = model_info(args.name)
    found = list(places(info))
    print(json.dumps(asdict(info) | {"places": [asdict(place) for place in found]}, indent=2))
    if any(place.found for place in found):
        print(f"files: {locate(args.name)}")
    elif info.repo_id:
        print(f"files: none yet; get them by: ctnet download {args.name}")
    else:
        print("files: none, and none on the Hub yet; a checkout of the repository has them")
    return 0


def _download(args: argparse.Namespace) -> int:
    from ctnet.zoo.locate import locate
    from ctnet.zoo.manifest import list_models

    if bool(args.names) == args.all:
        raise ValueError("give the names of models, or --all for the zoo's; not both.")
    for name in args.names or list_models():
        print(f"{name}: {locate(name, refresh=args.refresh)}")
    return 0


def _push(args: argparse.Namespace) -> int:
    from ctnet.models.publish import push
    from ctnet.zoo.hub_names import HUB_PREFIX
    from ctnet.zoo.locate import locate
    from ctnet.zoo.manifest import MANIFEST, model_info
    from ctnet.zoo.upload import record

    if args.record is not None:
        model_info(args.name)
    pushed = push(locate(args.name), args.repo, args.private)
    print(f"published: {HUB_PREFIX}{pushed}")
    if args.record is not None:
        manifest = Path(args.record) if args.record else MANIFEST
        record(args.name, pushed, manifest)
        print(f"recorded: {args.name} in {manifest}; commit it")
    return 0
