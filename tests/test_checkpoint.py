"""Checkpoints on disk: written as one, readable as any other file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ctnet.models import checkpoint
from ctnet.models.base import create
from ctnet.models.checkpoint import load_network, save_checkpoint


def test_a_checkpoint_is_replaced_as_one_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (create("ctn", decoder=name) for name in ("light", "compact"))
    folder = save_checkpoint(old, tmp_path / "model")
    (folder / "notes.txt").write_text("mine")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", fail)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(new, folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    save_checkpoint(new, folder)
    assert load_network(folder).config == new.config
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(file.name for file in folder.iterdir()) == sorted(before)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permissions of that kind")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_weights_have_the_permissions_of_any_other_file(tmp_path: Path, mask: int) -> None:
    earlier = os.umask(mask)
    try:
        folder = save_checkpoint(create("ctn", decoder="light"), tmp_path / "model")
    finally:
        os.umask(earlier)
    assert {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()} == {
        "config.json": 0o666 & ~mask,
        "model.safetensors": 0o666 & ~mask,
    }
