"""The photographs and videos given to a command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctnet.outputs import made_by_ctnet

RESULTS = (".png", ".mp4")
"""File extensions of the pictures and videos that the command writes."""


@dataclass(frozen=True)
class Source:
    """An input file and the unique stem of its results."""

    path: Path
    name: str
    video: bool


def find_sources(args: argparse.Namespace, sources: Sequence[str]) -> tuple[list[Source], int]:
    """Finds the input files; reports and counts arguments without any."""
    from ctnet import images, video

    found: dict[Path, None] = {}
    failed = 0
    out = args.out.resolve()
    for given in sources:
        try:
            paths = images.find_images(given, args.recursive, (*images.SUFFIXES, *video.SUFFIXES))
            if Path(given).is_dir():
                paths = [path for path in paths if out not in path.resolve().parents]
                if not paths:
                    raise ValueError(
                        f"folder {given} has no files outside --out; choose another --out."
                    )
            if not Path(given).is_file():
                paths = [path for path in paths if not _is_result(path)]
                if not paths:
                    raise ValueError(f"{given}: all files there are results of ctnet.")
        except (ValueError, OSError) as error:
            report(given, error)
            failed += 1
            continue
        found |= dict.fromkeys(paths)
    return list(_named(found)), failed


def _is_result(path: Path) -> bool:
    return path.suffix.lower() in RESULTS and made_by_ctnet(path)


def _named(paths: Sequence[Path] | dict[Path, None]) -> Iterator[Source]:
    """Gives each file a unique stem: its own, with a number if that is taken."""
    from ctnet.video import SUFFIXES

    # On some file systems a.png and A.png are the same file.
    taken = set()
    for path in paths:
        name, count = path.stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{path.stem}_{count}"
        taken.add(name.casefold())
        yield Source(path, name, path.suffix.lower() in SUFFIXES)


def report(source: str | Path, error: Exception | str) -> None:
    """Prints one line to stderr about what is wrong with a source."""
    from tqdm import tqdm

    text = " ".join(str(error).split())
    where = "" if str(source) in text else f"{source}: "
    tqdm.write(f"ctnet: {where}{text}", file=sys.stderr)
