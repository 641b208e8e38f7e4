"""Other data sets as a folder of photographs and class maps (:mod:`ctnet.data.folder`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ctnet.data.classes_file import CLASSES_FILE
from ctnet.data.folder import IMAGES, VAL_FILE
from ctnet.tasks import IGNORE, voc_color

BACKGROUND = "background"


def convert_coco(
    annotations: str | Path, images: str | Path, out: str | Path, task: str = "objects"
) -> Path:
    """Makes class maps of COCO instances.

    Where instances overlap the smaller one is in front; crowds are not labeled. The classes are
    the background and the file's categories by their ids.

    Args:
        annotations: JSON file of instances, which pycocotools reads.
        images: Folder of the photographs that it names.
        out: New folder of the data set.
        task: Name of the task.

    Returns:
        The new folder.

    Raises:
        ModuleNotFoundError: If pycocotools is not installed.
        FileNotFoundError: If the file or a photograph is missing.
        ValueError: If ``out`` holds something already, there are more than 254 categories, or the
            file is none of COCO instances.
    """
    try:
        from pycocotools.coco import COCO
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "COCO annotations are read by pycocotools: pip install pycocotools"
        ) from error
    if not task.isidentifier():
        raise ValueError(f"a task's name is letters, digits and underscores; got {task!r}.")
    if not Path(annotations).is_file():
        raise FileNotFoundError(f"no file {annotations}.")
    try:
        coco = COCO(str(annotations))
        categories = sorted(coco.loadCats(coco.getCatIds()), key=lambda entry: entry["id"])
        photographs = coco.loadImgs(coco.getImgIds())
    except (KeyError, TypeError, AssertionError, json.JSONDecodeError) as error:
        raise ValueError(f"{annotations} holds no COCO instances ({error!r}).") from None
    if not categories or len(categories) >= IGNORE:
        raise ValueError(f"{annotations} has {len(categories)} categories; 1 to 254 are possible.")
    folder = _new_folder(out, task)
    numbers = {entry["id"]: number for number, entry in enumerate(categories, 1)}
    for photograph in photographs:
        source = Path(images) / photograph["file_name"]
        shutil.copyfile(source, folder / IMAGES / source.name)
        ids = np.zeros((photograph["height"], photograph["width"]), np.uint8)
        found = coco.loadAnns(coco.getAnnIds(imgIds=photograph["id"]))
        for instance in sorted(found, key=lambda entry: -entry["area"]):
            mask = coco.annToMask(instance).astype(bool)
            ids[mask] = IGNORE if instance.get("iscrowd") else numbers[instance["category_id"]]
        _write_mask(folder / task / f"{source.stem}.png", ids)
    names = [BACKGROUND, *(entry["name"] for entry in categories)]
    _write_classes(folder, task, names)
    return folder


def convert_voc(root: str | Path, out: str | Path) -> Path:
    """Takes the class maps of PASCAL VOC, which torchvision reads; its ``val`` validates.

    Args:
        root: Folder with ``JPEGImages``, ``SegmentationClass`` and ``ImageSets``, of any year.
        out: New folder of the data set.

    Returns:
        The new folder.

    Raises:
        FileNotFoundError: If the folder is no data set of VOC.
        ValueError: If ``out`` holds something already.
    """
    from torchvision.datasets import VOCSegmentation

    root = Path(root).expanduser().resolve()
    year = root.name.removeprefix("VOC")
    if root.parent.name != "VOCdevkit" or not (root / "ImageSets" / "Segmentation").is_dir():
        raise FileNotFoundError(
            f"{root} is no folder VOCdevkit/VOC2012 (or of another year) with ImageSets/"
            "Segmentation."
        )
    folder = _new_folder(out, "seg")
    for split in ("train", "val"):
        found = VOCSegmentation(str(root.parent.parent), year, split)
        for image, mask in zip(found.images, found.masks, strict=True):
            for path, name in ((image, IMAGES), (mask, "seg")):
                shutil.copyfile(path, folder / name / Path(path).name)
        if split == "val":
            stems = "\n".join(Path(image).stem for image in found.images)
            (folder / VAL_FILE).write_text(f"{stems}\n")
    return folder


def _new_folder(out: str | Path, task: str) -> Path:
    folder = Path(out).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something already: choose a new folder.")
    for name in (IMAGES, task):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return folder


def _write_mask(path: Path, ids: np.ndarray) -> None:
    picture = Image.fromarray(ids, "P")
    picture.putpalette([channel for index in range(256) for channel in voc_color(index)])
    picture.save(path)


def _write_classes(folder: Path, task: str, names: Sequence[str]) -> None:
    texts = ", ".join(json.dumps(name, ensure_ascii=False) for name in names)
    (folder / CLASSES_FILE).write_text(f"[{task}]\nnames = [{texts}]\n", "utf-8")
