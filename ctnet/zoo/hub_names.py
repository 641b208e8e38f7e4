"""Names of repositories on the Hugging Face Hub, checked before anything is done with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,94}"
_REVISION = r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,199}"


def _fits(text: object, pattern: str, nowhere: tuple[str, ...], not_last: tuple[str, ...]) -> bool:
    return (
        isinstance(text, str)
        and re.fullmatch(pattern, text) is not None
        and not any(part in text for part in nowhere)
        and not text.endswith(not_last)
    )


@dataclass(frozen=True)
class HubOptions:
    """How the Hub is asked, in the terms of its own client.

    Attributes:
        token: Token that may read; by default the one that ``hf auth login`` or ``HF_TOKEN`` set.
        cache_dir: Folder of the cache; by default the Hub's own.
        local_files_only: Take what the cache has, and never use the network.
        force_download: Fetch the files even if the cache has them.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False


PLAIN = HubOptions()
"""The default settings of the Hub client."""


@dataclass(frozen=True)
class HubName:
    """A repository and a revision of it.

    Attributes:
        repo_id: ``ORG/REPO``.
        revision: Branch, tag or commit; None is the main branch.

    Raises:
        ValueError: If it is no such name, or one that could lead out of the Hub's cache.
    """

    repo_id: str
    revision: str | None = None

    def __post_init__(self) -> None:
        repo, revision = self.repo_id, self.revision
        if not _fits(repo, f"{_PART}/{_PART}", ("..", "--"), (".git", ".", "-")):
            raise ValueError(
                f"a repository of the Hub is ORG/REPO, of letters, digits, '-', '_' and '.'; got "
                f"{repo!r}."
            )
        if revision is not None and not _fits(
            revision, _REVISION, ("..", "//"), ("/", ".", ".lock")
        ):
            raise ValueError(
                f"a revision is a branch, tag or commit, such as main, v1.0 or 40 hexadecimal "
                f"digits; got {revision!r}."
            )

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Reads ``ORG/REPO[@REVISION]``, with or without ``hf-hub:`` before it.

        Raises:
            ValueError: If it is no such name.
        """
        repo, at, revision = text.removeprefix(HUB_PREFIX).partition("@")
        return cls(repo, revision if at else None)

    def __str__(self) -> str:
        return self.repo_id + (f"@{self.revision}" if self.revision else "")


def is_hub_name(text: str) -> bool:
    """Whether a text is ``ORG/REPO[@REVISION]``."""
    try:
        HubName.parse(text)
    except ValueError:
        return False
    return True
