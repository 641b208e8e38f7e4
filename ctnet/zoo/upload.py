"""Publishes a checkpoint on the Hugging Face Hub: configuration, weights and card in one commit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ctnet.zoo.files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, file_info
from ctnet.zoo.hub_errors import explain
from ctnet.zoo.hub_names import HubName
from ctnet.zoo.manifest import MANIFEST, read_manifest, write_manifest

COMMIT_MESSAGE = "Upload by ctnet"


def upload(
    folder: str | Path,
    repo_id: str,
    card: str,
    private: bool = False,
    token: str | None = None,
    commit_message: str = COMMIT_MESSAGE,
) -> HubName:
    """Puts a checkpoint into a repository of the Hub.

    What the Hub then says of the weights is compared with them.

    Args:
        folder: The checkpoint.
        repo_id: ``ORG/REPO``; made if missing.
        card: Text of the card where the folder has none.
        private: Make a new repository private.
        token: Token that may write; by default the one that ``hf auth login`` or ``HF_TOKEN`` set.
        commit_message: First line of the commit.

    Returns:
        The repository and the commit, for ``hf-hub:ORG/REPO@COMMIT``.

    Raises:
        ValueError: If ``repo_id`` is no name, or the Hub has other bytes after the upload.
        FileNotFoundError: If a file is missing.
        PermissionError: If the token is missing or may not write there.
        ConnectionError: If the Hub cannot be reached or fails.
    """
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

    name, folder = HubName(repo_id), Path(folder)
    with TemporaryDirectory() as temporary:
        staged = Path(temporary)
        for file in (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, staged / file)
        if not (staged / CARD_FILE).exists():
            (staged / CARD_FILE).write_text(card, "utf-8")
        ours = file_info(staged / WEIGHTS_FILE)
        api = HfApi(token=token, library_name="ctnet")
        try:
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=staged, commit_message=commit_message
            )
            pushed = HubName(repo_id, commit.oid)
            url = hf_hub_url(repo_id, WEIGHTS_FILE, revision=commit.oid)
            found = get_hf_file_metadata(url, token=token)
        except Exception as error:  # Its HTTP library's errors have no base of their own.
            raise explain(error, name) from error
    if (found.etag, found.size) != (ours.sha256, ours.size):
        raise ValueError(
            f"{pushed} has other weights than {folder}: {found.size} bytes, digest {found.etag}; "
            f"expected {ours.size} bytes, {ours.sha256}. Push again."
        )
    return pushed


def record(model: str, pushed: HubName, manifest: Path = MANIFEST) -> None:
    """Enters in the manifest where a model of the zoo was published.

    Args:
        model: The model's name.
        pushed: Repository and commit.
        manifest: The manifest to change.

    Raises:
        ValueError: If the manifest has no such model.
    """
    models = read_manifest(manifest)
    if model not in models:
        raise ValueError(f"{manifest} has no model {model!r}; allowed: {', '.join(models)}.")
    entry = replace(models[model], repo_id=pushed.repo_id, revision=pushed.revision)
    write_manifest({**models, model: entry}, manifest)
