"""The commands on palettes: ``ctnet palette make | edit | show``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctnet import defaults
from ctnet.cli.hub import AddCommand
from ctnet.palette import Palette, Size, read_ids, read_mask
from ctnet.rules import get_rule
from ctnet.tasks import DEFAULT_TASKS

if TYPE_CHECKING:
    from ctnet.images import RGB

SEGMENTER = "ctn-r1"
"""Model whose segmentation becomes a palette: trained on mosaics, it does any task anywhere."""

NOTHING = "none"
"""Name on the command line for asking nothing."""


def add_palette_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], add: AddCommand
) -> None:
    """Adds the commands to a parser.

    Args:
        commands: The parser's commands.
        add: Function (commands, name, summary, example, run) that adds one.
    """
    palette = add(
        commands,
        "palette",
        "make, edit and look at palettes",
        "ctnet palette make mosaic --size 240x320 --out palette.png",
        lambda _: 0,
    )
    actions = palette.add_subparsers(required=True, metavar="ACTION")
    make = add(
        actions,
        "make",
        "make a palette by a rule",
        "ctnet palette make R2 --image photo.jpg --out palette.png",
        _make,
    )
    make.add_argument(
        "rule",
        help="R1, R2, R3, Rrnd, single:TASK or a rule file; with --image also auto: what the "
        "palette network proposes",
    )
    make.add_argument("--size", metavar="HxW", help="height and width of the palette")
    make.add_argument(
        "--labels", type=Path, metavar="PNG", help="class map (VOC class ids) that the rule reads"
    )
    make.add_argument(
        "--image",
        type=Path,
        metavar="PHOTO",
        help="photograph whose segmentation by --model the rule reads",
    )
    _add_model(make, f"network that segments (default: {SEGMENTER}), and whose tasks the ids are")
    make.add_argument(
        "--long-side",
        type=int,
        default=defaults.LONG_SIDE,
        help="working size in pixels (default: %(default)s)",
    )
    make.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    make.add_argument("--seed", type=int, default=0, help="of mosaics and random palettes")
    _add_out(make)

    edit = add(
        actions,
        "edit",
        "paint on a palette, in the order given; the task none asks for nothing",
        "ctnet palette edit palette.png --box normals 10 20 110 90 --mask parts person.png "
        "--replace seg none --out edited.png",
        _edit,
    )
    edit.add_argument("palette", type=Path)
    _add_model(edit, "network whose tasks the ids are (default: the five of the paper)")
    for name, (count, names, what, _) in EDITS.items():
        edit.add_argument(
            f"--{name}", nargs=count, action=_Edit, dest="edits", metavar=names, help=what
        )
    _add_out(edit)

    show = add(
        actions,
        "show",
        "say what a palette asks for, and draw it",
        "ctnet palette show palette.png --image photo.jpg --out preview.png",
        _show,
    )
    show.add_argument("palette", type=Path)
    _add_model(show, "network whose tasks the ids are (default: the five of the paper)")
    show.add_argument("--image", type=Path, metavar="PHOTO", help="draw it over this photograph")
    show.add_argument("--out", type=Path, metavar="PNG", help="picture with a legend")


def _add_model(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--model", help=what)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="the new palette")


class _Edit(argparse.Action):
    """Collects edits of all kinds in one list, in the order given."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        edits = [*(getattr(namespace, self.dest) or []), (option_string, values)]
        setattr(namespace, self.dest, edits)


def _make(args: argparse.Namespace) -> int:
    given = [name for name in ("size", "labels", "image") if getattr(args, name) is not None]
    if len(given) != 1:
        raise ValueError(
            "give one of --size HxW, --labels with a class map and --image with a photograph; got "
            f"{' and '.join(f'--{name}' for name in given) or 'none'}."
        )
    generator = np.random.default_rng(args.seed)
    if args.image is not None:
        palette = _of_photograph(args, generator)
    elif args.rule == "auto":
        raise ValueError("auto looks at a photograph: give --image.")
    else:
        tasks = _tasks(args)
        labels = None if args.labels is None else read_ids(args.labels)
        size = _parse_size(args.size) if labels is None else labels.shape
        palette = get_rule(args.rule, tasks).palette(size, generator, labels, tasks)
    return _write(palette, args.out)


def _of_photograph(args: argparse.Namespace, generator: np.random.Generator) -> Palette:
    """Makes the palette that ``ctnet predict`` would use for a photograph."""
    from ctnet.images import load_image
    from ctnet.models.base import AUTO, CompositeModel, proposer
    from ctnet.models.device import pick_device

    image = load_image(args.image)
    device = pick_device(args.device)
    if args.rule == AUTO:
        if args.model is not None:
            raise ValueError("auto is the palette network's proposal; leave --model out.")
        return proposer(device).predict(image, args.long_side)
    model = None
    if args.model is not None:
        model = CompositeModel.from_pretrained(args.model, device=device)
    tasks = DEFAULT_TASKS if model is None else model.tasks
    rule = get_rule(args.rule, tasks)
    labels = None
    if rule.needs_labels:
        model = model or CompositeModel.from_pretrained(SEGMENTER, device=device)
        if "seg" not in model.tasks:
            raise ValueError(
                f"rule {rule.name} reads a segmentation, which {args.model} does not do (its "
                f"tasks: {', '.join(model.tasks)}); give another --model."
            )
        labels = model.predict(image, "single:seg", args.long_side).labels["seg"]
    return rule.palette(image.shape[:2], generator, labels, tasks)


def _tasks(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the tasks that ids stand for: those of the model that is named, if one is."""
    from ctnet.models.base import CompositeModel

    return DEFAULT_TASKS if args.model is None else CompositeModel.from_pretrained(args.model).tasks


def _parse_size(text: str) -> Size:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size is HEIGHTxWIDTH, such as 240x320; got {text!r}.")
    return int(height), int(width)


def _edit(args: argparse.Namespace) -> int:
    if not args.edits:
        raise ValueError(f"nothing to edit; give {', '.join(f'--{name}' for name in EDITS)}.")
    palette = Palette.load(args.palette, _tasks(args))
    for option, values in args.edits:
        apply = EDITS[option.removeprefix("--")][3]
        try:
            palette = apply(palette, *values)
        except ValueError as error:
            raise ValueError(f"{option} {' '.join(values)}: {error}") from error
    return _write(palette, args.out)


def _task(name: str) -> str | None:
    return None if name == NOTHING else name


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"places are numbers of pixels; got {text!r}.") from None
    if not np.isfinite(number):
        raise ValueError(f"places are finite numbers of pixels; got {text!r}.")
    return number


def _paint_box(palette: Palette, task: str, *corners: str) -> Palette:
    left, top, right, bottom = (round(_number(x)) for x in corners)
    return palette.paint_box((left, top, right, bottom), _task(task))


def _paint_circle(palette: Palette, task: str, x: str, y: str, radius: str) -> Palette:
    return palette.paint_circle((_number(x), _number(y)), _number(radius), _task(task))


def _paint_polygon(palette: Palette, task: str, *corners: str) -> Palette:
    points = []
    for corner in corners:
        x, comma, y = corner.partition(",")
        if not comma:
            raise ValueError(f"a corner is X,Y, such as 10,20; got {corner!r}.")
        points.append((_number(x), _number(y)))
    return palette.paint_polygon(points, _task(task))


def _paint_mask(palette: Palette, task: str, path: str) -> Palette:
    return palette.paint(read_mask(path), _task(task))


def _replace(palette: Palette, old: str, new: str) -> Palette:
    return palette.replace(_task(old), _task(new))


Edit = Callable[..., Palette]
EDITS: dict[str, tuple[int | str, tuple[str, ...], str, Edit]] = {
    "box": (
        5,
        ("TASK", "LEFT", "TOP", "RIGHT", "BOTTOM"),
        "paint a box, right and bottom excluded",
        _paint_box,
    ),
    "circle": (4, ("TASK", "X", "Y", "RADIUS"), "paint a circle", _paint_circle),
    "polygon": ("+", ("TASK", "X,Y"), "paint a polygon of three corners or more", _paint_polygon),
    "mask": (2, ("TASK", "MASK"), "paint where a black-and-white PNG is not 0", _paint_mask),
    "fill": (1, ("TASK",), "ask for a task everywhere", lambda palette, x: palette.fill(_task(x))),
    "replace": (2, ("OLD", "NEW"), "ask for NEW where OLD was asked for", _replace),
}
"""By option: number and names of its values, what it does, and how."""


def _write(palette: Palette, path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save(path)
    print(f"{path}: {palette!r}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from ctnet.images import load_image
    from ctnet.prediction.drawing import draw_palette

    if args.image is not None and args.out is None:
        raise ValueError("--image goes with --out, the picture to write.")
    palette = Palette.load(args.palette, _tasks(args))
    print(f"{args.palette}: {palette.size[0]} x {palette.size[1]} pixels")
    for task, share in palette.shares().items():
        print(f"  {task:<10} {share:6.1%}")
    if args.out is not None:
        image: RGB | None = None if args.image is None else load_image(args.image)
        picture = draw_palette(palette, image)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(args.out)
        print(f"written: {args.out}")
    return 0
