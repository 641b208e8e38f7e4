"""Colors that can be told apart, by those too who see no red or no green."""

from itertools import combinations

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from ctnet.data.classes_file import TASK_COLORS
from ctnet.prediction.colors import NORMAL_EXAMPLES, colorize
from ctnet.tasks import DEFAULT_TASKS, TASKS

# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanope": [
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ],
    "deuteranope": [
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ],
}


def seen(color, sight):
    """The color in Lab as someone sees it."""
    part = np.asarray(color) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(SIGHT[sight]).T).clip(0, 1)
    return rgb2lab(
        np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    )


def distance(one, other, sight):
    """Difference of two colors by CIEDE2000; 2 is just noticeable."""
    return float(deltaE_ciede2000(seen(one, sight), seen(other, sight)))


@pytest.mark.parametrize("sight", SIGHT)
def test_tasks_and_parts_can_be_told_apart(sight):
    tasks = [TASKS[name].color for name in DEFAULT_TASKS]
    for colors in (tasks, TASKS["parts"].class_colors):
        assert min(distance(*pair, sight) for pair in combinations(colors, 2)) > 14


@pytest.mark.parametrize("sight", SIGHT)
def test_tasks_of_your_own_can_be_told_from_the_known_ones(sight):
    colors = [TASKS[name].color for name in DEFAULT_TASKS]
    for color in TASK_COLORS:
        assert min(distance(color, other, sight) for other in colors) > 10
        colors.append(color)


def test_no_direction_looks_like_a_class():
    normals, classes = TASKS["normals"], TASKS["seg"].class_colors
    for name, direction in NORMAL_EXAMPLES:
        color = colorize(np.array(direction, np.float32), normals)
        assert min(distance(color, other, "normal") for other in classes) > 10, name
