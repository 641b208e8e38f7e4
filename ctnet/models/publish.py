"""Publishes a checkpoint on the Hugging Face Hub after checking that it loads."""

from __future__ import annotations

from pathlib import Path

from ctnet.models.checkpoint import load_network
from ctnet.zoo.default_card import plain_card
from ctnet.zoo.hub_names import HubName
from ctnet.zoo.upload import COMMIT_MESSAGE, upload


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> HubName:
    """Puts a checkpoint into a repository of the Hub.

    The checkpoint is loaded first, and what the Hub then says of the weights is compared with them.

    Args:
        folder: The checkpoint; a plain card is made where it has none.
        repo_id: ``ORG/REPO``; made if missing.
        private: Make a new repository private.
        token: Token that may write; by default the one that ``hf auth login`` or ``HF_TOKEN`` set.
        commit_message: First line of the commit.

    Returns:
        The repository and the commit, for ``hf-hub:ORG/REPO@COMMIT``.

    Raises:
        ValueError: If the checkpoint is damaged, or the Hub has other bytes after the upload.
        FileNotFoundError: If a file is missing.
        PermissionError: If the token is missing or may not write there.
        ConnectionError: If the Hub cannot be reached or fails.
    """
    HubName(repo_id)
    card = plain_card(load_network(folder).config, repo_id)
    return upload(folder, repo_id, card, private, token, commit_message)
