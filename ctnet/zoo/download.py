"""Fetches checkpoints from the Hugging Face Hub, through its own client, and checks every byte.

The client keeps files under the name of their digest; it does not compare the two. This does.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ctnet.zoo.files import CONFIG_FILE, MAX_BYTES, WEIGHTS_FILE, FileInfo, file_info, verify
from ctnet.zoo.hub_errors import explain
from ctnet.zoo.hub_names import PLAIN, HubName, HubOptions

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

FILES = (CONFIG_FILE, WEIGHTS_FILE)
RETRIED = (408, 429, 500, 502, 503, 504)
"""Status codes of a busy Hub: worth a retry."""

_log = logging.getLogger(__name__)


def find_cached(name: HubName, options: HubOptions = PLAIN) -> Path | None:
    """Returns the folder of a repository in the Hub's cache, None if a file is not there.

    Touches no network. Of a branch it is the commit that was fetched last.

    Raises:
        ValueError: If a file of the cache points out of it.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    found = [
        try_to_load_from_cache(
            name.repo_id, file, cache_dir=options.cache_dir, revision=name.revision or "main"
        )
        for file in FILES
    ]
    paths = [Path(path) for path in found if isinstance(path, str)]
    if len(paths) < len(FILES):
        return None
    cache = Path(options.cache_dir or constants.HF_HUB_CACHE).resolve()
    for path in paths:
        if not path.resolve().is_relative_to(cache):
            raise ValueError(
                f"{path} points out of the Hub's cache, to {path.resolve()}; delete it and call "
                "again."
            )
    return paths[0].parent


def fetch(
    name: HubName,
    expected: Mapping[str, FileInfo] | None = None,
    refresh: bool = False,
    options: HubOptions = PLAIN,
) -> Path:
    """Returns the folder of a checkpoint of the Hub, from its cache where that has it.

    All files come from one commit. What is damaged in the cache is fetched again.

    Args:
        name: The repository and its revision.
        expected: What the files must be, where a manifest says so; else they must have the digests
            that the Hub names.
        refresh: Ask the Hub for a newer commit even if the cache has the files.
        options: How the Hub is asked.

    Raises:
        FileNotFoundError: If the repository, its revision or a file is not on the Hub, or not in
            the cache where nothing else may be asked.
        PermissionError: If it is private, or the cache cannot be written.
        ConnectionError: If the Hub cannot be reached or a transfer broke off.
        OSError: If the disk is full.
        ValueError: If the files are other ones than expected, or too large.
    """
    again = refresh or options.force_download
    cached = None if again else find_cached(name, options)
    if cached is not None and not _damaged(cached, expected):
        return cached
    if options.local_files_only:
        raise FileNotFoundError(
            f"{name} is not, or not whole, in the Hub's cache, and local_files_only forbids to ask "
            "the Hub."
        )
    if cached is not None:
        _log.warning("%s: damaged in the cache (%s); fetching it again", name, cached)
    folder = _download(name, expected, options)
    if damaged := _damaged(folder, expected):
        raise ValueError(
            f"{name} arrived with other bytes than announced: {', '.join(damaged)} is damaged. "
            "Call again, which fetches it again; if that does not help, a proxy or mirror on the "
            "way changes files."
        )
    return folder


def _download(name: HubName, expected: Mapping[str, FileInfo] | None, options: HubOptions) -> Path:
    from huggingface_hub import hf_hub_download

    def get(force: bool) -> Path:
        return Path(
            hf_hub_download(
                name.repo_id,
                file,
                revision=revision,
                cache_dir=options.cache_dir,
                token=options.token,
                force_download=force,
            )
        )

    revision = name.revision or "main"
    folder = Path()
    for file in FILES:
        metadata = _ask(name, file, revision, options)
        _check_announced(name, file, metadata, expected)
        try:
            path = get(force=options.force_download)
            if not _is_intact(path, (expected or {}).get(file)):
                path = get(force=True)
        except Exception as error:  # Its HTTP library's errors have no base of their own.
            raise explain(error, name, file) from error
        folder = path.parent
        # A commit that comes in between must not mix its files with these.
        revision = folder.name
    return folder


def _ask(name: HubName, file: str, revision: str, options: HubOptions) -> HfFileMetadata:
    """Asks the Hub what a file is, again where it is busy; without a network it says so at once."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(name.repo_id, file, revision=revision)
    try:
        try:
            return get_hf_file_metadata(url, token=options.token)
        except HfHubHTTPError as error:
            if error.response.status_code not in RETRIED:
                raise
            return get_hf_file_metadata(url, token=options.token, retry_on_errors=True)
    except Exception as error:  # As above.
        raise explain(error, name, file) from error


def _check_announced(
    name: HubName, file: str, metadata: HfFileMetadata, expected: Mapping[str, FileInfo] | None
) -> None:
    """Refuses a file before it is fetched."""
    commit, etag, size = metadata.commit_hash, metadata.etag, metadata.size
    # Both become parts of paths in the cache.
    if not re.fullmatch("[0-9a-f]{40}", commit or "") or not re.fullmatch(r"[\w-]+", etag or ""):
        raise ConnectionError(
            f"the answer for {file} of {name} is no Hub's: commit {commit!r}, ETag {etag!r}. Check "
            "HF_ENDPOINT, proxies and firewalls."
        )
    if size is None or size > MAX_BYTES[file]:
        raise ValueError(
            f"{file} of {name} has {size} bytes, at most {MAX_BYTES[file]} are allowed."
        )
    if expected is not None:
        wanted = expected[file]
        digest = etag if etag and len(etag) == 64 else wanted.sha256
        if (digest, size) != (wanted.sha256, wanted.size):
            raise ValueError(
                f"{file} of {name} is not what the manifest names: the Hub has {size} bytes, ETag "
                f"{etag}, expected {wanted.size} bytes, sha256 {wanted.sha256[:12]}...; another "
                "version of ctnet may fit it."
            )


def _damaged(folder: Path, expected: Mapping[str, FileInfo] | None) -> list[str]:
    return [
        file
        for file in FILES
        if not _is_intact(folder / file, expected[file] if expected else None)
    ]


def _is_intact(path: Path, expected: FileInfo | None) -> bool:
    """Compares a file with the manifest, or with the digest that names it in the cache."""
    if expected is not None:
        try:
            verify(path.parent, {path.name: expected})
        except ValueError:
            return False
        return True
    name = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return file_info(path).sha256 == name
    if re.fullmatch("[0-9a-f]{40}", name):
        blob = b"blob %d\0" % path.stat().st_size
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.sha1(blob)).hexdigest() == name
    # Where the cache holds no links, nothing names the digest.
    return True
