"""Finds, verifies and loads a model by name, from a folder, or from the Hugging Face Hub.

A model of the zoo is looked for in this order; the first place that has it is taken:

1. the folder that ``CTNET_WEIGHTS`` names, as ``NAME/config.json`` and ``NAME/model.safetensors``,
2. the package (weights embedded in the wheel),
3. ``weights/`` of the checkout that the code runs from (clones, ``torch.hub``, editable installs),
   and of the one that the working directory is in,
4. the Hub's cache,
5. the Hub.

Only the last touches a network. Wherever it lies, it must have the bytes that the manifest names.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctnet.zoo.files import CONFIG_FILE, verify
from ctnet.zoo.hub_names import (
    FOLDER_PREFIX,
    HUB_PREFIX,
    PLAIN,
    HubName,
    HubOptions,
    is_hub_name,
)
from ctnet.zoo.manifest import MANIFEST, ModelInfo, list_models, model_info

EMBEDDED = Path(__file__).with_name("embedded")

CHECKOUT = Path(__file__).parents[2] / "weights"

WEIGHTS_VARIABLE = "CTNET_WEIGHTS"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """A place where the files of a model are looked for.

    Attributes:
        source: ``CTNET_WEIGHTS``, ``package``, ``checkout``, ``current checkout``, ``Hub cache`` or
            ``Hub``.
        where: Folder or repository; None where there is none.
        found: Whether it has the model. The Hub is not asked.
    """

    source: str
    where: str | None
    found: bool = False


def locate(name: str | Path, refresh: bool = False, options: HubOptions = PLAIN) -> Path:
    """Returns the folder of a model's files, verified against the manifest if it is the zoo's.

    The order of places is that of this module's description. A repository of the Hub without a
    commit in its name is taken from the cache as it was fetched last.

    Args:
        name: What :func:`resolve` takes.
        refresh: Ask the Hub for the newest commit of a repository's branch.
        options: How the Hub is asked, if it is.

    Raises:
        ValueError: If the name is unknown or files are damaged.
        FileNotFoundError: If files are missing.
        ConnectionError: If the Hub is needed and cannot be reached.
        PermissionError: If the Hub refuses, or its cache cannot be written.
    """
    given = str(name)
    name = resolve(name)
    if name.startswith(FOLDER_PREFIX):
        return _folder(name.removeprefix(FOLDER_PREFIX))
    if name.startswith(HUB_PREFIX):
        from ctnet.zoo.download import fetch

        try:
            folder = fetch(HubName.parse(name), refresh=refresh, options=options)
        except (FileNotFoundError, ConnectionError) as error:
            if given.startswith(HUB_PREFIX):
                raise
            raise type(error)(f"there is no folder {given}, and: {error}") from error
        _log.info("%s: from %s", name, folder)
        return folder
    info = _zoo_entry(name)
    for place in places(info, options):
        if place.source.startswith("Hub"):
            folder = _fetch(info, options)
            break
        if place.found:
            folder = Path(str(place.where))
            verify(folder, info.files)
            break
    _log.info("%s: from %s (%s)", name, folder, place.source)
    return folder


def places(info: ModelInfo, options: HubOptions = PLAIN) -> Iterator[Place]:
    """Yields where a model of the zoo is looked for, in order, and whether it is there.

    Touches no network.

    Raises:
        FileNotFoundError: If ``CTNET_WEIGHTS`` names no folder.
    """
    given = os.environ.get(WEIGHTS_VARIABLE)
    own = Path(given).expanduser() if given else None
    if own is not None and not own.is_dir():
        raise FileNotFoundError(f"{WEIGHTS_VARIABLE} names {given!r}, which is no folder.")
    bases = [(WEIGHTS_VARIABLE, own), ("package", EMBEDDED), ("checkout", CHECKOUT)]
    current = current_checkout()
    if current is not None and current / "weights" != CHECKOUT:
        bases.append(("current checkout", current / "weights"))
    for source, base in bases:
        folder = None if base is None else base / info.name
        yield Place(source, str(folder) if folder else None, bool(folder and folder.is_dir()))
    name = HubName(info.repo_id, info.revision) if info.repo_id else None
    cached = None
    if name is not None:
        # Whoever takes an earlier place needs no client of the Hub.
        from ctnet.zoo.download import find_cached

        cached = find_cached(name, options)
    yield Place("Hub cache", str(cached) if cached else None, cached is not None)
    yield Place("Hub", str(name) if name else None)


def current_checkout() -> Path | None:
    """Returns the checkout of ctnet that the working directory is in, None where there is none."""
    here = Path.cwd()
    known = (folder for folder in (here, *here.parents) if (folder / MANIFEST.name).is_file())
    return next((folder for folder in known if (folder / "weights").is_dir()), None)


def resolve(name: str | Path, revision: str | None = None) -> str:
    """Returns the full name of what a person calls a model.

    Args:
        name: A model of the zoo, the path of a folder, or ``ORG/REPO[@REVISION]`` of the Hub;
            ``local-dir:`` and ``hf-hub:`` may stand before the latter two. A folder that exists
            comes before a repository of that name.
        revision: Branch, tag or commit, for a repository of the Hub.

    Raises:
        ValueError: If it is none of them, or a revision comes with another kind of name.
    """
    text = str(name)
    if not text.startswith((FOLDER_PREFIX, HUB_PREFIX)) and _means_folder(name):
        text = f"{FOLDER_PREFIX}{text}"
    if text.startswith(FOLDER_PREFIX):
        if revision is not None:
            raise ValueError(f"a folder has no revisions; got {str(name)!r} and {revision!r}.")
        return text
    if revision is None and "/" not in text and not text.startswith(HUB_PREFIX):
        return _zoo_entry(text).name
    hub = HubName.parse(text)
    if revision is not None and hub.revision is not None:
        raise ValueError(f"two revisions: {hub.revision!r} in the name, and {revision!r}.")
    return f"{HUB_PREFIX}{HubName(hub.repo_id, revision or hub.revision)}"


def _means_folder(name: str | Path) -> bool:
    """Whether a name without a prefix is a path: it exists, or only its last part does not."""
    if str(name) in list_models():
        return False
    path = Path(name).expanduser()
    written = isinstance(name, Path) or path.is_absolute() or str(name).startswith((".", "~"))
    return written or path.is_dir() or (len(path.parts) > 1 and path.parent.is_dir())


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.is_dir():
        beside = [x.parent.name for x in path.parent.glob(f"*/{CONFIG_FILE}")]
        close = difflib.get_close_matches(path.name, beside, n=1)
        hint = f"; did you mean {path.with_name(close[0])}?" if close else "."
        hub = f" A repository of the Hub is {HUB_PREFIX}{name}." if is_hub_name(name) else ""
        raise FileNotFoundError(f"there is no folder {path}{hint}{hub}")
    return path


def _fetch(info: ModelInfo, options: HubOptions) -> Path:
    if info.repo_id is None:
        looked = ", ".join(place.where for place in places(info, options) if place.where)
        raise FileNotFoundError(
            f"the weights of {info.name} are neither installed nor published yet (looked in "
            f"{looked}); call from a clone of the repository, which holds them in weights/, or set "
            f"{WEIGHTS_VARIABLE} to a folder that has them."
        )
    from ctnet.zoo.download import fetch

    return fetch(HubName(info.repo_id, info.revision), info.files, options=options)


def _zoo_entry(name: str) -> ModelInfo:
    try:
        return model_info(name)
    except ValueError as error:
        raise ValueError(
            f"{error} Or {FOLDER_PREFIX}PATH, or {HUB_PREFIX}ORG/REPO[@REVISION]."
        ) from None
