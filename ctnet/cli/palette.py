"""The commands on palettes: ``ctnet palette make | edit | show``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctnet.cli.commands import Commands, add_device, add_long_side, add_overwrite, add_seed
from ctnet.outputs import MARK, check_outputs, png_mark
from ctnet.palette import Palette, Size, read_ids, read_mask
from ctnet.rules import get_rule
from ctnet.tasks import DEFAULT_TASKS, NOTHING

if TYPE_CHECKING:
    from ctnet.images import RGB

SEGMENTER = "ctn-r1"
"""Default segmentation model: trained on mosaics, it does any task anywhere."""


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet palette`` with ``make``, ``edit`` and ``show``."""
    palette = commands.add(
        "palette",
        "make, edit and show palettes",
        "ctnet palette make mosaic --size 240x320 --out palette.png",
    )
    actions = Commands(palette, "ACTION")
    actions.group("Actions")
    make = actions.add(
        "make",
        "make a palette from a rule",
        "ctnet palette make R2 --image photo.jpg --out palette.png",
        _make,
    )
    make.add_argument(
        "rule",
        help="R1, R2, R3, Rrnd, single:TASK or a rule file; with --image also auto, the palette "
        "network's proposal",
    )
    make.add_argument("--size", metavar="HxW", help="height and width of the palette")
    make.add_argument(
        "--labels", type=Path, metavar="PNG", help="class map (VOC class ids) for the rule"
    )
    make.add_argument(
        "--image",
        type=Path,
        metavar="PHOTO",
        help="photograph; --model segments it for the rule",
    )
    _add_model(make, f"network that segments and whose task ids are used (default: {SEGMENTER})")
    add_long_side(make)
    add_device(make)
    add_seed(make)
    _add_out(make)

    edit = actions.add(
        "edit",
        "paint on a palette",
        "ctnet palette edit palette.png --box normals 10 20 110 90 --mask parts person.png "
        "--replace seg none --out edited.png",
        _edit,
    )
    edit.add_argument("palette", type=Path, help="palette PNG")
    _add_model(edit, "network whose task ids are used (default: the paper's five tasks)")
    edits = edit.add_argument_group(
        "edits", "applied in the order given; the task none asks for nothing"
    )
    for name, (count, names, what, _) in EDITS.items():
        edits.add_argument(
            f"--{name}", nargs=count, action=_Edit, dest="edits", metavar=names, help=what
        )
    _add_out(edit)

    show = actions.add(
        "show",
        "print a palette's tasks and draw it",
        "ctnet palette show palette.png --image photo.jpg --out preview.png",
        _show,
    )
    show.add_argument("palette", type=Path, help="palette PNG")
    _add_model(show, "network whose task ids are used (default: the paper's five tasks)")
    show.add_argument("--image", type=Path, metavar="PHOTO", help="draw it over this photograph")
    show.add_argument("--out", type=Path, metavar="PNG", help="picture with a legend")
    add_overwrite(show)


def _add_model(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--model", help=what)


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="PNG", help="palette to write")
    add_overwrite(parser)


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
            "give exactly one of --size HxW, --labels CLASS_MAP and --image PHOTO; got "
            f"{' and '.join(f'--{name}' for name in given) or 'neither'}."
        )
    generator = np.random.default_rng(args.seed)
    if args.image is not None:
        palette = _of_photograph(args, generator)
    elif args.rule == "auto":
        raise ValueError("the rule auto needs a photograph: give --image.")
    else:
        tasks = _tasks(args)
        labels = None if args.labels is None else read_ids(args.labels)
        size = _parse_size(args.size) if labels is None else labels.shape
        palette = get_rule(args.rule, tasks).palette(size, generator, labels, tasks)
    return _write(palette, args, args.labels, args.image)


def _of_photograph(args: argparse.Namespace, generator: np.random.Generator) -> Palette:
    """Makes the palette that ``ctnet predict`` would use for a photograph."""
    from ctnet.images import load_image
    from ctnet.models.base import AUTO, CompositeModel, proposer
    from ctnet.models.device import pick_device

    image = load_image(args.image)
    device = pick_device(args.device)
    if args.rule == AUTO:
        if args.model is not None:
            raise ValueError("the rule auto uses the palette network; remove --model.")
        return proposer(device).predict(image, args.long_side)
    model = None
    if args.model is not None:
        model = CompositeModel.from_pretrained(args.model, device=device)
    tasks = DEFAULT_TASKS if model is None else model.tasks
    rule = get_rule(args.rule, tasks)
    labels = None
    if rule.needs_labels:
        model = model or CompositeModel.from_pretrained(SEGMENTER, device=device)
        if rule.reads not in model.tasks:
            raise ValueError(
                f"rule {rule.name} reads the class map of {rule.reads}, but the tasks of "
                f"{args.model} are {', '.join(model.tasks)}; give another --model."
            )
        labels = model.predict(image, f"single:{rule.reads}", args.long_side).labels[rule.reads]
    return rule.palette(image.shape[:2], generator, labels, tasks)


def _tasks(args: argparse.Namespace) -> tuple[str, ...]:
    """Returns the tasks of the ids: those of ``--model``, if given."""
    from ctnet.models.base import CompositeModel

    return DEFAULT_TASKS if args.model is None else CompositeModel.from_pretrained(args.model).tasks


def _parse_size(text: str) -> Size:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise ValueError(f"--size must be HEIGHTxWIDTH, such as 240x320; got {text!r}.")
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
    masks = [values[1] for option, values in args.edits if option == "--mask"]
    # Editing a file in place needs --overwrite, as any other loss does.
    return _write(palette, args, *masks, None if args.overwrite else args.palette)


def _task(name: str) -> str | None:
    return None if name == NOTHING else name


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"coordinates must be numbers of pixels; got {text!r}.") from None
    if not np.isfinite(number):
        raise ValueError(f"coordinates must be finite; got {text!r}.")
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
            raise ValueError(f"a corner must be X,Y, such as 10,20; got {corner!r}.")
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
    "polygon": (
        "+",
        ("TASK", "X,Y"),
        "paint a polygon with at least three corners",
        _paint_polygon,
    ),
    "mask": (2, ("TASK", "MASK"), "paint where a black-and-white PNG is not 0", _paint_mask),
    "fill": (
        1,
        ("TASK",),
        "ask for one task everywhere",
        lambda palette, x: palette.fill(_task(x)),
    ),
    "replace": (2, ("OLD", "NEW"), "ask for NEW where OLD was asked for", _replace),
}
"""By option: number and names of its values, help text, and the edit."""


def _write(palette: Palette, args: argparse.Namespace, *inputs: str | Path | None) -> int:
    path: Path = args.out
    check_outputs([path], filter(None, inputs), args.overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save(path)
    print(f"{path}: {palette!r}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from ctnet.images import load_image
    from ctnet.prediction.drawing import draw_palette

    if args.image is not None and args.out is None:
        raise ValueError("--image needs --out, the picture to write.")
    palette = Palette.load(args.palette, _tasks(args))
    print(f"{args.palette}: {palette.size[0]} x {palette.size[1]} pixels")
    for task, share in palette.shares().items():
        print(f"  {task:<10} {share:6.1%}")
    if args.out is not None:
        inputs = [path for path in (args.palette, args.image) if path is not None]
        check_outputs([args.out], inputs, args.overwrite)
        image: RGB | None = None if args.image is None else load_image(args.image)
        picture = draw_palette(palette, image)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        picture.save(args.out, pnginfo=png_mark(), comment=MARK)
        print(f"written: {args.out}")
    return 0
