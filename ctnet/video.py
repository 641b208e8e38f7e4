"""Videos as streams of frames, read and written in constant memory (needs the extra ``[video]``).

A side-by-side video in five lines::

    with VideoReader("clip.mp4") as reader, VideoWriter("out.mp4", reader.rate) as writer:
        for frame in reader.frames():
            prediction = model.predict(frame.image, "R2")
            writer.write(prediction.side_by_side(), frame.time)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from PIL import Image, ImageOps

from ctnet.images import RGB, ImageLike, load_image
from ctnet.outputs import MARK

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

SUFFIXES = (
    ".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts",
    ".ogv", ".ts", ".webm", ".wmv",
)  # fmt: skip
"""File extensions of videos."""

ENCODERS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("libx264", (("crf", "18"), ("preset", "veryfast"))),
    ("mpeg4", (("flags", "+qscale"), ("global_quality", "236"))),
)
"""Video encoders with their options, in order of preference."""

GUESSED_RATE = Fraction(25)
"""Frames per second of a video that does not say."""

CUT_OFF = 0.05
"""Share of a video's length that may be missing at its end before it counts as cut off."""

FINEST = 65535
"""Largest denominator of a time base; MPEG-4 knows no larger one."""

MAX_RATE = 1000
"""Largest number of frames per second of a written video."""

MAX_SIDE = 4096
"""Longest side in pixels of a written video; players show no larger one."""

BT709 = 1


def _library() -> Any:
    try:
        return importlib.import_module("av")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "videos need PyAV, which comes with the extra [video]: pip install av"
        ) from error


@dataclass(frozen=True)
class Frames:
    """Which frames of a video are taken.

    Attributes:
        start: Number of the first one, from 0.
        stop: Number of the first one that is not taken any more; None: to the end.
        every: Take one of so many.

    Raises:
        ValueError: If a number is negative, none is taken, or ``every`` is below 1.
    """

    start: int = 0
    stop: int | None = None
    every: int = 1

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise ValueError(
                f"frames are counted from 0, and the end, which is left out, is beyond the start; "
                f"got {self.start} to {self.stop}."
            )
        if self.every < 1:
            raise ValueError(f"one of 1 or more frames is taken; got one of {self.every}.")

    @classmethod
    def parse(cls, text: str, every: int = 1) -> Frames:
        """Reads ``A:B``, where either number may be left out.

        Raises:
            ValueError: If it is something else.
        """
        start, colon, stop = text.partition(":")
        if not colon or not all(x.isdecimal() or not x for x in (start, stop)):
            raise ValueError(
                f"frames are A:B, numbers from 0 of which either may be left out and B is not "
                f"taken, such as 100:250 or 100:; got {text!r}."
            )
        return cls(int(start or 0), int(stop) if stop else None, every)

    def __contains__(self, number: int) -> bool:
        inside = number >= self.start and (self.stop is None or number < self.stop)
        return inside and (number - self.start) % self.every == 0

    def count(self, total: int) -> int:
        """Returns how many are taken of a video of ``total`` frames."""
        return len(range(total)[self.start : self.stop : self.every])


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a video.

    Attributes:
        image: RGB (H,W,3) uint8, upright, its pixels square.
        number: Its number in the video, from 0.
        time: Seconds since the first frame that was taken; None where the file does not say.
    """

    image: RGB
    number: int
    time: Fraction | None


class VideoReader:
    """Reads the frames of a video file one by one, in the order in which they are shown.

    Args:
        path: File of any format that FFmpeg reads. Of several video streams the best is read;
            sound is not.

    Attributes:
        path: As given.
        rate: Frames a second, their mean where the rate varies.
        expected: Number of frames that the file promises, 0 where it does not say.
        problem: After :meth:`frames` came to the end: what could not be read, None if all could.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is a folder, empty, no video that can be read, or has no video stream.
        ModuleNotFoundError: If PyAV is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        self._av = _library()
        if self.path.is_dir():
            raise ValueError(f"{path} is a folder; name a video in it.")
        if not self.path.exists():
            raise FileNotFoundError(f"no video at {path}; check the path.")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{path} is an empty file; get the video again.")
        try:
            # A playlist could make the library fetch other files from anywhere.
            self._container = self._av.open(str(path), options={"protocol_whitelist": "file"})
        except (self._av.FFmpegError, OSError) as error:
            raise ValueError(
                f"{path} is no video that can be read, or is damaged ({_reason(error)}); "
                "get it again, or save it as MP4 (H.264)."
            ) from error
        stream = self._container.streams.best("video")
        if stream is None:
            kinds = sorted({other.type for other in self._container.streams})
            self._container.close()
            raise ValueError(
                f"{path} has no video stream (it holds: {', '.join(kinds) or 'nothing'})."
            )
        self._stream: VideoStream = stream
        self.rate = stream.average_rate or stream.guessed_rate or GUESSED_RATE
        self.expected = stream.frames or round(self._length() * self.rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self, chosen: Frames | None = None) -> Iterator[Frame]:
        """Reads the frames once, going on after what is damaged; see :attr:`problem`.

        Args:
            chosen: Which ones to take, all where None.

        Raises:
            ValueError: At the end, if no frame could be taken.
        """
        chosen = chosen or Frames()
        number, damaged = -1, 0
        first: Fraction | None = None
        end: Fraction | None = None
        for decoded in self._decoded():
            if decoded is None:
                damaged += 1
                continue
            number += 1
            time = None
            if decoded.pts is not None:
                base = decoded.time_base or self._base
                time = decoded.pts * base
                end = time + (decoded.duration * base or 1 / self.rate)
            if number in chosen:
                first = time if first is None else first
                since = None if time is None or first is None else time - first
                yield Frame(_upright(self._square(decoded)), number, since)
            if number + 1 == chosen.stop:
                break
        else:
            self._check_end(number + 1, damaged, end, chosen)
        if damaged:
            self.problem = (
                f"{self.path} is damaged: {damaged} of its packets could not be read; what was "
                f"made holds what could"
            )

    def _square(self, frame: VideoFrame) -> VideoFrame:
        """Scales a frame up along one side so that its pixels are square."""
        shape = self._stream.sample_aspect_ratio or Fraction(1)
        if shape in (0, 1):
            return frame
        wide, high = max(shape, Fraction(1)), min(shape, Fraction(1))
        return frame.reformat(width=round(frame.width * wide), height=round(frame.height / high))

    def _check_end(self, count: int, damaged: int, end: Fraction | None, chosen: Frames) -> None:
        if not count:
            raise ValueError(
                f"{self.path} holds no frame that can be read"
                f"{', it is damaged or cut off' if damaged or self.expected else ''}; get it again."
            )
        if count <= chosen.start:
            raise ValueError(f"{self.path} has {count} frames, the first wanted is {chosen.start}.")
        length = self._length()
        start = (self._stream.start_time or 0) * self._base
        if end is not None and length - (end - start) > max(3 / self.rate, length * CUT_OFF):
            self.problem = (
                f"{self.path} is cut off: it ends after {float(end - start):.1f} of "
                f"{float(length):.1f} seconds; what was made ends there"
            )

    @property
    def _base(self) -> Fraction:
        return self._stream.time_base or Fraction(1)

    def _length(self) -> Fraction:
        """Returns the seconds that the file promises, 0 where it does not say for sure."""
        if self._stream.duration is not None:
            return self._stream.duration * self._base
        # Of several streams another may be the longest.
        if self._container.duration is None or len(self._container.streams) > 1:
            return Fraction(0)
        return Fraction(self._container.duration, self._av.time_base)

    def _decoded(self) -> Iterator[VideoFrame | None]:
        """Decodes frame by frame; None for a packet that cannot be read."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (self._av.FFmpegError, OSError):
                yield None
                return
            try:
                yield from packet.decode()
            except self._av.FFmpegError:
                yield None


class VideoWriter:
    """Writes pictures to an MP4 file: H.264 where the library has it, else MPEG-4; no sound.

    The file appears under its name when all is written; an error leaves what was there before.

    Args:
        path: Name ending in ``.mp4``; its folder is made if missing.
        rate: Pictures a second.

    Attributes:
        path: As given.
        rate: As given.
        count: Pictures written so far.

    Raises:
        ValueError: If the name ends otherwise, or the rate is out of range.
        ModuleNotFoundError: If PyAV is missing.
    """

    def __init__(self, path: str | Path, rate: Fraction | float) -> None:
        self.path = Path(path)
        if not 0 < rate <= MAX_RATE:  # NaN is in no range.
            raise ValueError(f"a video has 0 to {MAX_RATE} frames a second, not 0; got {rate}.")
        self.rate = Fraction(rate)
        self.count = 0
        self._av = _library()
        if self.path.suffix.lower() != ".mp4":
            raise ValueError(f"videos are written as .mp4; got {path}.")
        self._part = self.path.with_name(f".{self.path.name}.part")
        self._base = _time_base(self.rate)
        self._step = max(1, round(1 / (self.rate * self._base)))
        self._tick: int | None = None
        self._size: tuple[int, int] | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._container is None or self._stream is None:
            return
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None:
                self._part.replace(self.path)
        except self._av.FFmpegError as error:
            if kind is None:
                raise ValueError(f"{self.path} cannot be written ({_reason(error)}).") from error
        finally:
            self._part.unlink(missing_ok=True)

    def write(self, picture: ImageLike, time: Fraction | float | None = None) -> None:
        """Adds a picture.

        Args:
            picture: What :func:`ctnet.images.load_image` takes. The first sets the size of the
                video, at most :data:`MAX_SIDE` pixels a side (an odd height or width gets a black
                line more: H.264 knows only even ones); others are scaled to fit, on black.
            time: Seconds from the start at which it is shown, kept to a tenth of a millisecond;
                a frame of ``rate`` after the one before where None.

        Raises:
            ValueError: If the picture cannot be read, or the file not be written.
        """
        pixels = load_image(picture)
        if self._size is None:
            height, width = pixels.shape[:2]
            scale = min(1, MAX_SIDE / max(height, width))
            self._size = max(1, round(width * scale)), max(1, round(height * scale))
        if pixels.shape[1::-1] != self._size:
            pixels = np.array(ImageOps.pad(Image.fromarray(pixels), self._size))
        pixels = np.pad(pixels, [(0, pixels.shape[0] % 2), (0, pixels.shape[1] % 2), (0, 0)])
        if time is not None:
            at = round(time / self._base)
        else:
            at = 0 if self._tick is None else self._tick + self._step
        self._tick = at if self._tick is None else max(self._tick + 1, at)
        try:
            self._mux(pixels)
        except (self._av.FFmpegError, OSError) as error:
            raise ValueError(f"{self.path} cannot be written ({_reason(error)}).") from error
        self.count += 1

    def _mux(self, pixels: RGB) -> None:
        if self._container is None or self._stream is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # The index first, so that players can start before they have the whole file.
            self._container = self._av.open(
                str(self._part), "w", format="mp4", options={"movflags": "+faststart"}
            )
            self._container.metadata["comment"] = MARK
            self._stream = self._started(self._container, pixels)
        frame = self._av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
        )
        frame.pts, frame.time_base = self._tick, self._base
        self._container.mux(self._stream.encode(frame))

    def _started(self, container: OutputContainer, pixels: RGB) -> VideoStream:
        name, options = next(entry for entry in ENCODERS if entry[0] in self._av.codecs_available)
        rate = self.rate.limit_denominator(FINEST)
        stream = cast("VideoStream", container.add_stream(name, rate, options=dict(options)))
        stream.height, stream.width = pixels.shape[:2]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = self._base
        # Named, or players guess the colors from the size.
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = 1
        return stream


def _time_base(rate: Fraction) -> Fraction:
    """Returns the unit of times: as fine as may be, a whole part of a frame where that is possible.

    Frames of a variable rate keep their times, those of a constant one are evenly spaced.
    """
    parts = FINEST // rate.numerator
    return Fraction(1, parts * rate.numerator if parts else FINEST)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _upright(frame: VideoFrame) -> RGB:
    """Turns a frame as its display matrix says, to the nearest quarter turn, mirrored or not."""
    pixels = cast(RGB, frame.to_ndarray(format="rgb24"))
    matrix = cast(Mapping[str, Any], frame.side_data).get("DISPLAYMATRIX")
    if matrix is None:
        return pixels
    # A point (x, y) comes to (a x + c y, b x + d y).
    a, b, _, c, d = (int(x) for x in np.frombuffer(matrix, np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels = pixels.transpose(1, 0, 2)
        a, d = c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
