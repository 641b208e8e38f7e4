"""The commands on the zoo's models: ``ctnet list | info | download | push``."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ctnet.checks import did_you_mean
from ctnet.cli.commands import Commands


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet list``, ``info``, ``download`` and ``push``."""
    listing = commands.add(
        "list", "list the zoo's models and their sizes", "ctnet list 'ctn-*'", _list
    )
    listing.add_argument("pattern", nargs="?", default="*", help="shell-style pattern of names")

    info = commands.add(
        "info",
        "show a model's manifest entry and where its files are",
        "ctnet info ctn-r2",
        _info,
    )
    info.add_argument("name", help="name of a model")

    download = commands.add(
        "download",
        "download models that are not installed and check their files",
        "ctnet download ctn-r1 hf-hub:org/repo@v1",
        _download,
    )
    download.add_argument(
        "names", nargs="*", metavar="NAME", help="name of a model, or hf-hub:ORG/REPO"
    )
    download.add_argument("--all", action="store_true", help="all models of the zoo")
    download.add_argument(
        "--refresh", action="store_true", help="ask the Hub for the newest commit of a branch"
    )

    push = commands.add(
        "push",
        "publish a checkpoint on the Hugging Face Hub",
        "ctnet push local-dir:runs/pets/checkpoint --repo my-name/ctn-pets",
        _push,
    )
    push.add_argument("name", help="name of a model, or local-dir:PATH")
    push.add_argument("--repo", required=True, metavar="ORG/REPO", help="created if missing")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument(
        "--record",
        nargs="?",
        const="",
        metavar="MANIFEST",
        help="write repository and commit to the zoo's manifest",
    )


def _list(args: argparse.Namespace) -> int:
    from ctnet.zoo.manifest import list_models, model_info

    names = list_models(args.pattern)
    if not names:
        raise ValueError(
            f"no model matches {args.pattern!r}{did_you_mean(args.pattern, list_models())}"
        )
    for name in names:
        info = model_info(name)
        print(f"{name:<14}{info.parameters / 1e6:6.2f} M parameters  {info.summary}")
    return 0


def _info(args: argparse.Namespace) -> int:
    from ctnet.zoo.locate import locate, places
    from ctnet.zoo.manifest import model_info

    info = model_info(args.name)
    found = list(places(info))
    print(json.dumps(asdict(info) | {"places": [asdict(place) for place in found]}, indent=2))
    if any(place.found for place in found):
        print(f"files: {locate(args.name)}")
    elif info.repo_id:
        print(f"files: not here yet; run: ctnet download {args.name}")
    else:
        print("files: not here, and not on the Hub yet; a clone of the repository has them")
    return 0


def _download(args: argparse.Namespace) -> int:
    from ctnet.zoo.locate import locate
    from ctnet.zoo.manifest import list_models

    if bool(args.names) == args.all:
        raise ValueError("give names of models or --all, not both.")
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
