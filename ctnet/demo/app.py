"""The page: gradio's components, and which event calls what."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ctnet.demo.handlers import NO_OTHER, Choices, Handlers
from ctnet.demo.models import describe
from ctnet.demo.studio import AUTO, STARTS
from ctnet.demo.views import COMPOSITE, data_uri, views
from ctnet.tasks import get_task

PAGE = Path(__file__).with_name("page")

PAINTER = ("palette.js", "keep.js", "painter.js", "drawing.js", "keyboard.js", "sources.js")
"""The painter's script, in parts."""

LANE = {"concurrency_id": "network", "concurrency_limit": 1}
"""Events that use a network run one at a time, for all pages: each takes all cores."""

THUMBNAIL = 128
"""Side in pixels of the picture of an example."""

FILES_KEPT = (600, 3600)
"""Seconds between cleanups of uploaded and generated files, and the age of those deleted."""

SAVE = """(file) => {
  const link = document.createElement("a");
  link.href = file.url;
  link.download = file.orig_name;
  link.click();
}"""

_log = logging.getLogger(__name__)


@cache
def page_file(name: str) -> str:
    """Reads a file of the page."""
    return (PAGE / name).read_text("utf-8")


@contextmanager
def _in_words() -> Iterator[None]:
    """Shows what goes wrong as text on the page; what nobody foresaw goes to the log too."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _log.info("refused: %s", error)
        raise _notice(str(error)) from error
    except Exception as error:
        _log.exception("the demo failed")
        raise _notice("something went wrong here; the server's log says what.") from error


def _notice(text: str) -> gr.Error:
    # gradio shows it as HTML, and names of files come from outside.
    return gr.Error(html.escape(text, quote=False), duration=12, print_exception=False)


def build(handlers: Handlers) -> gr.Blocks:
    """Builds the page.

    Args:
        handlers: What its events do.
    """
    blocks = gr.Blocks(title="ctnet: paint tasks", analytics_enabled=False, delete_cache=FILES_KEPT)
    with blocks:
        with gr.Row(elem_id="sources", equal_height=False):
            gr.HTML(
                page_file("header.html"), apply_default_css=False, elem_id="header", js_on_load=None
            )
            photograph = gr.UploadButton(
                "Photograph …", elem_id="photograph", variant="primary", size="md", min_width=150,
                type="filepath", scale=0,
            )  # fmt: skip
            examples = _examples(handlers)
        with gr.Row(elem_id="choices", equal_height=True):
            names = list(handlers.models.names)
            described = [(describe(name), name) for name in names]
            model = gr.Dropdown(
                described, value=names[0], label="Model", elem_id="model", min_width=140
            )
            other = gr.Dropdown(
                [(NO_OTHER, NO_OTHER), *described],
                value=NO_OTHER, label="Compare with", elem_id="other", min_width=140,
            )  # fmt: skip
            start = gr.Dropdown(
                [(entry.title, entry.name) for entry in STARTS],
                value=AUTO, label="Palette to start from", elem_id="start", min_width=220, scale=2,
            )  # fmt: skip
            restart = gr.Button("Again", elem_id="restart", size="md", min_width=90, scale=0)
        with gr.Row(elem_id="work", equal_height=False):
            with gr.Column(min_width=320, elem_classes="card"):
                gr.HTML(
                    "<h2>What to do where</h2>",
                    apply_default_css=False,
                    js_on_load=None,
                    elem_classes="heading",
                )
                painter = gr.HTML(
                    html_template=page_file("painter.html"),
                    css_template=page_file("painter.css"),
                    js_on_load="".join(map(page_file, PAINTER)),
                    apply_default_css=False,
                    elem_id="painter",
                )
            with gr.Column(min_width=320, elem_classes="card"):
                reading = gr.HTML(
                    html_template=page_file("reading.html"),
                    css_template=page_file("reading.css"),
                    js_on_load=page_file("reading.js"),
                    apply_default_css=False,
                    elem_id="reading",
                    elem_classes="heading",
                )
                tasks = handlers.models.get(names[0]).tasks
                view = gr.Radio(
                    [(_title(entry), entry) for entry in views(tasks)],
                    value=COMPOSITE, show_label=False, container=False, elem_id="view",
                )  # fmt: skip
                shown = gr.HTML(
                    html_template=page_file("views.html"),
                    css_template=page_file("views.css"),
                    js_on_load=page_file("views.js"),
                    apply_default_css=False,
                    elem_id="views",
                )
        with gr.Row(elem_id="files"):
            save_palette = gr.Button("Save palette", elem_id="save-palette", size="sm")
            load_palette = gr.UploadButton(
                "Load palette …", elem_id="load-palette", size="sm", type="filepath"
            )
            save_picture = gr.Button("Save picture", elem_id="save-picture", size="sm")
            save_labels = gr.Button("Save labels", elem_id="save-labels", size="sm")
        courier = gr.File(visible="hidden", elem_id="courier")

        chosen = [model, other, view, start]

        def on(
            trigger: Callable[..., Any], run: Callable[..., Any], source: list[Any],
            outputs: list[Any], mode: str = "once", progress: str = "minimal",
        ) -> Any:  # fmt: skip
            return trigger(
                run, [*source, *chosen], outputs, trigger_mode=mode, show_progress=progress,
                api_visibility="undocumented", **LANE,
            )  # fmt: skip

        def open_photo(request: gr.Request, path: str | None, *choices: str) -> Any:
            with _in_words():
                if not path:
                    raise ValueError("no photograph has arrived; choose one.")
                return handlers.open(request.session_hash, path, Choices(*choices))

        def open_example(request: gr.Request, message: Any, *choices: str) -> Any:
            with _in_words():
                name = message.get("name") if isinstance(message, dict) else None
                return handlers.open_example(request.session_hash, str(name), Choices(*choices))

        def edit(request: gr.Request, message: Any, *choices: str) -> Any:
            with _in_words():
                found = handlers.edit(request.session_hash, message, Choices(*choices))
                return gr.skip() if found is None else found

        def point(request: gr.Request, message: Any, *choices: str) -> Any:
            with _in_words():
                return handlers.point(request.session_hash, message, Choices(*choices))

        def begin(request: gr.Request, *choices: str) -> Any:
            with _in_words():
                return handlers.start(request.session_hash, Choices(*choices))

        def pick(request: gr.Request, *choices: str) -> Any:
            if not handlers.studios.has(request.session_hash):
                return gr.skip(), gr.skip()
            return begin(request, *choices)

        def choose(request: gr.Request, *choices: str) -> Any:
            with _in_words():
                if not handlers.studios.has(request.session_hash):
                    return gr.skip(), gr.skip()
                new, answers = handlers.choose(request.session_hash, Choices(*choices))
                return gr.skip() if new is None else new, answers

        def take_palette(request: gr.Request, path: str | None, *choices: str) -> Any:
            with _in_words():
                if not path:
                    raise ValueError("no palette has arrived; choose a PNG file.")
                return handlers.upload_palette(request.session_hash, path, Choices(*choices))

        def saver(what: str) -> Callable[..., Any]:
            def save(request: gr.Request, *choices: str) -> Any:
                with _in_words():
                    return str(handlers.download(request.session_hash, what, Choices(*choices)))

            return save

        def leave(request: gr.Request) -> None:
            handlers.studios.drop(request.session_hash)

        both = [painter, shown]
        on(photograph.upload, open_photo, [photograph], both, "always_last")
        on(examples.example, open_example, [examples], both, "always_last")
        on(painter.edit, edit, [painter], [shown], "always_last", "hidden")
        # Reading what is known uses no network, and does not wait for one.
        reading.point(
            point, [reading, *chosen], [reading], trigger_mode="always_last", queue=False,
            show_progress="hidden", api_visibility="undocumented",
        )  # fmt: skip
        on(restart.click, begin, [], both, "always_last")
        on(start.input, pick, [], both, "always_last")
        on(load_palette.upload, take_palette, [load_palette], both, "always_last")
        for choice in (model, other, view):
            on(choice.input, choose, [], both, "always_last", "hidden")
        for button, what in (
            (save_palette, "palette"), (save_labels, "labels"), (save_picture, "picture"),
        ):  # fmt: skip
            on(button.click, saver(what), [], [courier]).success(None, courier, None, js=SAVE)
        blocks.unload(leave)
    return blocks


def _title(view: str) -> str:
    return view.capitalize() if view in views(()) else get_task(view).title


def _examples(handlers: Handlers) -> Any:
    """Creates the row of examples; it is empty where there are none."""
    parts = []
    for name, path in handlers.examples.items():
        with Image.open(path) as image:
            small = image.convert("RGB")
            small.thumbnail((2 * THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        label = html.escape(name, quote=True)
        parts.append(
            f'<button type="button" data-name="{label}" title="Take the example {label}">'
            f'<img src="{data_uri(small, "JPEG")}" alt="{label}"></button>'
        )
    lead = "or an example:" if parts else ""
    return gr.HTML(
        html_template=f"<span>{lead}</span>{''.join(parts)}",
        css_template=page_file("examples.css"),
        js_on_load=page_file("examples.js"),
        apply_default_css=False,
        elem_id="examples",
    )


def find_examples() -> dict[str, Path]:
    """Finds the example photographs, by name: those of the checkout or those installed."""
    checkout = Path(__file__).parents[2] / "examples"
    paths = list(checkout.glob("*.jpg")) or _installed_examples()
    return {path.stem: path for path in sorted(paths)}


def _installed_examples() -> list[Path]:
    try:
        files = metadata.files("ctnet") or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(file.locate())) for file in files if file.match("share/ctnet/examples/*.jpg")]
