"""What the Hub's client raises, in words that name the cause and the remedy."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ctnet.zoo.hub_names import HubName

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)


def explain(error: Exception, name: HubName, file: str = "") -> Exception:
    """Turns an error of the Hub's client into one of ours.

    Args:
        error: What the client raised.
        name: The repository it was about.
        file: The file, where it was about one.

    Returns:
        A ``FileNotFoundError``, ``PermissionError``, ``ConnectionError``, ``OSError`` or
        ``ValueError`` to raise from ``error``.
    """
    from huggingface_hub import errors

    what = f"{file} of {name}" if file else str(name)
    causes = [error]
    while causes[-1].__cause__ is not None and isinstance(causes[-1].__cause__, Exception):
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return ConnectionError(
                f"{what} is not in the Hub's cache, and HF_HUB_OFFLINE forbids to fetch it; unset "
                "that, or set CTNET_WEIGHTS to a folder that has it."
            )
        if isinstance(cause, errors.HfHubHTTPError):
            return _explain_answer(cause, name, what)
        if isinstance(cause, errors.FileMetadataError):
            return ConnectionError(
                f"the answer for {what} is no Hub's ({cause}); check HF_ENDPOINT, proxies and "
                "firewalls."
            )
        if isinstance(cause, OSError) and cause.errno in FULL:
            return OSError(
                cause.errno,
                f"the disk is full: {what} does not fit into the Hub's cache; free space, or set "
                "HF_HOME to a folder elsewhere",
            )
        if isinstance(cause, OSError) and cause.errno in LOCKED:
            return PermissionError(
                f"the Hub's cache cannot be written for {what} ({cause}); set HF_HOME to a folder "
                "that can, or CTNET_WEIGHTS to one that has the model."
            )
        if isinstance(cause, OSError) and "Consistency check" in str(cause):
            return ConnectionError(f"{what} arrived incomplete; try again. ({cause})")
    last = causes[-1]
    # The client's checks of names and metadata; what it wraps in a ValueError came in above.
    if isinstance(error, ValueError) and last is error:
        return ValueError(f"the Hub's client refuses {what}: {error}")
    return ConnectionError(
        f"cannot reach the Hub for {what} ({type(last).__name__}: {last}); check the connection "
        "and try again, or set CTNET_WEIGHTS to a folder that has the model."
    )


def _explain_answer(error: HfHubHTTPError, name: HubName, what: str) -> Exception:
    from huggingface_hub import errors

    status = error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        return PermissionError(
            f"{name.repo_id} is gated: ask for access on its page, then log in by 'hf auth login' "
            "or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{name.repo_id} has no revision {name.revision!r}; give a branch, tag or commit of it."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return FileNotFoundError(
            f"the Hub has no {what}; a checkpoint is a repository with config.json and "
            "model.safetensors."
        )
    if status in (401, 403):
        return PermissionError(
            f"the Hub refuses {what} (status {status}): there is no such repository, or it is "
            "private, or the token lacks the right. Check the name; log in by 'hf auth login' or "
            "set HF_TOKEN."
        )
    if status == 404:
        return FileNotFoundError(f"the Hub has no {what} (status 404); check the name.")
    if status == 429:
        return ConnectionError(
            f"the Hub asks to come back later for {what} (status 429); wait some minutes, or log "
            "in by 'hf auth login', which raises the limit."
        )
    return ConnectionError(f"the Hub fails for {what} (status {status}); try again later.")
