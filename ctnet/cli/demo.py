"""The command ``ctnet demo``: paint tasks on a photograph in the browser."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from ctnet.cli.commands import Commands, add_device, add_long_side

DEFAULT_MODEL = "ctn-r1"
"""Default model of the demo: trained to do any task anywhere, which suits painting."""

EXTRA = "the demo needs gradio: pip install 'ctnet[demo]' (from a clone: pip install '.[demo]')"


def add_commands(commands: Commands) -> None:
    """Adds ``ctnet demo``."""
    demo = commands.add(
        "demo",
        "paint tasks on a photograph in the browser (needs the extra [demo])",
        "ctnet demo --model ctn-r1",
        _demo,
    )
    demo.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="model selected at the start: its name, or local-dir:PATH (default: %(default)s)",
    )
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines connect (default: %(default)s, "
        "this machine only)",
    )
    demo.add_argument(
        "--port", type=int, help="port to listen on (default: the first free one from 7860 on)"
    )
    add_long_side(demo)
    add_device(demo)
    demo.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")


def _demo(args: argparse.Namespace) -> int:
    if find_spec("gradio") is None:
        raise ModuleNotFoundError(EXTRA)
    from ctnet.demo.server import serve

    server = serve(
        args.model, args.host, args.port, args.device, args.long_side, browser=not args.no_browser
    )
    print(f"the demo is at {server.url} (stop it with Ctrl+C)", flush=True)
    try:
        server.wait()
    finally:
        server.close()
    return 0
