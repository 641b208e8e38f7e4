"""Serves the page: on loopback by default, without telemetry, with limits on every request."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from ctnet import defaults
from ctnet.demo.app import build, find_examples, page_file
from ctnet.demo.files import Limits
from ctnet.demo.guard import BodyLimit
from ctnet.demo.handlers import Handlers
from ctnet.demo.models import Models
from ctnet.models.device import pick_device

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
SYSTEM_MONOSPACE = ("ui-monospace", "Consolas", "DejaVu Sans Mono", "monospace")

LOOPBACK = "127.0.0.1"

FIRST_PORT, PORTS = 7860, 100
"""Ports that gradio tries, in turn."""

ENVELOPE = 2**20
"""Bytes that a request may have in addition to its file."""


@dataclass(frozen=True, eq=False)
class Server:
    """A running demo.

    Attributes:
        url: Where it is.
        handlers: What its events do.
        blocks: gradio's page.
    """

    url: str
    handlers: Handlers
    blocks: gr.Blocks

    def wait(self) -> None:
        """Blocks until the process is interrupted."""
        self.blocks.block_thread()

    def close(self) -> None:
        """Stops serving."""
        self.blocks.close(verbose=False)


def serve(
    model: str = "ctn-r1",
    host: str = LOOPBACK,
    port: int | None = None,
    device: str = "auto",
    long_side: int = defaults.LONG_SIDE,
    browser: bool = False,
    limits: Limits | None = None,
    examples: dict[str, Path] | None = None,
) -> Server:
    """Starts the demo in threads of its own.

    Args:
        model: Model that pages begin with.
        host: Address to listen on; others than loopback are reached from other machines.
        port: Port, None for the first free one from 7860 on.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        long_side: Longest side in pixels at which networks see a photograph.
        browser: Open the page in the browser of this machine.
        limits: What is taken and kept at most.
        examples: Photographs by name, those of the checkout where None.

    Raises:
        ValueError: If the model is unknown, or the long side too small.
        OSError: If the port is taken.
    """
    _require_free(host, port)
    limits = limits or Limits()
    found = find_examples() if examples is None else examples
    handlers = Handlers(Models(model, pick_device(device)), found, limits, long_side)
    blocks = build(handlers)
    blocks.queue(max_size=limits.waiting, api_open=False)
    _, url, _ = blocks.launch(
        server_name=host,
        server_port=port,
        inbrowser=browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        max_file_size=limits.file_bytes,
        app_kwargs={"middleware": [Middleware(BodyLimit, most=limits.file_bytes + ENVELOPE)]},
        state_session_capacity=4 * limits.pages,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        theme=_theme(),
        css=page_file("page.css"),
    )
    return Server(url, handlers, blocks)


def _require_free(host: str, port: int | None) -> None:
    """Replaces gradio's messages by ours.

    Raises:
        OSError: If the port is taken, or no port from 7860 on is free.
    """
    for number in [port] if port is not None else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as error:
                reason = error
            else:
                return
    if port is None:
        raise OSError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free on {host}.")
    raise OSError(
        f"port {port} of {host} cannot be used ({reason.strerror}); give another --port, or none "
        "for the first free one."
    )


def _theme() -> Any:
    # Fonts that are there already: nothing is fetched.
    return gr.themes.Soft(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.slate,
        font=[gr.themes.Font(name) for name in SYSTEM_FONTS],
        font_mono=[gr.themes.Font(name) for name in SYSTEM_MONOSPACE],
    ).set(
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_padding="0",
        block_title_text_color="*body_text_color_subdued",
        block_title_text_color_dark="*body_text_color_subdued",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_shadow="none",
        checkbox_label_shadow="none",
        # White text on them has a contrast of 6.3.
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_hover_dark="*primary_700",
        checkbox_label_background_fill_selected="*primary_600",
        checkbox_label_background_fill_selected_dark="*primary_600",
    )
