"""Damaged and odd image files through ``data check``, ``score`` and ``eval``: no traceback, no hang, every file named.

Each round lays a small data set in MVTec's layout, spoils some of its images and masks, and runs the three verbs on it.
A file counts as named where its name is printed, listed among the left out of ``eval --json``, or scored.

    python analyses/fuzz_images.py --files 1000
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import shutil
import socket
import struct
import tempfile
from collections import Counter
from pathlib import Path

import fuzzing
import numpy as np
from PIL import Image

_SIDE = 96
_MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "tif": ("1", "L", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"),
    "bmp": ("1", "L", "P", "RGB"),
    "gif": ("L", "P"),
    "webp": ("RGB", "RGBA"),
    "ppm": ("L", "RGB"),
    "jp2": ("L", "RGB", "RGBA"),
    "tga": ("L", "RGB", "RGBA"),
}


def picture(rng: random.Random, height: int = _SIDE, width: int = _SIDE) -> np.ndarray:
    """Smooth colours, [height, width, 3] uint8."""
    noise = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(rng: random.Random) -> tuple[bytes, str]:
    """A sound file of a random format and mode, and its suffix."""
    suffix = rng.choice(sorted(_MODES))
    mode = rng.choice(_MODES[suffix])
    side = rng.choice([(1, 1), (1, 300), (300, 1), (_SIDE, _SIDE), (_SIDE, _SIDE), (_SIDE, 2 * _SIDE)])
    image = Image.fromarray(picture(rng, *side))
    if mode in ("I;16", "I", "F"):
        grey = np.array(image.convert("L"))
        scale = rng.choice([1, 16, 257])
        image = (
            Image.fromarray(grey.astype(np.uint16) * scale)
            if mode == "I;16"
            else Image.fromarray(
                grey.astype(np.int32) * scale
                if mode == "I"
                else grey.astype(np.float32) / rng.choice([1.0, 255.0, 250.0])
            )
        )
    elif mode == "LAB":
        image = Image.merge("LAB", image.split())
    else:
        image = image.convert(mode)
    file = io.BytesIO()
    options = {"exif": Image.Exif()} if suffix == "jpg" else {}
    if options:
        options["exif"][0x0112] = rng.randrange(0, 10)
    name = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    image.save(file, name, **options)
    return file.getvalue(), suffix


def spoiled(rng: random.Random, content: bytes) -> bytes:
    """The bytes of a file after something happened to it."""
    kind = rng.choice(
        ["flip", "flip", "header", "header", "cut", "cut", "insert", "zero", "empty", "text", "double", "sound"]
    )
    data = bytearray(content)
    if kind == "flip":
        for _ in range(rng.choice([1, 4, 32])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "header":
        for _ in range(rng.choice([1, 2, 4])):
            at = rng.randrange(min(64, len(data)))
            data[at : at + 4] = rng.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", struct.pack("<I", 65535)]
            )
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "insert":
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice([1, 100, 5000]))
    elif kind == "zero":
        at = rng.randrange(len(data))
        data[at : at + 200] = bytes(min(200, len(data) - at))
    elif kind == "empty":
        data.clear()
    elif kind == "text":
        data = bytearray(b"<html>404 not found</html>")
    elif kind == "double":
        data = data * 2
    return bytes(data)


def place(rng: random.Random, path: Path) -> Path:
    """Puts something odd where an image with this path (without suffix) would be; returns the file."""
    kind = rng.choice(["bytes"] * 12 + ["pipe", "socket", "folder", "dangling", "endless", "loop", "closed", "large"])
    content, suffix = encoded(rng)
    path = path.with_suffix("." + (suffix if rng.random() < 0.9 else rng.choice(sorted(_MODES))))
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket" and len(str(path)) < 100:
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere.png")
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "large":  # 900 million pixels in a kilobyte
        Image.new("1", (8, 8)).save(path.with_suffix(".png"))
        path = path.with_suffix(".png")
        data = bytearray(path.read_bytes())
        data[16:24] = struct.pack(">II", 30000, 30000)
        path.write_bytes(data)
    else:
        path.write_bytes(spoiled(rng, content))
        if kind == "closed":
            path.chmod(0)
    return path


def lay(rng: random.Random, root: Path, odd: int) -> list[Path]:
    """A data set of one category with ``odd`` odd files among sound ones; returns the odd files."""
    good, bad, masks = root / "screw/test/good", root / "screw/test/scratch", root / "screw/ground_truth/scratch"
    for folder in (good, bad, masks):
        folder.mkdir(parents=True)
    mask = np.zeros((_SIDE, _SIDE), np.uint8)
    mask[20:50, 30:60] = 255
    for i in range(2):
        Image.fromarray(picture(rng)).save(good / f"sound{i}.png")
        Image.fromarray(picture(rng)).save(bad / f"sound{i}.png")
        Image.fromarray(mask).save(masks / f"sound{i}_mask.png")
    files = []
    for i in range(odd):
        where = rng.choice(["good", "bad", "mask", "both"])
        if where == "good":
            files.append(place(rng, good / f"odd{i:02d}"))
            continue
        if where == "mask":
            Image.fromarray(picture(rng)).save(bad / f"odd{i:02d}.png")
        else:
            files.append(place(rng, bad / f"odd{i:02d}"))
        if where == "bad":
            Image.fromarray(mask).save(masks / f"odd{i:02d}_mask.png")
        else:
            files.append(place(rng, masks / f"odd{i:02d}_mask"))
    return files


def main() -> int:
    """Runs the rounds; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--each", type=int, default=10, help="odd files of a round")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    fuzzing.warm_up()
    tally, count, round_number = fuzzing.Tally(), 0, 0
    counts: Counter[str] = Counter()
    while count < given.files:
        rng = random.Random(f"{given.seed}/{round_number}")
        folder = Path(tempfile.mkdtemp(prefix="headlens-fuzz-"))
        files = lay(rng, folder / "set", given.each)
        what = f"seed {given.seed}/{round_number}"
        images = [file for file in files if "ground_truth" not in file.parts and not file.is_dir()]

        checked = fuzzing.call("data", "check", folder / "set", "--most", 1000)
        scored = fuzzing.call("score", folder / "set/screw/test", "--run", "mini-industrial", "--out", folder / "out")
        evaluated = fuzzing.call("eval", "--run", "mini-industrial-0", "--data", folder / "set", "--json")
        table, result = text(folder / "out/scores.csv"), document(evaluated.said)
        left_out = scored.said + text(folder / "out/scores.left_out.txt")
        skipped = list(json.loads(result)["skipped"]) if result else []
        tally.add(
            what, checked, [f"{name} is not named, and eval skips it" for name in skipped if name not in checked.said]
        )
        tally.add(
            what, scored, [f"{image.name} is not named" for image in images if image.name not in table + left_out]
        )
        tally.add(what, evaluated, [] if result or evaluated.status else ["neither a result nor an error"])
        counts["odd images that score left out"] += sum(image.name in left_out for image in images)
        counts["odd images that it scored"] += sum(image.name in table for image in images)
        counts["images that eval left out, with a reason"] += len(skipped)
        shutil.rmtree(folder)
        count, round_number = count + len(files), round_number + 1
    print(f"{count} odd files; {dict(counts)}")
    return tally.report()


def document(said: str) -> str:
    """The JSON object among all that a command has said; empty where it has said none."""
    lines = said.splitlines()
    return "\n".join(lines[lines.index("{") : lines.index("}") + 1]) if "{" in lines and "}" in lines else ""


def text(path: Path) -> str:
    """What is in a file; nothing where there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    raise SystemExit(main())
