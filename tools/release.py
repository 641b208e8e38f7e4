"""Turn a training run into a model of the zoo: checkpoint, card and manifest entry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ctnet.evaluation.evaluate import EvalResult, headline_name
from ctnet.evaluation.results import read_results
from ctnet.models.checkpoint import load_network, parameter_count, save_checkpoint
from ctnet.models.convert import config_with_tables
from ctnet.models.registry import build_network
from ctnet.zoo.files import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, file_info
from ctnet.zoo.locate import locate, places
from ctnet.zoo.manifest import MANIFEST, FileInfo, ModelInfo, read_manifest, write_manifest
from tools.cards import model_card
from tools.run import Run

LICENSE = "MIT"


def export_run(run: Run, folder: str | Path) -> Path:
    """Writes the checkpoint of a run, with fp16 weights.

    Returns:
        The folder, for ``ctnet eval local-dir:FOLDER``.
    """
    weights = run.weights()
    model = build_network(config_with_tables(run.config.model, weights))
    model.load_state_dict(weights, strict=True)
    return save_checkpoint(model, folder, half=True)


def register(
    folder: str | Path, run: Run, summary: str, results: str | Path, manifest: Path = MANIFEST
) -> ModelInfo:
    """Writes the card and the manifest entry of a checkpoint.

    Args:
        folder: Folder of the checkpoint, named as the model.
        run: Run that the checkpoint comes from.
        summary: One sentence about the model.
        results: Folder with results of ``ctnet eval``.
        manifest: Manifest to change.

    Raises:
        FileNotFoundError: If the model has no results.
    """
    folder = Path(folder)
    measured = [r for r in read_results(results) if r.model == folder.name]
    if not measured:
        raise FileNotFoundError(f"no results for {folder.name} in {results}: run ctnet eval first.")
    model = load_network(folder)
    info = ModelInfo(
        name=folder.name,
        summary=summary,
        config=model.config.to_dict(),
        parameters=parameter_count(model),
        rule=run.config.rule,
        license=LICENSE,
        data=run.data,
        training=run.training(),
        metrics=_metrics(measured),
        files=_files(folder),
    )
    _enter(info, folder, measured, manifest)
    return info


def refresh(name: str, results: str | Path, manifest: Path = MANIFEST) -> None:
    """Updates the card and the manifest entry of a model from its files and results.

    Args:
        name: Name of the model; its files are in the package or the clone.
        results: Folder with results of ``ctnet eval``.
        manifest: Manifest to change.
    """
    known = read_manifest(manifest)[name]
    # Not locate(): the files may differ from the manifest.
    folder = next(Path(str(place.where)) for place in places(known) if place.found)
    measured = [r for r in read_results(results) if r.model == name]
    info = replace(
        known,
        config=load_network(folder).config.to_dict(),
        metrics=_metrics(measured),
        files=_files(folder),
    )
    _enter(info, folder, measured, manifest)


def write_cards(results: str | Path) -> None:
    """Rewrites the cards of all models from the manifest and the results."""
    measured = read_results(results)
    for info in read_manifest().values():
        card = model_card(info, [result for result in measured if result.model == info.name])
        (locate(info.name) / CARD_FILE).write_text(card, "utf-8")


def _metrics(results: Sequence[EvalResult]) -> dict[str, dict[str, float]]:
    return {
        r.rule: {f"{task}.{headline_name(task)}": round(r.headline(task), 4) for task in r.scores}
        for r in results
    }


def _files(folder: Path) -> dict[str, FileInfo]:
    return {name: file_info(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)}


def _enter(info: ModelInfo, folder: Path, results: Sequence[EvalResult], manifest: Path) -> None:
    """Writes the card and the manifest entry of a model."""
    (folder / CARD_FILE).write_text(model_card(info, results), "utf-8")
    models = read_manifest(manifest) if manifest.exists() else {}
    write_manifest({**models, info.name: info}, manifest)
