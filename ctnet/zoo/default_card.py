"""The default model card, made from the configuration alone."""

from __future__ import annotations

from typing import Protocol

LIBRARY = "ctnet"
PIPELINE = "image-segmentation"
TAGS = ["composite-tasking", "multi-task", "surface-normals", "saliency", "edges", "human-parts"]

COMPOSITE_USAGE = """model = ctnet.load("{name}")
prediction = model.predict("photo.jpg", "mosaic")
prediction.save("out")"""

PALETTE_USAGE = """network = ctnet.load("{name}")
palette = network.predict("photo.jpg")
palette.save("palette.png")"""

CARD = """---
{metadata}
---
# {title}

A CompositeTasking network ({system}) that does each of its tasks where a palette asks for it.

```python
import ctnet

{usage}
```

- encoder: {encoder}
- tasks: {tasks}

Its maker has not written yet what it was trained on, under which license it is, and how well it
does: all of that belongs here.
"""


class Described(Protocol):
    """The configuration of a network, as far as a card names it."""

    @property
    def system(self) -> str:
        """Its system."""
        ...

    @property
    def encoder(self) -> str:
        """Name of its encoder."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of its tasks."""
        ...


def usage(system: str, name: str) -> str:
    """Returns the lines of Python that use a model of this system and name."""
    return (PALETTE_USAGE if system == "palette" else COMPOSITE_USAGE).format(name=name)


def plain_card(config: Described, name: str) -> str:
    """Writes a card with the Hub's metadata for a checkpoint that the zoo does not know.

    Args:
        config: The network's configuration.
        name: Its repository, ``ORG/REPO``, or the name of its folder.
    """
    from huggingface_hub import ModelCardData

    metadata = ModelCardData(library_name=LIBRARY, pipeline_tag=PIPELINE, tags=TAGS)
    return CARD.format(
        metadata=metadata.to_yaml(),
        title=name.rsplit("/", 1)[-1],
        system=config.system,
        usage=usage(config.system, f"hf-hub:{name}" if "/" in name else f"local-dir:{name}"),
        encoder=config.encoder,
        tasks=", ".join(config.tasks),
    )
