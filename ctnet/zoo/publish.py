"""Turns a finished training run into a model of the zoo: files, card and manifest entry.

``python -m ctnet.zoo.publish export RUN FOLDER`` writes the checkpoint; after ``ctnet eval`` on it,
``python -m ctnet.zoo.publish register RUN FOLDER`` writes the rest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from ctnet.evaluation.evaluate import headline_name
from ctnet.evaluation.tables import metrics_table, palette_table, read_results
from ctnet.networks.palette_net import PaletteNetwork, build_network
from ctnet.training.config import TrainConfig
from ctnet.zoo.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    file_info,
    load_network,
    parameter_count,
    save_checkpoint,
)
from ctnet.zoo.manifest import MANIFEST, ModelInfo, read_manifest, write_manifest

CARD_FILE = "README.md"
LICENCE = "MIT"
DATA = (
    "CompositeMT-mini (PASCAL VOC 2012/SBD, small COCO subsets, NYUv2, Clothing Co-Parsing, "
    "ECSSD, BSDS500; labels partly distilled). The photographs' terms limit them to research use."
)

CARD = """---
library_name: ctnet
license: mit
pipeline_tag: image-segmentation
tags: [composite-tasking, multi-task, semantic-segmentation, surface-normals, saliency, edges]
---
# {name}

{summary}

```python
import ctnet

{usage}
```

## Figures

On the val split of CompositeMT-mini, which training never saw; figures with an asterisk are on
labels that are at least partly derived or distilled, not drawn by people.

{table}

## Training

{training}

Data: {data}

Weights: {licence}. Stored as fp16; statistics of norms and task codes as fp32.
"""


COMPOSITE_USAGE = """model = ctnet.load("{name}")
prediction = model.predict("photo.jpg", "mosaic")
prediction.save("out")"""

PALETTE_USAGE = """network = ctnet.load_palette_network("{name}")
palette = network.predict("photo.jpg")
palette.save("palette.png")"""


@dataclass(frozen=True)
class Run:
    """A training run to publish.

    Attributes:
        folder: Folder of the run.
        hardware: What it ran on.
        note: What a reader must know of it, such as an early end; may be empty.
        earlier: Folders of the runs that it went on from, the first one first, where they are
            parts of the same training.
    """

    folder: Path
    hardware: str
    note: str = ""
    earlier: tuple[Path, ...] = ()

    @property
    def weights(self) -> Path:
        """The best weights by validation, or the last where there was none."""
        best = self.folder / "best.safetensors"
        return best if best.exists() else self.folder / "last.safetensors"

    def training(self) -> dict[str, Any]:
        """Returns what the card and the manifest say of the training."""
        folders = (*self.earlier, self.folder)
        runs = [json.loads((folder / "run.json").read_text("utf-8")) for folder in folders]
        configs = [TrainConfig.from_dict(run["config"]) for run in runs]
        first = configs[0]
        facts = {
            "split": "train",
            "steps": ", then ".join(
                f"{run['step']} × {config.batch_size} crops of {config.size} px"
                for run, config in zip(runs, configs, strict=True)
            ),
            "seconds": sum(run["seconds"] for run in runs),
            "seed": first.seed,
            "start": Path(first.init).stem if first.init else "ImageNet encoder",
            "hardware": self.hardware,
        }
        return facts | ({"note": self.note} if self.note else {})


def export_run(run: Run, folder: str | Path) -> Path:
    """Writes the checkpoint of a run, weights as fp16.

    Returns:
        The folder, for ``ctnet eval local-dir:FOLDER``.
    """
    config = json.loads((run.folder / "run.json").read_text("utf-8"))["config"]
    model = build_network(TrainConfig.from_dict(config).model)
    model.load_state_dict(load_file(run.weights), strict=True)
    return save_checkpoint(model, folder, half=True)


def register(
    folder: str | Path, run: Run, summary: str, results: str | Path, manifest: Path = MANIFEST
) -> ModelInfo:
    """Writes the card of a checkpoint and its entry in the manifest.

    Args:
        folder: The checkpoint; its last part is the model's name.
        run: The run that it comes from.
        summary: What the model is, in a sentence.
        results: Folder with the results of ``ctnet eval`` on it.
        manifest: The manifest to change.

    Raises:
        FileNotFoundError: If there is no result for the model.
    """
    folder = Path(folder)
    measured = [r for r in read_results(results) if r.model == folder.name]
    if not measured:
        raise FileNotFoundError(f"no results for {folder.name} in {results}: run ctnet eval first.")
    model = load_network(folder)
    config = json.loads((run.folder / "run.json").read_text("utf-8"))["config"]
    training = run.training()
    proposes = isinstance(model, PaletteNetwork)
    usage = PALETTE_USAGE if proposes else COMPOSITE_USAGE
    card = CARD.format(
        name=folder.name,
        summary=summary,
        usage=usage.format(name=folder.name),
        table=palette_table(measured) if proposes else metrics_table(measured),
        training="\n".join(f"- {name.replace('_', ' ')}: {x}" for name, x in training.items()),
        data=DATA,
        licence=LICENCE,
    )
    (folder / CARD_FILE).write_text(card, "utf-8")
    info = ModelInfo(
        name=folder.name,
        summary=summary,
        config=model.config.to_dict(),
        parameters=parameter_count(model),
        rule=config["rule"],
        licence=LICENCE,
        data=DATA,
        training=training,
        metrics={
            r.rule: {
                f"{task}.{headline_name(task)}": round(r.headline(task), 4) for task in r.scores
            }
            for r in measured
        },
        files={name: file_info(folder / name) for name in (CONFIG_FILE, WEIGHTS_FILE)},
    )
    models = read_manifest(manifest) if manifest.exists() else {}
    write_manifest({**models, info.name: info}, manifest)
    return info


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the two steps."""
    parser = argparse.ArgumentParser(prog="python -m ctnet.zoo.publish", description=__doc__)
    parser.add_argument("step", choices=("export", "register"))
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("folder", type=Path, help="folder of the checkpoint, .../NAME")
    parser.add_argument("--hardware", default="", help="what the run ran on")
    parser.add_argument(
        "--earlier", nargs="+", type=Path, default=[], help="runs that it went on from, in order"
    )
    parser.add_argument("--note", default="", help="what a reader must know of the run")
    parser.add_argument("--summary", default="", help="what the model is, in a sentence")
    parser.add_argument("--results", type=Path, default=Path("results"))
    args = parser.parse_args(argv)
    run = Run(args.run, args.hardware, args.note, tuple(args.earlier))
    if args.step == "export":
        export_run(run, args.folder)
    elif not args.hardware or not args.summary:
        parser.error("register needs --hardware and --summary")
    else:
        register(args.folder, run, args.summary, args.results)


if __name__ == "__main__":
    main()
