"""Mixin for the Hub: ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import torch

from ctnet.models.checkpoint import load_network, save_checkpoint
from ctnet.models.device import pick_device
from ctnet.models.publish import push
from ctnet.models.registry import Network
from ctnet.zoo.default_card import plain_card
from ctnet.zoo.files import CARD_FILE
from ctnet.zoo.hub_names import HUB_PREFIX, HubOptions
from ctnet.zoo.locate import locate, resolve
from ctnet.zoo.upload import COMMIT_MESSAGE


class HubMixin(Network):
    """Adds ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    The Hub's own mixin would make every import of ctnet import the Hub's client.
    """

    def save_pretrained(self, folder: str | Path, half: bool = False) -> Path:
        """Writes configuration, weights (safetensors) and a card that has yet to be filled in.

        Args:
            folder: Where they go; made if missing. A card that is there stays.
            half: Store weights as fp16; statistics of norms stay fp32.

        Returns:
            The folder, which :func:`ctnet.load` reads.
        """
        folder = save_checkpoint(self, folder, half)
        if not (folder / CARD_FILE).exists():
            (folder / CARD_FILE).write_text(plain_card(self.config, folder.name), "utf-8")
        return folder

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        *,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Loads a trained network; see :func:`ctnet.load` for where weights come from.

        Args:
            name: A model of the zoo, the path of a folder, or ``ORG/REPO[@REVISION]`` of the Hub;
                ``local-dir:`` and ``hf-hub:`` may stand before the latter two.
            revision: Branch, tag or commit, for a repository of the Hub.
            device: Where the network goes: ``cpu``, ``cuda``, ``mps`` or ``auto``.
            token: Token that may read; by default what ``hf auth login`` or ``HF_TOKEN`` set.
            cache_dir: Folder of the Hub's cache; by default its own.
            local_files_only: Take what the cache has, and never use the network.
            force_download: Fetch files of the Hub even if the cache has them.

        Returns:
            The network in eval mode, of this class or one below it.

        Raises:
            ValueError: If the name is unknown, files are damaged, or it is another class's.
            FileNotFoundError: If files are missing.
            ConnectionError: If the Hub is needed and cannot be reached.
            PermissionError: If the Hub refuses, or its cache cannot be written.
        """
        known = name if revision is None else resolve(name, revision)
        options = HubOptions(token, cache_dir, local_files_only, force_download)
        network = load_network(locate(known, options=options))
        if not isinstance(network, cls):
            raise ValueError(
                f"{name} is a {type(network).__name__}, not a {cls.__name__}; load it by "
                f"{type(network).__name__}.from_pretrained."
            )
        return network.to(pick_device(device))

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | None = None,
        half: bool = False,
        commit_message: str = COMMIT_MESSAGE,
    ) -> str:
        """Publishes the network on the Hub, with a card that has yet to be filled in.

        Args:
            repo_id: ``ORG/REPO``; made if missing.
            private: Make a new repository private.
            token: Token that may write; by default what ``hf auth login`` or ``HF_TOKEN`` set.
            half: Store weights as fp16; statistics of norms stay fp32.
            commit_message: First line of the commit.

        Returns:
            ``hf-hub:ORG/REPO@COMMIT``, which :func:`ctnet.load` takes.

        Raises:
            ValueError: If ``repo_id`` is no name of a repository.
            PermissionError: If the token is missing or may not write there.
            ConnectionError: If the Hub cannot be reached or fails.
        """
        with TemporaryDirectory() as folder:
            pushed = push(
                save_checkpoint(self, folder, half), repo_id, private, token, commit_message
            )
        return f"{HUB_PREFIX}{pushed}"
