"""The command that does the tasks on photographs and videos: ``ctnet predict``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctnet import defaults
from ctnet.cli.hub import AddCommand

if TYPE_CHECKING:
    from ctnet.images import RGB
    from ctnet.models.base import CompositeModel
    from ctnet.prediction.predict import Request
    from ctnet.prediction.prediction import Prediction
    from ctnet.video import Frames, VideoWriter


SLIDES = 2.0
"""Photographs a second in a video of photographs, where no other rate is given."""

LOG_INTERVAL = 10.0
"""Seconds between the lines of a progress bar that goes to a file."""


def add_predict_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], add: AddCommand
) -> None:
    """Adds the command to a parser.

    Args:
        commands: The parser's commands.
        add: Function (commands, name, summary, example, run) that adds one.
    """
    predict = add(
        commands,
        "predict",
        "do the tasks on photographs and videos",
        "ctnet predict photos/ 'more/*.jpg' --palette single:normals --out out/\n"
        "  ctnet predict clip.mp4 --frames 100:400 --side-by-side clip-tasks.mp4",
        _predict,
    )
    predict.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="photographs, videos (extra [video]), folders of them, and quoted patterns such as "
        "'photos/*.jpg'; folders and patterns in natural order",
    )
    predict.add_argument("--recursive", action="store_true", help="search subfolders too")
    predict.add_argument("--model", default=defaults.MODEL, help="default: %(default)s")
    predict.add_argument(
        "--palette",
        default=defaults.PALETTE,
        help="a rule (R1, R2, R3, Rrnd, or a .toml/.yaml file), single:TASK, a palette PNG, or "
        "auto: what the palette network proposes; R2 and R3 read the model's own segmentation "
        "(default: %(default)s)",
    )
    predict.add_argument("--out", type=Path, default=Path("out"), help="default: %(default)s/")
    predict.add_argument(
        "--existing",
        choices=("replace", "skip", "fail"),
        default="replace",
        help="where results of the same name are there already (default: %(default)s)",
    )
    predict.add_argument(
        "--long-side",
        type=int,
        default=defaults.LONG_SIDE,
        help="working size in pixels (default: %(default)s)",
    )
    predict.add_argument(
        "--seed", type=int, default=0, help="of mosaics and random palettes, the same in each frame"
    )
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    video = predict.add_argument_group("videos (extra [video])")
    video.add_argument(
        "--side-by-side",
        type=Path,
        metavar="FILE.mp4",
        help="video of photograph and overlay, of one video or of all photographs, one a frame; "
        "without it each video gets OUT/NAME_side_by_side.mp4",
    )
    video.add_argument(
        "--rate", type=float, help=f"photographs a second in such a video (default: {SLIDES:g})"
    )
    video.add_argument("--frames", metavar="A:B", help="frames A to B-1 alone, counted from 0")
    video.add_argument("--every", type=int, default=1, metavar="N", help="one of N frames")
    video.add_argument(
        "--labels", action="store_true", help="also palette and labels of each frame, OUT/NAME/"
    )


@dataclass(frozen=True)
class _Source:
    """A file to work on, and the stem of its results, which no other source has."""

    path: Path
    name: str
    video: bool


@dataclass(frozen=True)
class _Job:
    """What is done with every source."""

    args: argparse.Namespace
    model: CompositeModel
    palette: Request
    frames: Frames

    def predict(self, image: Path | RGB) -> Prediction:
        """Does the tasks on an image."""
        return self.model.predict(image, self.palette, self.args.long_side, self.args.seed)

    def present(self, path: Path) -> bool:
        """Whether results that are there already stand for new ones.

        Raises:
            ValueError: If they are there, and must not be.
        """
        if self.args.existing == "replace" or not path.exists():
            return False
        if self.args.existing == "fail":
            raise ValueError(f"{path} is there already; remove it, or --existing replace or skip.")
        return True


def _predict(args: argparse.Namespace) -> int:
    from ctnet.models.base import CompositeModel
    from ctnet.models.device import pick_device
    from ctnet.video import Frames

    frames = Frames(every=args.every)
    if args.frames is not None:
        frames = Frames.parse(args.frames, args.every)
    sources, failed = _find(args)
    _check_options(args, frames, sources)
    total = len(sources) + failed
    if sources:
        model = CompositeModel.from_pretrained(args.model, device=pick_device(args.device))
        job = _Job(args, model, model.resolve_palette(args.palette), frames)
        failed += _predict_sources(job, sources)
    if failed:
        print(f"ctnet: {failed} of {total} inputs failed", file=sys.stderr)
    return 1 if failed else 0


def _find(args: argparse.Namespace) -> tuple[list[_Source], int]:
    """Lists the files to work on; says which arguments hold none, and counts these."""
    from ctnet import images, video

    found: dict[Path, None] = {}
    failed = 0
    out = args.out.resolve()
    for given in args.sources:
        try:
            paths = images.find_images(given, args.recursive, (*images.SUFFIXES, *video.SUFFIXES))
            if Path(given).is_dir():
                paths = [path for path in paths if out not in path.resolve().parents]
                if not paths:
                    raise ValueError(
                        f"folder {given} holds nothing but what --out holds; give another --out."
                    )
        except (ValueError, OSError) as error:
            _report(given, error)
            failed += 1
            continue
        found |= dict.fromkeys(paths)
    return list(_named(found)), failed


def _named(paths: Sequence[Path] | dict[Path, None]) -> Iterator[_Source]:
    """Gives each file a stem of its own: its name's, with a number where another has that."""
    from ctnet.video import SUFFIXES

    # Some file systems hold a.png and A.png to be the same.
    taken = set()
    for path in paths:
        name, count = path.stem, 1
        while name.casefold() in taken:
            count += 1
            name = f"{path.stem}_{count}"
        taken.add(name.casefold())
        yield _Source(path, name, path.suffix.lower() in SUFFIXES)


def _check_options(args: argparse.Namespace, frames: Frames, sources: list[_Source]) -> None:
    videos = [source for source in sources if source.video]
    photos = len(sources) - len(videos)
    if sources and not videos and (args.frames or frames.every > 1 or args.labels):
        raise ValueError("--frames, --every and --labels are for videos; none was given.")
    if args.rate is not None and (args.side_by_side is None or not photos):
        raise ValueError("--rate is for photographs with --side-by-side; videos keep their own.")
    if args.side_by_side is None:
        return
    if len(videos) > 1 or (videos and photos):
        raise ValueError(
            f"--side-by-side names one file, for one video or for photographs alone; got "
            f"{len(videos)} videos and {photos} photographs: leave it out, and each video gets a "
            "file in --out."
        )
    if any(source.path.resolve() == args.side_by_side.resolve() for source in videos):
        raise ValueError(f"--side-by-side {args.side_by_side} would replace the video itself.")
    if photos and args.existing == "skip":
        raise ValueError("--existing skip leaves photographs out of a --side-by-side video.")


def _predict_sources(job: _Job, sources: list[_Source]) -> int:
    """Works on each source in turn and says what was written; returns how many failed."""
    from tqdm import tqdm

    failed = 0
    slides = None
    with ExitStack() as stack:
        if job.args.side_by_side is not None and not sources[0].video:
            slides = stack.enter_context(_slides(job))
        bar = stack.enter_context(_bar(len(sources), "file", shown=None if sources[1:] else False))
        for source in sources:
            try:
                lines = _on_video(job, source) if source.video else _on_photo(job, source, slides)
            except (ValueError, OSError, ModuleNotFoundError) as error:
                _report(source.path, error)
                failed += 1
            else:
                tqdm.write("\n".join(lines))
            bar.update()
    if slides is not None and slides.count:
        print(f"side by side: {slides.path}")
    return failed


@contextmanager
def _slides(job: _Job) -> Iterator[VideoWriter]:
    from ctnet.video import VideoWriter

    job.present(job.args.side_by_side)
    with VideoWriter(job.args.side_by_side, job.args.rate or SLIDES) as writer:
        yield writer


def _on_photo(job: _Job, source: _Source, slides: VideoWriter | None) -> list[str]:
    done = job.args.out / f"{source.name}_composite.png"
    if job.present(done):
        return [f"{source.path}: skipped, {done} is there"]
    prediction = job.predict(source.path)
    written = prediction.save(job.args.out, source.name)
    if slides is not None:
        slides.write(prediction.side_by_side())
    files = [f"  {kind:<10} {file}" for kind, file in written.items()]
    return [f"{source.path}: {prediction.palette!r}", *files]


def _on_video(job: _Job, source: _Source) -> list[str]:
    from ctnet.video import VideoReader, VideoWriter

    target = job.args.side_by_side or job.args.out / f"{source.name}_side_by_side.mp4"
    folder = job.args.out / source.name
    if job.present(target):
        return [f"{source.path}: skipped, {target} is there"]
    with VideoReader(source.path) as reader:
        rate = reader.rate / job.frames.every
        total = job.frames.count(reader.expected)
        with VideoWriter(target, rate) as writer, _bar(total, "frame", source.path.name) as bar:
            for frame in reader.frames(job.frames):
                prediction = job.predict(frame.image)
                writer.write(prediction.side_by_side(), frame.time)
                if job.args.labels:
                    prediction.save_labels(folder, f"{frame.number:06}")
                bar.update()
    lines = [
        f"{source.path}: {writer.count} frames, {float(rate):.5g} a second",
        f"  {'video':<10} {target}",
    ]
    if job.args.labels:
        lines.append(f"  {'labels':<10} {folder}")
    if reader.problem is not None:
        # What could be read is written, and said to be; the exit status tells of the rest.
        from tqdm import tqdm

        tqdm.write("\n".join(lines))
        raise ValueError(reader.problem)
    return lines


def _bar(total: int, unit: str, what: str = "", shown: bool | None = True) -> Any:
    """Makes a progress bar on stderr; ``shown`` None: only on a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total or None,
        desc=what or None,
        unit=unit,
        leave=False,
        disable=None if shown is None else not shown,
        mininterval=0.1 if sys.stderr.isatty() else LOG_INTERVAL,
    )


def _report(source: str | Path, error: Exception) -> None:
    """Says in one line of stderr what is wrong with a source."""
    from tqdm import tqdm

    text = " ".join(str(error).split())
    where = "" if str(source) in text else f"{source}: "
    tqdm.write(f"ctnet: {where}{text}", file=sys.stderr)
