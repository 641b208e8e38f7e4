"""Photographs of ``ctnet predict``: one after the other, or shared among processes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from ctnet.cli.sources import Source
from ctnet.outputs import check_outputs, made_by_ctnet
from ctnet.prediction.result_files import LAST, result_paths

if TYPE_CHECKING:
    from ctnet.images import RGB
    from ctnet.models.base import CompositeModel
    from ctnet.prediction.predict import Request
    from ctnet.prediction.prediction import Prediction
    from ctnet.video import Frames, VideoWriter

ERRORS = (ValueError, OSError, ModuleNotFoundError, RuntimeError, MemoryError)
"""Errors of a single photograph, which do not end the run."""


@dataclass(frozen=True)
class Job:
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
        """Returns whether to skip a source because its results exist.

        Raises:
            ValueError: If they exist and ``--existing`` is ``fail``.
        """
        if self.args.existing == "fail" and path.exists():
            raise ValueError(f"{path} exists; remove it, or use --existing replace or skip.")
        return self.args.existing == "skip" and path.exists()

    def check(self, paths: Iterable[Path]) -> None:
        """Checks that writing files destroys no input and nothing that ctnet did not make."""
        check_outputs(paths, self.inputs, self.args.overwrite)


@dataclass(frozen=True)
class Outcome:
    """What became of a source.

    Attributes:
        lines: What was written, or what is wrong in one line.
        failed: Whether something is wrong.
    """

    lines: list[str]
    failed: bool = False

    @classmethod
    def of(cls, work: Callable[[], list[str]]) -> Outcome:
        """Does the work on a source, and takes down what is wrong with it."""
        try:
            return cls(work())
        except ERRORS as error:
            return cls([str(error)], failed=True)


def on_photo(job: Job, source: Source, slides: VideoWriter | None = None) -> list[str]:
    """Predicts on a photograph and writes the results.

    Args:
        job: The settings.
        source: The photograph.
        slides: Video that gets the photograph and its overlay side by side, if there is one.

    Returns:
        Lines that say what was written.
    """
    done = job.args.out / f"{source.name}_{LAST[job.args.files]}.png"
    if job.present(done):
        return [f"{source.path}: skipped, {done} exists"]
    targets = result_paths(job.args.out, source.name, job.model.tasks).values()
    job.check(targets)
    earlier = [path for path in targets if made_by_ctnet(path)]
    prediction = job.predict(source.path)
    written = prediction.save(job.args.out, source.name, job.args.files)
    # Of an earlier palette, which asked for more.
    for path in set(earlier) - set(written.values()):
        path.unlink()
    if slides is not None:
        slides.write(prediction.side_by_side())
    files = [f"  {kind:<10} {file}" for kind, file in written.items()]
    return [f"{source.path}: {prediction.palette!r}", *files]


_job: Job
"""The settings of a worker process."""


def predict_in_processes(
    args: argparse.Namespace, inputs: tuple[Path, ...], sources: Sequence[Source], count: int
) -> Iterator[Outcome]:
    """Shares photographs among processes of one thread each.

    Args:
        args: The command line.
        inputs: Files that the run reads.
        sources: The photographs.
        count: Number of processes.

    Yields:
        What became of each photograph, in their order.

    Raises:
        ChildProcessError: If a process is killed.
    """
    with ProcessPoolExecutor(count, get_context("spawn"), _begin, (args, inputs)) as pool:
        try:
            yield from pool.map(_work, sources)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process was killed, perhaps for want of memory; go on with --existing skip and "
                "fewer --processes."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(args: argparse.Namespace, inputs: tuple[Path, ...]) -> None:
    """Loads the network of a process."""
    import signal

    import torch

    from ctnet.models.base import CompositeModel
    from ctnet.video import Frames

    # Ctrl-C reaches all processes; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    global _job
    model = CompositeModel.from_pretrained(args.model)
    _job = Job(args, model, model.resolve_palette(args.palette), Frames(), inputs)


def _work(source: Source) -> Outcome:
    return Outcome.of(lambda: on_photo(_job, source))
