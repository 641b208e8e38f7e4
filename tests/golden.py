"""What released models must go on to give; ``PYTHONPATH=. python tests/golden.py NAME`` writes it.

``golden/SYSTEM-DECODER.txt`` freezes the keys of the weights, one line for each tensor but label
tables; ``golden/NAME.json`` the raw outputs on a picture and a palette that are made by formulas,
and the classes that are read where a task is asked everywhere, at every eighth pixel.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from ctnet import to_labels
from ctnet.models.checkpoint import WEIGHTS_FILE, load_network
from ctnet.models.convert import TABLES
from ctnet.models.palette_network import PaletteNetwork
from ctnet.tasks import get_task
from ctnet.zoo.locate import locate

GOLDEN = Path(__file__).with_name("golden")
SIZE = (72, 104)


def picture():
    """Three waves of different directions, (1,3,72,104), not a multiple of 32."""
    y, x = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) for side in SIZE), indexing="ij"
    )
    waves = [torch.sin(y / 5 + x / 11), torch.sin(x / 7 - y / 17), torch.cos((y + x) / 4)]
    return (0.5 + 0.5 * torch.stack(waves)[None]).float()


def palette():
    """Six blocks: the five tasks, and one of nothing."""
    ids = torch.tensor([[0, 1, 2], [3, 4, 255]])
    return ids.repeat_interleave(SIZE[0] // 2, 0).repeat_interleave(SIZE[1] // 3 + 1, 1)[
        :, : SIZE[1]
    ]


@torch.inference_mode()
def outputs(network):
    """Raw outputs at every eighth pixel (C,9,13)."""
    request = () if isinstance(network, PaletteNetwork) else (palette(),)
    return network(picture(), *request)[0, :, 4::8, 4::8]


@torch.inference_mode()
def classes(network):
    """Class ids (9,13) by task with classes, at every eighth pixel."""
    found = {}
    for number, task in enumerate(network.tasks):
        if get_task(task).kind == "classes" and not isinstance(network, PaletteNetwork):
            request = torch.full(SIZE, number)
            labels = to_labels(network(picture(), request), request, network)
            found[task] = labels[task].values[0, 4::8, 4::8]
    return found


def keys(name):
    """Key, type and shape of each tensor of a model's file, but for label tables."""
    state = load_file(locate(name) / WEIGHTS_FILE)
    return [
        f"{key} {str(x.dtype)[6:]} {tuple(x.shape)}"
        for key, x in sorted(state.items())
        if not key.startswith(TABLES)
    ]


def key_file(config):
    """The file with the keys of all models of one shape."""
    return GOLDEN / f"{config.system}-{config.decoder}.txt"


def main(names):
    """Writes the files of models."""
    GOLDEN.mkdir(exist_ok=True)
    for name in names:
        network = load_network(locate(name))
        found = [[round(x, 5) for x in channel.flatten().tolist()] for channel in outputs(network)]
        read = {task: ids.flatten().tolist() for task, ids in classes(network).items()}
        content = {"outputs": found, "classes": read}
        (GOLDEN / f"{name}.json").write_text(json.dumps(content) + "\n")
        key_file(network.config).write_text("\n".join(keys(name)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
