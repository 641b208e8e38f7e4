"""Predicts with an exported network: onnxruntime, numpy and pillow, without torch and ctnet.

    ctnet export ctn-r1 --out ctn-r1.onnx
    python examples/onnx_predict.py ctn-r1.onnx photo.jpg --palette single:normals --out out/

``--palette`` is ``single:TASK``, ``quarters`` (a task each), a palette PNG of the photograph's
size, or a palette network that was exported likewise.
"""

import argparse
import base64
import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
from PIL import Image, ImageOps


def resized(array, size, method=Image.Resampling.NEAREST):
    """Resizes (H,W) or (H,W,3) uint8 to (width, height)."""
    return np.array(Image.fromarray(array).resize(size, method))


def draw_palette(wish, photo, image, tasks):
    """Makes task ids (h,w) for the working image (1,3,h,w)."""
    height, width = image.shape[2:]
    names = [task["name"] for task in tasks]
    if wish.startswith("single:"):
        task = wish.removeprefix("single:")
        if task not in names:
            raise SystemExit(f"unknown task {task!r}; the network does: {', '.join(names)}.")
        return np.full((height, width), names.index(task))
    if wish == "quarters":
        rows, columns = np.arange(height)[:, None], np.arange(width)
        return ((rows >= height // 2) * 2 + (columns >= width // 2)) % len(names)
    if wish.endswith(".onnx"):
        return ort.InferenceSession(wish).run(None, {"image": image})[0][0].argmax(0)
    ids = np.array(Image.open(wish))
    if ids.shape != photo.shape[:2]:
        raise SystemExit(f"{wish} is {ids.shape}, the photograph {photo.shape[:2]}.")
    return resized(ids, (width, height))


def decode(outputs, task):
    """Turns raw outputs (P,3) into labels (P,...) and colors (P,3) uint8."""
    if task["kind"] == "normals":
        normals = outputs / np.maximum(np.linalg.norm(outputs, axis=1, keepdims=True), 1e-12)
        return normals, (normals * 127.5 + 127.5).astype(np.uint8)
    points = 1 / (1 + np.exp(-outputs))
    if task["kind"] == "probability":
        gray = np.rint(points.mean(1) * 255).astype(np.uint8)
        return gray, gray[:, None].repeat(3, 1)
    if "table" in task:
        # The likeliest class of the cell, as counted on labeled photographs.
        cells = task["table"]["cells"]
        table = np.frombuffer(base64.b64decode(task["table"]["classes"]), np.uint8)
        found = np.minimum((points * cells).astype(int), cells - 1)
        classes = table[np.ravel_multi_index(tuple(found.T), (cells,) * 3)]
    else:
        # The class whose anchor is nearest.
        distances = ((points[:, None] - np.array(task["anchors"])) ** 2).sum(2)
        classes = distances.argmin(1).astype(np.uint8)
    return classes, np.array(task["class_colors"], np.uint8)[classes]


def main():
    """Writes an overlay, and for each task its labels: PNGs, of normals a .npy (H,W,3)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help=".onnx file that ctnet export wrote")
    parser.add_argument("image")
    parser.add_argument("--palette", default="quarters", help="see the head of this file")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--long-side", type=int, default=320, help="working size in pixels")
    args = parser.parse_args()

    session = ort.InferenceSession(args.model)
    tasks = json.loads(session.get_modelmeta().custom_metadata_map["ctnet.tasks"])
    photo = np.array(ImageOps.exif_transpose(Image.open(args.image)).convert("RGB"))
    full = photo.shape[1], photo.shape[0]
    scale = min(1, args.long_side / max(full))
    small = resized(photo, [max(1, round(s * scale)) for s in full], Image.Resampling.LANCZOS)
    image = (small.transpose(2, 0, 1)[None] / 255).astype(np.float32)
    palette = draw_palette(args.palette, photo, image, tasks).astype(np.int64)
    composite = session.run(None, {"image": image, "palette": palette[None]})[0]
    pixels, colors = composite[0].transpose(1, 2, 0), small.copy()

    args.out.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tasks):
        mask, path = palette == number, args.out / f"{Path(args.image).stem}_{task['name']}"
        if not mask.any():
            continue
        labels, colors[mask] = decode(pixels[mask], task)
        picture = np.full(
            (*mask.shape, *labels.shape[1:]), 255 if task["classes"] else 0, labels.dtype
        )
        picture[mask] = labels
        if task["kind"] == "normals":
            np.save(f"{path}.npy", picture)
            continue
        Image.fromarray(picture).resize(full, Image.Resampling.NEAREST).save(f"{path}.png")
        if task["classes"]:
            print(task["name"], [task["classes"][i] for i in np.unique(labels)])
    drawn = (resized(colors, full) * 0.65 + photo * 0.35).astype(np.uint8)
    Image.fromarray(drawn).save(args.out / f"{Path(args.image).stem}_overlay.png")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
