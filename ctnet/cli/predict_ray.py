"""``ctnet predict --engine ray``: photographs on many machines, by Ray Data (extra ``[ray]``)."""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ctnet.cli.sources import find_sources
from ctnet.prediction.result_files import LAST

INDEX = "index.csv"
"""Name of the table of results."""

COLUMNS = ("path", "name", "files", "error")

BATCH = 16
"""Number of photographs that a worker takes at a time."""

FORMATS = ("files", "parquet", "webdataset")


def predict_on_ray(args: argparse.Namespace) -> int:
    """Predicts on photographs by Ray Data; returns the exit status.

    Args:
        args: Options of ``ctnet predict``.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ValueError: If there are no photographs, or two have one stem.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--engine ray needs Ray: pip install 'ctnet[ray]'") from error
    rows = _rows(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.existing == "skip":
        rows = [row for row in rows if row["name"] not in _done(args)]
    if not rows:
        print("nothing to do: all results exist")
        return 0
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(
            address=args.address, num_cpus=args.processes if args.address is None else None,
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    workers = args.processes or max(1, int(resources.get("CPU", 1)))
    given = {
        "model": args.model, "palette": args.palette, "long_side": args.long_side,
        "seed": args.seed, "files": args.files,
    }  # fmt: skip
    blocks = max(1, -(-len(rows) // BATCH))
    found = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
        _Rows if args.format != "files" else _Files,
        fn_constructor_kwargs=given | ({"out": args.out} if args.format == "files" else {}),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=BATCH,
        num_cpus=1,
    )
    if args.format == "files":
        return _write_index(args.out, found.iter_rows(), len(rows))
    if args.format == "parquet":
        found.write_parquet(str(args.out))
    else:
        found.map(_as_sample).write_webdataset(str(args.out))
    print(f"{len(rows)} photographs: {args.out}")
    return 0


class _Rows:
    """Worker: rows of paths and names in, rows with the content of the files out."""

    def __init__(self, **given: Any) -> None:
        from ctnet.batch import Predictor

        self.predictor = Predictor(**given)

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        contents = np.empty(len(batch["path"]), object)
        for number, path in enumerate(batch["path"]):
            contents[number] = _read(str(path))
        return self.predictor({**batch, "bytes": contents})


class _Files(_Rows):
    """Worker that writes the files and gives a row of the index for each photograph."""

    def __init__(self, out: Path, **given: Any) -> None:
        super().__init__(**given)
        self.out = out

    def __call__(self, batch: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        from ctnet.batch import write_row

        found = super().__call__(batch)
        files = []
        for number, name in enumerate(found["name"]):
            row = {kind: values[number] for kind, values in found.items()}
            files.append(" ".join(write_row(row, self.out, str(name))))
        return {**{name: found[name] for name in ("path", "name", "error")},
                "files": np.array(files, object)}  # fmt: skip


def _read(path: str) -> bytes:
    """Reads a local file, or one of a store that pyarrow knows (``s3://``, ``gs://``)."""
    from pyarrow import fs

    try:
        if "://" not in path:
            return Path(path).read_bytes()
        store, inside = fs.FileSystem.from_uri(path)
        content: bytes = store.open_input_stream(inside).readall()
        return content
    except OSError:
        # Reported with its row, as what cannot be decoded is.
        return b""


def _rows(args: argparse.Namespace) -> list[dict[str, str]]:
    """Lists the photographs, each with the unique stem of its results."""
    remote = [given for given in args.sources if "://" in given]
    local = [given for given in args.sources if "://" not in given]
    sources, failed = find_sources(args, local)
    if failed or any(source.video for source in sources):
        raise ValueError("--engine ray is for photographs that exist; see above, and no videos.")
    rows = [{"path": str(source.path.resolve()), "name": source.name} for source in sources]
    rows += [{"path": path, "name": Path(path).stem} for given in remote for path in _listed(given)]
    taken: dict[str, str] = {}
    for row in rows:
        if row["name"] in taken:
            raise ValueError(f"{row['path']} and {taken[row['name']]} have one stem.")
        taken[row["name"]] = row["path"]
    if not rows:
        raise ValueError("there are no photographs.")
    return rows


def _listed(uri: str) -> list[str]:
    """Lists the images of a folder of a store; a file is taken as it is."""
    from pyarrow import fs

    from ctnet.images import SUFFIXES

    store, inside = fs.FileSystem.from_uri(uri)
    if store.get_file_info(inside).type == fs.FileType.File:
        return [uri]
    prefix = uri.split("://")[0]
    found = store.get_file_info(fs.FileSelector(inside, recursive=True))
    names = sorted(entry.path for entry in found if entry.type == fs.FileType.File)
    return [f"{prefix}://{name}" for name in names if Path(name).suffix.lower() in SUFFIXES]


def _done(args: argparse.Namespace) -> set[str]:
    """Returns the names of the photographs whose results exist."""
    if args.format == "files":
        ending = f"_{LAST[args.files]}.png"
        return {path.name.removesuffix(ending) for path in args.out.glob(f"*{ending}")}
    if args.format == "webdataset":
        raise ValueError("--existing skip is for files and parquet.")
    import pyarrow.parquet as parquet

    tables = [parquet.read_table(path, columns=["name"]) for path in args.out.glob("*.parquet")]
    return {name for table in tables for name in table["name"].to_pylist()}


def _as_sample(row: dict[str, Any]) -> dict[str, Any]:
    """Turns a row into a sample of WebDataset: what is empty is left out."""
    kinds = {kind: value for kind, value in row.items() if "." in kind and value}
    return {"__key__": row["name"], **kinds, "error.txt": row["error"]}


def _write_index(out: Path, rows: Iterable[Mapping[str, Any]], total: int) -> int:
    """Adds a line to the index for each photograph as it is done; returns the exit status."""
    from tqdm import tqdm

    path, failed = out / INDEX, 0
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            writer.writeheader()
        for row in tqdm(rows, total=total, unit="file", disable=None, leave=False):
            writer.writerow({name: row[name] for name in COLUMNS})
            file.flush()
            if row["error"]:
                failed += 1
                print(f"ctnet: {row['path']}: {row['error']}", file=sys.stderr)
    print(f"{total - failed} of {total} photographs: {path}")
    return 1 if failed else 0
