"""Notebooks: executed, with light outputs, and as pages of the site."""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image
from traitlets.config import Config

FOLDER = Path("examples/notebooks")
"""Where the notebooks are in the repository."""

WIDTH = 720
"""Widest picture of an output, in pixels."""

QUALITY = 78
"""JPEG quality of the pictures."""

TIMEOUT = 300
"""Seconds that a cell may take."""

ALT = "alt"
"""Key of a cell's metadata that says what its picture shows."""

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@dataclass(frozen=True)
class Page:
    """A notebook as Markdown.

    Attributes:
        text: The Markdown.
        pictures: Files that it shows, by name.
    """

    text: str
    pictures: Mapping[str, bytes]


def execute(path: Path, check: str = "") -> Any:
    """Runs a notebook from top to bottom, in a copy of its place, and returns it with its outputs.

    Args:
        path: The notebook, whose folder lies in that of the examples.
        check: Code to run after it.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    if check:
        notebook.cells.append(nbformat.v4.new_code_cell(check))
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "examples"
        shutil.copytree(path.parents[1], copy, ignore=shutil.ignore_patterns("out"))
        place = {"metadata": {"path": str(copy / path.parent.name)}}
        # By sockets of the file system: no port is opened. The client makes the manager from this,
        # and so ends the kernel; it would leave one that it is given running.
        settings = Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
        client = NotebookClient(
            notebook, config=settings, kernel_name="python3", timeout=TIMEOUT,
            coalesce_streams=True, resources=place,
        )  # fmt: skip
        return client.execute()


def refresh(path: Path) -> None:
    """Runs a notebook and writes it with outputs that are light enough to be committed."""
    notebook = execute(path)
    notebook.metadata = nbformat.from_dict(_METADATA)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k == ALT})
        if cell.cell_type == "code":
            cell.outputs = [light for light in map(_light, cell.outputs) if light is not None]
            cell.execution_count = None
    nbformat.write(notebook, path)


def _light(output: Any) -> Any | None:
    """Keeps text and pictures, the latter as small JPEGs; what goes to stderr is left out."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    data = output.get("data", {})
    encoded = data.get("image/png") or data.get("image/jpeg")
    if encoded is None:
        kept = {"text/plain": data["text/plain"]}
    else:
        kept = {"image/jpeg": base64.b64encode(_jpeg(base64.b64decode(encoded))).decode()}
    return nbformat.v4.new_output("display_data", kept)


def _jpeg(encoded: bytes) -> bytes:
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY, optimize=True)
    return file.getvalue()


def to_page(path: Path, rewrite: Callable[[str], str]) -> Page:
    """Turns a notebook with its outputs into Markdown.

    Args:
        path: The notebook.
        rewrite: Changes the Markdown of a cell, such as its links.
    """
    notebook = nbformat.read(path, as_version=4)
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(rewrite(cell.source))
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/jpeg" in data:
                name = f"{path.stem}-{len(pictures)}.jpg"
                pictures[name] = base64.b64decode(data["image/jpeg"])
                parts.append(f"![{cell.metadata[ALT]}]({name})")
            else:
                text = output.get("text") or data.get("text/plain", "")
                parts.append(f"``` {{ .text .output }}\n{text.rstrip()}\n```")
    return Page("\n\n".join(parts) + "\n", pictures)
