"""The command ``ctnet predict``: photographs and videos in, labels and pictures out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctnet import defaults
from ctnet.cli.commands import Commands, add_device, add_long_side, add_overwrite, whole_number
from ctnet.cli.photographs import Job, Outcome, on_photo, predict_in_processes
from ctnet.cli.predict_ray import FORMATS, predict_on_ray
from ctnet.cli.sources import Source, find_sources, report
from ctnet.outputs import made_by_ctnet
from ctnet.prediction.result_files import FILES

if TYPE_CHECKING:
    from ctnet.video import Frames, VideoWriter

SLIDES = 2.0
"""Default number of photographs per second in a video of photographs."""

MANY = 32
"""Number of photographs from which several processes pay off."""

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
    predict.add_argument("--model", default=defaults.MODEL, help="the model (default: %(default)s)")
    predict.add_argument(
        "--palette",
        default=defaults.PALETTE,
        help="a rule (R1, R2, R3, Rrnd or a .toml/.yaml file), single:TASK, a palette PNG, or "
        "auto, the palette network's proposal; R2 and R3 use the model's own segmentation "
        "(default: %(default)s)",
    )
    predict.add_argument(
        "--out", type=Path, default=Path("out"), help="folder to write to (default: %(default)s/)"
    )
    predict.add_argument(
        "--existing",
        choices=("replace", "skip", "fail"),
        default="replace",
        help="what to do with results that exist already (default: %(default)s)",
    )
    add_overwrite(predict)
    predict.add_argument(
        "--files",
        choices=FILES,
        default="all",
        help="what to write of photographs: labels and palette, pictures, or all (default: "
        "%(default)s)",
    )
    predict.add_argument(
        "--processes",
        type=whole_number,
        metavar="N",
        help="share photographs among N processes of one thread each (default: as many as there "
        f"are processors, from {MANY} photographs on)",
    )
    add_long_side(predict)
    predict.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of mosaics and random palettes, the same for each frame",
    )
    add_device(predict)
    engine = predict.add_argument_group("many machines (extra [ray])")
    engine.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="this machine, or a Ray cluster (default: %(default)s)",
    )
    engine.add_argument("--address", help="of a Ray cluster; without it one is started here")
    engine.add_argument(
        "--format",
        choices=FORMATS,
        default="files",
        help="files in --out with an index, or shards (default: %(default)s)",
    )
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


def _predict(args: argparse.Namespace) -> int:
    from ctnet.models.base import CompositeModel
    from ctnet.models.device import pick_device
    from ctnet.video import Frames

    if args.engine == "ray":
        return predict_on_ray(args)
    if args.address or args.format != "files":
        raise ValueError("--address and --format go with --engine ray.")
    frames = Frames(every=args.every)
    if args.frames is not None:
        frames = Frames.parse(args.frames, args.every)
    sources, failed = find_sources(args, args.sources)
    _check_options(args, frames, sources)
    total = len(sources) + failed
    if sources:
        device = pick_device(args.device)
        model = CompositeModel.from_pretrained(args.model, device=device)
        inputs = (*(source.path for source in sources), Path(args.palette))
        job = Job(args, model, model.resolve_palette(args.palette), frames, inputs)
        processes = _processes(args, sources, device.type)
        failed += _predict_sources(job, sources, processes)
    if failed:
        print(f"ctnet: {failed} of {total} inputs failed", file=sys.stderr)
    return 1 if failed else 0


def _check_options(args: argparse.Namespace, frames: Frames, sources: list[Source]) -> None:
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


def _processes(args: argparse.Namespace, sources: Sequence[Source], device: str) -> int:
    """Chooses the number of processes."""
    alone = device != "cpu" or args.side_by_side is not None or any(x.video for x in sources)
    if alone and (args.processes or 1) > 1:
        raise ValueError("--processes is for photographs on a CPU, without --side-by-side.")
    given: int | None = args.processes
    if given is not None:
        return min(max(1, given), len(sources))
    return 1 if alone or len(sources) < MANY else _processors()


def _processors() -> int:
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _predict_sources(job: Job, sources: list[Source], processes: int) -> int:
    """Predicts on each source, prints what was written, and returns how many failed."""
    from tqdm import tqdm

    failed = 0
    slides = None
    with ExitStack() as stack:
        if job.args.side_by_side is not None and not sources[0].video:
            slides = stack.enter_context(_slides(job))
        bar = stack.enter_context(_bar(len(sources), "file", shown=None if sources[1:] else False))
        if processes > 1:
            outcomes = predict_in_processes(job.args, job.inputs, sources, processes)
        else:
            outcomes = (_outcome(job, source, slides) for source in sources)
        for source, outcome in zip(sources, outcomes, strict=True):
            if outcome.failed:
                report(source.path, outcome.lines[0])
                failed += 1
            else:
                tqdm.write("\n".join(outcome.lines))
            bar.update()
    if slides is not None and slides.count:
        print(f"side by side: {slides.path}")
    return failed


def _outcome(job: Job, source: Source, slides: VideoWriter | None) -> Outcome:
    if source.video:
        return Outcome.of(lambda: _on_video(job, source))
    return Outcome.of(lambda: on_photo(job, source, slides))


@contextmanager
def _slides(job: Job) -> Iterator[VideoWriter]:
    from ctnet.video import VideoWriter

    job.present(job.args.side_by_side)
    job.check([job.args.side_by_side])
    with VideoWriter(job.args.side_by_side, job.args.rate or SLIDES) as writer:
        yield writer


def _on_video(job: Job, source: Source) -> list[str]:
    from ctnet.prediction.result_files import result_paths
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
                    prediction.save(folder, stem, "labels")
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
