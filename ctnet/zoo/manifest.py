"""The manifest ``weights_manifest.json`` as frozen dataclasses: the one source on every model."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctnet.tasks import nearest

MANIFEST = Path(__file__).with_name("weights_manifest.json")
FORMAT = 1
"""Version of the manifest's and the checkpoints' layout that this code reads and writes."""


@dataclass(frozen=True)
class FileInfo:
    """A file of a checkpoint.

    Attributes:
        sha256: Hexadecimal digest of its bytes.
        size: Number of bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class ModelInfo:
    """A model of the zoo.

    Attributes:
        name: Name that :func:`ctnet.load` takes.
        summary: What it is, in a sentence.
        config: Configuration of its network, as in its ``config.json``.
        parameters: Number of its parameters.
        rule: Rule that it was trained on.
        licence: Licence of the weights.
        data: Data that it was trained on, with its terms.
        training: How it was trained: steps, image size, seed, seconds, hardware, start.
        metrics: Figures by rule and task, from ``results/``.
        files: Its files by name.
        repo_id: Repository on the Hugging Face Hub, None while unpublished.
        revision: Commit of that repository.
    """

    name: str
    summary: str
    config: dict[str, Any]
    parameters: int
    rule: str
    licence: str
    data: str
    training: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    files: dict[str, FileInfo]
    repo_id: str | None = None
    revision: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Reads an entry from JSON types.

        Raises:
            ValueError: If a key is missing or unknown.
        """
        known = {entry.name for entry in fields(cls)}
        required = known - {"repo_id", "revision"}
        if not required <= set(values) <= known:
            raise ValueError(
                f"a manifest entry has the keys {sorted(known)}; missing "
                f"{sorted(required - set(values))}, unknown {sorted(set(values) - known)}."
            )
        files = {name: FileInfo(**info) for name, info in values["files"].items()}
        return cls(**{**values, "files": files})


def read_manifest(path: Path = MANIFEST) -> dict[str, ModelInfo]:
    """Reads a manifest: the models by name.

    Raises:
        ValueError: If it is of a newer format or an entry is malformed.
    """
    content = json.loads(path.read_text("utf-8"))
    if content["format"] > FORMAT:
        raise ValueError(f"{path} has format {content['format']}; this ctnet reads up to {FORMAT}.")
    entries = (ModelInfo.from_dict(entry) for entry in content["models"])
    return {entry.name: entry for entry in entries}


def write_manifest(models: Mapping[str, ModelInfo], path: Path = MANIFEST) -> None:
    """Writes a manifest, sorted by name."""
    content = {"format": FORMAT, "models": [asdict(models[name]) for name in sorted(models)]}
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


@lru_cache
def _installed() -> dict[str, ModelInfo]:
    return read_manifest()


def list_models(pattern: str = "*") -> list[str]:
    """Lists the zoo's models whose name matches a shell-style pattern such as ``ctn-*``."""
    return sorted(fnmatch.filter(_installed(), pattern))


def model_info(name: str) -> ModelInfo:
    """Returns what is known of a model.

    Raises:
        ValueError: If the zoo has no such model; the message names the nearest.
    """
    models = _installed()
    if name not in models:
        raise ValueError(f"the zoo has no model {name!r}{nearest(name, sorted(models))}")
    return models[name]
