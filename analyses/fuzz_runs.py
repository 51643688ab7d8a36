"""Damaged run folders through ``doctor``, ``score`` and ``ablate``, and damaged parts of a sweep through ``ablate``.

A damaged run is refused in a line, or does what the sound one does; damaged parts are refused, or the frame is that of
the sound ones. Never a traceback, a hang, or other numbers with status 0.

    python analyses/fuzz_runs.py --runs 500 --parts 200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import struct
import tempfile
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pandas as pd
from PIL import Image

_ODD: list[Any] = [
    None, True, -1, 0, 1, 10**9, 2**63, 10**400, 1e308, float("nan"), float("inf"), -0.5, "", "x", "../..", "\0", [],
    [[]],
    [1, "a"], {}, {"a": {}}, [-1], [10**9], [0] * 1000, "random (seed 5)", "ViT-L-14", "openai", "free", "sigmoid",
]  # fmt: skip


def deep(rng: random.Random) -> str:
    """Nested too deeply for a parser that calls itself."""
    return "[" * rng.choice([50, 5000, 200_000])


def spoil_bytes(rng: random.Random, content: bytes) -> bytes:
    """The bytes after a flip, a cut, an insertion, or something else in their place."""
    data = bytearray(content)
    kind = rng.choice(["flip", "cut", "insert", "empty", "zeros", "bom", "utf16"])
    if kind == "flip":
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        data = data[: rng.randrange(len(data))]
    elif kind == "insert":
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.choice([1, 50])) + data[at:]
    elif kind == "empty":
        data = bytearray()
    elif kind == "zeros":
        data = bytearray(len(data))
    elif kind == "bom":
        data = bytearray(b"\xef\xbb\xbf") + data
    else:
        data = bytearray(content.decode("utf-8", "replace").encode("utf-16"))
    return bytes(data)


def spoil_json(rng: random.Random, path: Path) -> None:
    """One value of a card, or all of it, is something else."""
    card = json.loads(path.read_text(encoding="utf-8"))
    kind = rng.choice(["value", "value", "value", "absent", "other", "deep"])
    table = card
    while (inner := [v for v in table.values() if isinstance(v, dict) and v]) and rng.random() < 0.6:
        table = rng.choice(inner)
    key = rng.choice(sorted(table))
    if kind == "value":
        table[key] = rng.choice(_ODD)
    elif kind == "absent":
        del table[key]
    text = json.dumps(card)
    if kind == "other":
        text = json.dumps(rng.choice(_ODD))
    elif kind == "deep":
        text = deep(rng)
    path.write_text(text, encoding="utf-8", errors="replace")


def spoil_toml(rng: random.Random, path: Path) -> None:
    """One line of a configuration is another, absent, or twice there."""
    import tomli_w

    lines = path.read_text(encoding="utf-8").splitlines()
    fields = [i for i, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    at = rng.choice(fields)
    kind = rng.choice(["value", "value", "value", "absent", "twice", "table", "deep"])
    if kind == "value":
        value = rng.choice([value for value in _ODD if value is not None and value != 10**400])
        name = lines[at].split(" = ")[0]
        lines[at] = tomli_w.dumps({name: value}).strip()
    elif kind == "absent":
        del lines[at]
    elif kind == "twice":
        lines.insert(at, lines[at])
    elif kind == "table":
        at = rng.choice([i for i, line in enumerate(lines) if line.startswith("[")])
        lines[at] = rng.choice(["[other]", "", "[[detector]]"])
    else:
        lines[at] = "taps = " + deep(rng)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def spoil_tensors(rng: random.Random, path: Path) -> None:
    """Tensors of other values, shapes, types or names, with the card's hash made to fit."""
    from hashlib import sha256

    import torch
    from safetensors.torch import load, save

    tensors = load(path.read_bytes())
    name = rng.choice(sorted(tensors))
    kind = rng.choice(["nan", "inf", "shape", "type", "absent", "more", "header"])
    if kind in ("nan", "inf"):
        tensors[name].view(-1)[0] = float(kind)
    elif kind == "shape":
        tensors[name] = torch.zeros(rng.choice([(0,), (3,), (1, 1, 1, 1, 1), (10**6,)]))
    elif kind == "type":
        tensors[name] = tensors[name].to(rng.choice([torch.float64, torch.int8, torch.bool, torch.float16]))
    elif kind == "absent":
        del tensors[name]
    elif kind == "more":
        tensors["more"] = torch.zeros(3)
    content = save(tensors)
    if kind == "header":
        header = rng.choice([2**40, 2**63 - 1, 0, 7])
        content = struct.pack("<Q", header) + content[8:]
    path.write_bytes(content)
    card = json.loads((path.parent / "card.json").read_text())
    card["model_sha256"] = sha256(content).hexdigest()
    (path.parent / "card.json").write_text(json.dumps(card))


def replace_file(path: Path, kind: str) -> None:
    """Puts something that is no regular file in the place of one, or nothing."""
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)


def spoil_run(rng: random.Random, folder: Path) -> str:
    """Spoils one file of a run folder; says which and how."""
    name = rng.choice(["config.toml", "card.json", "model.safetensors"])
    path = folder / name
    kind = rng.choice(["bytes", "content", "content", "content", "kind"])
    if kind == "content":
        {"config.toml": spoil_toml, "card.json": spoil_json, "model.safetensors": spoil_tensors}[name](rng, path)
    elif kind == "bytes":
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    else:
        kind = rng.choice(["absent", "folder", "pipe", "endless", "loop"])
        replace_file(path, kind)
    return f"{name} ({kind})"


def scores(out: Path) -> list[str] | None:
    """Rows of scores.csv without the image's path and the decision; None where there is no such file."""
    path = out / "scores.csv"
    return [",".join(line.split(",")[1:4]) for line in path.read_text().splitlines()] if path.is_file() else None


def runs(count: int, seed: int, tally: fuzzing.Tally, work: Path) -> None:
    """``count`` spoiled copies of a shipped run."""
    from headlens.training.run import find_run

    sound = find_run("mini-industrial-0")
    photo = work / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(photo)
    ablate = ["ablate", "--layer", 23, "--head", 0, "--stream", "global", "--per-category", 2, "--data"]
    fuzzing.call("score", photo, "--run", sound, "--out", work / "sound")
    expected = scores(work / "sound")
    fuzzing.call("data", "make", "procedural:industrial/novel", "--per-category", 2, "--out", work / "set")
    category = min(path for path in (work / "set").iterdir() if path.is_dir())
    assert expected is not None
    for number in range(count):
        rng = random.Random(f"{seed}/run/{number}")
        folder = work / f"run{number}"
        shutil.copytree(sound, folder)
        how = spoil_run(rng, folder)
        what = f"run {seed}/{number}, {how}"
        tally.add(what, fuzzing.call("doctor", "--run", folder))
        done = fuzzing.call("score", photo, "--run", folder, "--out", work / "out")
        now = scores(work / "out")
        more = [f"other scores with status 0: {now}"] if done.status == 0 and now != expected else []
        if done.status and folder.name not in done.said:
            more.append("the folder is not named")
        tally.add(what, done, more)
        tally.add(what, fuzzing.call(*ablate, category, "--run", folder, "--out", work / "out"))
        shutil.rmtree(work / "out", ignore_errors=True)
        shutil.rmtree(folder)


def spoil_part(rng: random.Random, folder: Path) -> str:
    """Spoils one file of a folder of parts; says which and how."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    parts = sorted(folder.glob("part-*"))
    path = rng.choice([*parts, folder / "_sweep.json"])
    kind = rng.choice(["bytes", "absent", "values", "values", "meta", "swap", "folder", "pipe", "endless"])
    if path.suffix == ".json" and kind in ("values", "meta", "swap"):
        spoil_json(rng, path)
    elif kind == "bytes":
        path.write_bytes(spoil_bytes(rng, path.read_bytes()))
    elif kind in ("values", "meta"):
        table = pq.read_table(path)
        notes = dict(table.schema.metadata or {})
        if kind == "values":
            name = rng.choice(
                [name for name in table.column_names if pa.types.is_floating(table.schema.field(name).type)]
            )
            index = table.column_names.index(name)
            table = table.set_column(index, name, pc.add(table[name], pa.scalar(1000.0, table.schema.field(name).type)))
        else:
            key = rng.choice(sorted(notes))
            notes[key] = rng.choice([b"", b"[]", b"{}", b"null", b'["a"]', deep(rng).encode()])
        pq.write_table(table.replace_schema_metadata(notes), path)
    elif kind == "swap":
        shutil.copy(parts[0], parts[-1])
    else:
        replace_file(path, kind)
    return f"{path.name} ({kind})"


def parts(count: int, seed: int, tally: fuzzing.Tally, work: Path) -> None:
    """``count`` spoiled copies of the parts of an interrupted sweep."""
    data = work / "parts-set"
    fuzzing.call("data", "make", "procedural:industrial/novel", "--per-category", 2, "--out", data)
    category = min(path for path in data.iterdir() if path.is_dir())
    args = ["ablate", "--run", "mini-industrial-0", "--data", category, "--layer", 23, "--head", 0, "--batch", 1]
    args += ["--metric", "image_auroc", "--stream", "global", "--out"]
    fuzzing.call(*args, work / "sound")
    expected = frame(work / "sound")
    fuzzing.call(*args, work / "stopped", prepare=_never_finish)
    assert expected is not None and any((work / "stopped").glob("*.parts/part-*"))
    for number in range(count):
        rng = random.Random(f"{seed}/part/{number}")
        shutil.copytree(work / "stopped", work / "out")
        (folder,) = (work / "out").glob("*.parts")
        what = f"parts {seed}/{number}, {spoil_part(rng, folder)}"
        done = fuzzing.call(*args, work / "out")
        now, more = frame(work / "out"), []
        if done.status == 0 and (now is None or not now.equals(expected)):
            more.append("another frame with status 0")
        tally.add(what, done, more)
        shutil.rmtree(work / "out")


def _never_finish() -> None:
    """The process is killed where the finished frame would be written, so that the parts stay."""
    from headlens.results import Result

    Result.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]


def frame(out: Path) -> pd.DataFrame | None:
    """The frame that ``ablate`` wrote; None where there is none."""
    files = [path for path in out.glob("*.parquet") if ".summary" not in path.name]
    return pd.read_parquet(files[0]) if len(files) == 1 else None


def main() -> int:
    """Runs both; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--parts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fuzzing.warm_up()
    tally = fuzzing.Tally()
    with tempfile.TemporaryDirectory(prefix="headlens-fuzz-") as work:
        if given.parts:
            parts(given.parts, given.seed, tally, Path(work))
        if given.runs:
            runs(given.runs, given.seed, tally, Path(work))
    print(f"{given.runs} run folders, {given.parts} folders of parts")
    return tally.report()


if __name__ == "__main__":
    raise SystemExit(main())
