"""The command ``ctnet predict``: photographs and videos in, labels and pictures out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctnet import defaults
from ctnet.cli.commands import Commands, add_device, add_long_side, add_overwrite
from ctnet.outputs import check_outputs, made_by_ctnet

if TYPE_CHECKING:
    from ctnet.images import RGB
    from ctnet.models.base import CompositeModel
    from ctnet.prediction.predict import Request
    from ctnet.prediction.prediction import Prediction
    from ctnet.video import Frames, VideoWriter

RESULTS = (".png", ".mp4")
"""Endings of the pictures and videos that the command writes."""

SLIDES = 2.0
"""Default number of photographs per second in a video of photographs."""

LOG_INTERVAL = 10.0
"""Seconds between updates of a progress bar that is not on a terminal."""


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet predict``."""
    predict = commands.add(
        "predict",
        "predict on photographs and videos",
        "ctnet predict photos/ 'more/*.jpg' --palette single:normals --out out/\n"
        "  ctnet predict clip.mp4 --frames 100:400 --side-by-side clip-tasks.mp4",
        _predict,
    )
    predict.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="photographs, videos (extra [video]), folders of them, and quoted patterns such as "
        "'photos/*.jpg'; folders and patterns are read in natural order",
    )
    predict.add_argument("--recursive", action="store_true", help="search subfolders too")
    predict.add_argument("--model", default=defaults.MODEL, help="default: %(default)s")
    predict.add_argument(
        "--palette",
        default=defaults.PALETTE,
        help="a rule (R1, R2, R3, Rrnd or a .toml/.yaml file), single:TASK, a palette PNG, or "
        "auto, the palette network's proposal; R2 and R3 use the model's own segmentation "
        "(default: %(default)s)",
    )
    predict.add_argument("--out", type=Path, default=Path("out"), help="default: %(default)s/")
    predict.add_argument(
        "--existing",
        choices=("replace", "skip", "fail"),
        default="replace",
        help="what to do with results that exist already (default: %(default)s)",
    )
    add_overwrite(predict)
    add_long_side(predict)
    predict.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of mosaics and random palettes, the same for each frame",
    )
    add_device(predict)
    video = predict.add_argument_group("videos (extra [video])")
    video.add_argument(
        "--side-by-side",
        type=Path,
        metavar="FILE.mp4",
        help="video of photograph and overlay side by side, of one video or of all photographs "
        "(default for videos: OUT/NAME_side_by_side.mp4)",
    )
    video.add_argument(
        "--rate", type=float, help=f"photographs per second in such a video (default: {SLIDES:g})"
    )
    video.add_argument("--frames", metavar="A:B", help="only frames A to B-1, counted from 0")
    video.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth frame")
    video.add_argument(
        "--labels",
        action="store_true",
        help="also save palette and labels of each frame to OUT/NAME/",
    )


@dataclass(frozen=True)
class _Source:
    """An input file and the unique stem of its results."""

    path: Path
    name: str
    video: bool


@dataclass(frozen=True)
class _Job:
    """The settings for all sources."""

    args: argparse.Namespace
    model: CompositeModel
    palette: Request
    frames: Frames
    inputs: tuple[Path, ...]

    def predict(self, image: Path | RGB) -> Prediction:
        """Predicts on one image."""
        return self.model.predict(image, self.palette, self.args.long_side, self.args.seed)

    def present(self, path: Path) -> bool:
        """Says whether to skip a source because its results exist.

        Raises:
            ValueError: If they exist and ``--existing`` is ``fail``.
        """
        if self.args.existing == "fail" and path.exists():
            raise ValueError(f"{path} exists; remove it, or use --existing replace or skip.")
        return self.args.existing == "skip" and path.exists()

    def check(self, paths: Iterable[Path]) -> None:
        """Checks that writing files destroys no input and nothing that ctnet did not make."""
        check_outputs(paths, self.inputs, self.args.overwrite)


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
        inputs = (*(source.path for source in sources), Path(args.palette))
        job = _Job(args, model, model.resolve_palette(args.palette), frames, inputs)
        failed += _predict_sources(job, sources)
    if failed:
        print(f"ctnet: {failed} of {total} inputs failed", file=sys.stderr)
    return 1 if failed else 0


def _find(args: argparse.Namespace) -> tuple[list[_Source], int]:
    """Finds the input files; reports and counts arguments without any."""
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
                        f"folder {given} has no files outside --out; choose another --out."
                    )
            if not Path(given).is_file():
                paths = [path for path in paths if not _is_result(path)]
                if not paths:
                    raise ValueError(f"{given}: all files there are results of ctnet.")
        except (ValueError, OSError) as error:
            _report(given, error)
            failed += 1
            continue
        found |= dict.fromkeys(paths)
    return list(_named(found)), failed


def _is_result(path: Path) -> bool:
    return path.suffix.lower() in RESULTS and made_by_ctnet(path)


def _named(paths: Sequence[Path] | dict[Path, None]) -> Iterator[_Source]:
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
        yield _Source(path, name, path.suffix.lower() in SUFFIXES)


def _check_options(args: argparse.Namespace, frames: Frames, sources: list[_Source]) -> None:
    videos = [source for source in sources if source.video]
    photos = len(sources) - len(videos)
    if sources and not videos and (args.frames or frames.every > 1 or args.labels):
        raise ValueError("--frames, --every and --labels are for videos; got only photographs.")
    if args.rate is not None and (args.side_by_side is None or not photos):
        raise ValueError("--rate needs photographs and --side-by-side; videos keep their own rate.")
    if args.side_by_side is None:
        return
    if len(videos) > 1 or (videos and photos):
        raise ValueError(
            f"--side-by-side takes one video, or photographs only; got {len(videos)} videos and "
            f"{photos} photographs. Without it each video gets its own file in --out."
        )
    if any(source.path.resolve() == args.side_by_side.resolve() for source in videos):
        raise ValueError(f"--side-by-side {args.side_by_side} would overwrite the input video.")
    if photos and args.existing == "skip":
        raise ValueError("--existing skip would leave photographs out of the --side-by-side video.")


def _predict_sources(job: _Job, sources: list[_Source]) -> int:
    """Predicts on each source, prints what was written, and returns how many failed."""
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
            except (ValueError, OSError, ModuleNotFoundError, RuntimeError, MemoryError) as error:
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
    job.check([job.args.side_by_side])
    with VideoWriter(job.args.side_by_side, job.args.rate or SLIDES) as writer:
        yield writer


def _on_photo(job: _Job, source: _Source, slides: VideoWriter | None) -> list[str]:
    from ctnet.prediction.prediction import result_paths

    done = job.args.out / f"{source.name}_composite.png"
    if job.present(done):
        return [f"{source.path}: skipped, {done} exists"]
    targets = result_paths(job.args.out, source.name, job.model.tasks).values()
    job.check(targets)
    earlier = [path for path in targets if made_by_ctnet(path)]
    prediction = job.predict(source.path)
    written = prediction.save(job.args.out, source.name)
    # Of an earlier palette, which asked for more.
    for path in set(earlier) - set(written.values()):
        path.unlink()
    if slides is not None:
        slides.write(prediction.side_by_side())
    files = [f"  {kind:<10} {file}" for kind, file in written.items()]
    return [f"{source.path}: {prediction.palette!r}", *files]


def _on_video(job: _Job, source: _Source) -> list[str]:
    from ctnet.prediction.prediction import result_paths
    from ctnet.video import VideoReader, VideoWriter

    target = job.args.side_by_side or job.args.out / f"{source.name}_side_by_side.mp4"
    folder = job.args.out / source.name
    if job.present(target):
        return [f"{source.path}: skipped, {target} exists"]
    job.check([target])
    if job.args.labels:
        _clear_labels(folder)
    with VideoReader(source.path) as reader:
        rate = reader.rate / job.frames.every
        total = job.frames.count(reader.expected)
        with VideoWriter(target, rate) as writer, _bar(total, "frame", source.path.name) as bar:
            for frame in reader.frames(job.frames):
                prediction = job.predict(frame.image)
                writer.write(prediction.side_by_side(), frame.time)
                if job.args.labels:
                    stem = f"{frame.number:06}"
                    job.check(result_paths(folder, stem, job.model.tasks).values())
                    prediction.save_labels(folder, stem)
                bar.update()
    lines = [
        f"{source.path}: {writer.count} frames, {float(rate):.5g} per second",
        f"  {'video':<10} {target}",
    ]
    if job.args.labels:
        lines.append(f"  {'labels':<10} {folder}")
    if reader.problem is not None:
        # Report the frames that could be read; the exit status says that some could not.
        from tqdm import tqdm

        tqdm.write("\n".join(lines))
        raise ValueError(reader.problem)
    return lines


def _clear_labels(folder: Path) -> None:
    """Removes the labels of frames that an earlier run wrote."""
    earlier = [path for path in sorted(folder.glob("*_*")) if made_by_ctnet(path)]
    for path in earlier:
        path.unlink()


def _bar(total: int, unit: str, what: str = "", shown: bool | None = True) -> Any:
    """Makes a progress bar on stderr; with ``shown=None`` only on a terminal."""
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
    """Prints one line to stderr about what is wrong with a source."""
    from tqdm import tqdm

    text = " ".join(str(error).split())
    where = "" if str(source) in text else f"{source}: "
    tqdm.write(f"ctnet: {where}{text}", file=sys.stderr)
