"""The command ``ctnet demo``: paint tasks on a photograph in the browser."""

from __future__ import annotations

import argparse
from importlib.util import find_spec

from ctnet import defaults
from ctnet.cli.export import AddCommand

DEFAULT_MODEL = "ctn-r1"
"""Trained on any task anywhere, as a painter asks for them."""

EXTRA = "the demo needs gradio: pip install 'ctnet[demo]' (from a clone: pip install '.[demo]')"


def add_demo_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], add: AddCommand
) -> None:
    """Adds the command to a parser.

    Args:
        commands: The parser's commands.
        add: Function (commands, name, summary, example, run) that adds one.
    """
    demo = add(
        commands,
        "demo",
        "paint tasks on a photograph in the browser (needs the extra [demo])",
        "ctnet demo --model ctn-r1",
        _demo,
    )
    demo.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help="model that the page begins with: a model's name, or local-dir:PATH "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 0.0.0.0 lets other machines in (default: %(default)s, this "
        "machine alone)",
    )
    demo.add_argument("--port", type=int, help="default: the first free one from 7860 on")
    demo.add_argument(
        "--long-side",
        type=int,
        default=defaults.LONG_SIDE,
        help="working size in pixels (default: %(default)s)",
    )
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
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
