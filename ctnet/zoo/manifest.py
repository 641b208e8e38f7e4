"""The manifest ``weights_manifest.json`` as frozen dataclasses: the one source on every model."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctnet.checks import check_keys, did_you_mean
from ctnet.zoo.files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, FileInfo
from ctnet.zoo.hub_names import HubName
from ctnet.zoo.migrations import FORMAT, read_format

MANIFEST = Path(__file__).with_name("weights_manifest.json")
SCHEMA = Path(__file__).with_name("manifest.schema.json")
"""JSON Schema of the manifest, for other programs that read it; the tests hold it to this code."""

__all__ = [
    "FORMAT", "MANIFEST", "SCHEMA", "FileInfo", "ModelInfo", "list_models", "model_info",
    "read_manifest", "write_manifest",
]  # fmt: skip

_NAME = r"[a-z0-9][a-z0-9_-]{0,63}"
_REVISION = "[0-9a-f]{40}"
_CONFIG = {"system", "encoder", "decoder", "tasks"}


@dataclass(frozen=True)
class ModelInfo:
    """A model of the zoo.

    Attributes:
        name: Name that :func:`ctnet.load` takes.
        summary: What it is, in a sentence.
        config: Configuration of its network, as in its ``config.json``.
        parameters: Number of its parameters.
        rule: Rule that it was trained on.
        license: License of the weights.
        data: Data that it was trained on, with its terms.
        training: How it was trained: steps, image size, seed, seconds, hardware, start.
        metrics: Figures by rule and task, from ``results/``.
        files: Its files by name.
        repo_id: Repository on the Hugging Face Hub, None while unpublished.
        revision: Commit of that repository, 40 hexadecimal digits.
        card: Name of the model card beside the files.

    Raises:
        ValueError: If a value is not allowed.
    """

    name: str
    summary: str
    config: dict[str, Any]
    parameters: int
    rule: str
    license: str
    data: str
    training: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    files: dict[str, FileInfo]
    repo_id: str | None = None
    revision: str | None = None
    card: str = CARD_FILE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(_NAME, self.name):
            raise ValueError(
                f"a model's name is small letters, digits, - and _, at most 64; got {self.name!r}."
            )
        for key in ("summary", "rule", "license", "data"):
            self._require(key, isinstance(getattr(self, key), str), "text")
        for key in ("config", "training", "metrics"):
            self._require(key, isinstance(getattr(self, key), dict), "a table")
        whole = isinstance(self.parameters, int) and not isinstance(self.parameters, bool)
        self._require("parameters", whole and self.parameters > 0, "a whole number from 1 on")
        # Names of files are joined to folders: no other name can lead out of one.
        needed = {CONFIG_FILE, WEIGHTS_FILE}
        self._require("files", set(self.files) == needed, f"a table with the keys {sorted(needed)}")
        self._require("card", self.card == CARD_FILE, repr(CARD_FILE))
        self._require("config", set(self.config) >= _CONFIG, f"a table with {sorted(_CONFIG)}")
        self._require("metrics", _is_table_of_numbers(self.metrics), "numbers by rule and task")
        if self.repo_id is not None:
            HubName(self.repo_id, self.revision)
        pinned = isinstance(self.revision, str) and re.fullmatch(_REVISION, self.revision)
        if (self.repo_id is None) != (self.revision is None) or not (pinned or not self.revision):
            raise ValueError(
                f"{self.name}: repo_id and revision are both null, or a repository and one of its "
                f"commits (40 hexadecimal digits); got {self.repo_id!r} and {self.revision!r}."
            )

    def _require(self, key: str, fits: bool, allowed: str) -> None:
        if not fits:
            raise ValueError(
                f"{self.name}: {key} of a model is {allowed}; got {getattr(self, key)!r}."
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInfo:
        """Reads an entry from JSON types.

        Raises:
            ValueError: If a key is missing or unknown, or a value not allowed.
        """
        check_keys(values, cls, "a manifest entry")
        if not isinstance(values["files"], Mapping):
            raise ValueError(f"a manifest entry's files are a table; got {values['files']!r}.")
        files = {name: _file_info(name, entry) for name, entry in values["files"].items()}
        return cls(**{**values, "files": files})


def _file_info(name: str, entry: Any) -> FileInfo:
    check_keys(entry, FileInfo, f"the file {name!r} of a manifest")
    return FileInfo(**entry)


def _is_table_of_numbers(metrics: Mapping[str, Any]) -> bool:
    return all(
        isinstance(figures, Mapping)
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in figures.values())
        for figures in metrics.values()
    )


def read_manifest(path: Path = MANIFEST) -> dict[str, ModelInfo]:
    """Reads a manifest: the models by name.

    Raises:
        ValueError: If it is none, of a newer format, or an entry is malformed.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no manifest: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("models"), list):
        raise ValueError(f"{path} is no manifest: a table with 'format' and the list 'models'.")
    found = read_format(content, path)
    if found < FORMAT:
        raise ValueError(f"{path} has format {found}; this ctnet reads {FORMAT} alone.")
    entries = [ModelInfo.from_dict(entry) for entry in content["models"]]
    models = {entry.name: entry for entry in entries}
    if len(models) < len(entries):
        raise ValueError(f"{path} names a model twice: {[entry.name for entry in entries]}.")
    return models


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
        raise ValueError(f"the zoo has no model {name!r}{did_you_mean(name, sorted(models))}")
    return models[name]
