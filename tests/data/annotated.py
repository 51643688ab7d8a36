"""Small data sets on disk whose labels are in files, from tables to outlines; makers as in ``trees``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.data.trees import SIZE, Told, Tree, mask, outline, picture, text


def visa(root: Path) -> Tree:
    """VisA as released."""
    told: Tree = {}
    rows = []
    for category in ("candle", "pcb1"):
        for kind, split, i in (
            ("Normal", "train", 0),
            ("Normal", "test", 1),
            ("Anomaly", "test", 0),
            ("Anomaly", "test", 1),
        ):
            name, where = f"{category}/Data/Images/{kind}/{i:03d}", f"{category}/Data/Masks/{kind}/{i:03d}.png"
            picture(root, name + ".JPG")
            flaw = kind == "Anomaly"
            if flaw:
                mask(root, where, 1)
            rows.append((category, split, kind.lower(), name + ".JPG", where if flaw else ""))
            told[name] = Told(category, flaw, "" if flaw else "good", split, where if flaw else None)
        text(root, f"{category}/image_anno.csv", "image,label,mask\n")
    table(root / "split_csv/1cls.csv", ("object", "split", "label", "image", "mask"), rows)
    table(root / "split_csv/2cls_fewshot.csv", ("object",), [])
    return told


def table(path: Path, header: tuple, rows: list) -> None:
    """Writes a csv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def dagm(root: Path) -> Tree:
    """DAGM from Kaggle; the second class has its folder twice, and a flaw whose label was lost."""
    told: Tree = {}
    for category, base in (("Class1", "Class1"), ("Class10", "Class10/Class10")):
        for split in ("Train", "Test"):
            lines = ["1"]
            for i in range(3):
                name = f"{base}/{split}/{i:04d}"
                picture(root, name + ".PNG")
                flaw = i == 1 or (i == 2 and category == "Class10")
                where = f"{base}/{split}/Label/{i:04d}_label.PNG" if i == 1 else None
                if where:
                    mask(root, where)
                lines.append(f"{i}\t{int(flaw)}\t{i:04d}.PNG\t0\t{Path(where).name if where else 0}")
                told[name] = Told(category, flaw, "defect" if flaw else "good", split.lower(), where)
            text(root, f"{base}/{split}/Label/Labels.txt", "\n".join(lines))
    return told


def realiad(root: Path) -> Tree:
    """Real-IAD at two sizes, of which the larger is read."""
    told: Tree = {}
    for category in ("audiojack", "pcb"):
        content: dict = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": [], "test": []}
        for split, kind, number in (("train", "OK", 1), ("test", "OK", 2), ("test", "BX", 3)):
            folder = "OK" if kind == "OK" else f"NG/{kind}"
            image = f"{folder}/S{number:04d}/{category}_{number:04d}_{kind}_C1_20231021.jpg"
            where = None if kind == "OK" else image.replace(".jpg", ".png")
            for size in ("realiad_256", "realiad_1024"):
                picture(root, f"{size}/{category}/{image}")
                if where:
                    mask(root, f"{size}/{category}/{where}")
            content[split].append(
                {"category": category, "anomaly_class": kind, "image_path": image, "mask_path": where}
            )
            told[f"realiad_1024/{category}/{image[:-4]}"] = Told(
                category,
                kind != "OK",
                "good" if kind == "OK" else kind,
                split,
                f"realiad_1024/{category}/{where}" if where else None,
            )
        text(root, f"realiad_jsons/realiad_jsons/{category}.json", json.dumps(content))
        text(root, f"realiad_jsons/realiad_jsons_sv/{category}.json", json.dumps(content | {"train": []}))
    return told


def headct(root: Path) -> Tree:
    """HeadCT from Kaggle: a table with spaces in its header, numbers without zeros, a folder in a folder."""
    told: Tree = {}
    for i in (0, 7, 12):
        picture(root, f"head_ct/head_ct/{i:03d}.png")
        told[f"head_ct/head_ct/{i:03d}"] = Told("brain", i == 7, "hemorrhage" if i == 7 else "good")
    text(root, "labels.csv", "id, hemorrhage\n" + "".join(f"{i},{int(i == 7)}\n" for i in (0, 7, 12)))
    return told


def _records(root: Path, told: Tree) -> list[tuple[str, Told]]:
    """Adds pictures for a listing: a normal one, one with a mask, one of the training split."""
    for name, it in (
        ("one/00.png", Told("one", False, "good")),
        ("one/01.png", Told("one", True, "dent", mask="one/m/01.png")),
        ("two/00.png", Told("two", False, "good", "train")),
    ):
        picture(root, name)
        if it.mask:
            mask(root, it.mask)
        told[name[:-4]] = it
    return [(f"{name}.png", it) for name, it in told.items()]


def meta(root: Path, prefix: str = "", keys: Callable[[str], str] = str) -> Tree:
    """meta.json; ``prefix`` stands before every path, and ``keys`` changes the names of splits."""
    told: Tree = {}
    content: dict = {keys("train"): {}, keys("test"): {}}
    for image, it in _records(root, told):
        row = {
            "img_path": prefix + image,
            "mask_path": prefix + it.mask if it.mask else "",
            "cls_name": it.category,
            "specie_name": it.family,
            "anomaly": int(bool(it.anomalous)),
        }
        content[keys(it.split)].setdefault(it.category, []).append(row)
    text(root, "meta.json", json.dumps(content))
    return told


def jsonl(root: Path) -> Tree:
    """AA-CLIP's: no families, no splits, labels as floats, masks where there are any."""
    told: Tree = {}
    lines = []
    for image, it in _records(root, told):
        row = {"image_path": image, "label": float(bool(it.anomalous)), "class_name": it.category}
        lines.append(json.dumps(row | ({"mask_path": it.mask} if it.mask else {})))
    text(root, "full-shot.jsonl", "\n".join(lines) + "\n")
    return {
        name: Told(it.category, it.anomalous, "" if it.anomalous else "good", "test", it.mask)
        for name, it in told.items()
    }


def listed(root: Path) -> Tree:
    """A table with everything."""
    told: Tree = {}
    rows = [
        (image, it.category, it.family, it.split, int(bool(it.anomalous)), it.mask)
        for image, it in _records(root, told)
    ]
    table(root / "set.csv", ("Image", "category", "family", "split", "label", "mask"), rows)
    return told


def crackforest(root: Path) -> Tree:
    """CrackForest: a struct of MATLAB for each image but those from 201 on, of which nobody says what they show."""
    from scipy.io import savemat

    told: Tree = {}
    (root / "groundTruth").mkdir(parents=True)
    for number in (1, 2, 201):
        name = f"image/{number:03d}"
        picture(root, f"{name}.jpg")
        where = f"groundTruth/{number:03d}.mat" if number < 200 else None
        if where:
            regions = outline(where).astype(np.uint8) + 1
            regions[regions == 1] = np.where(np.arange((regions == 1).sum()) % 5 == 0, 3, 1)
            savemat(root / where, {"groundTruth": {"Segmentation": regions, "Boundaries": regions == 2}})
            text(root, f"seg/{number:03d}.seg", "format ascii cr")
        told[name] = Told("pavement", True if where else None, "crack" if where else "", "test", where)
    text(root, "image/image.rar", "")
    return told


def elpv(root: Path, packed: str = "") -> Tree:
    """ELPV: a table without a header, cells by spaces; ``packed`` in the package that the repository is today."""
    told: Tree = {}
    lines = []
    for i, (chance, kind) in enumerate([("0.0", "mono"), ("1.0", "poly"), ("0.3333333333333333", "poly")] * 2):
        chance = "0.6666666666666666" if i == 5 else chance
        name = f"images/cell{i + 1:04d}"
        picture(root / packed, f"{name}.png")
        lines.append(f"{name}.png  {chance:20}{kind}")
        families = {"0.0": "good", "1.0": "defective", "0.3333333333333333": "probably good"}
        flaw = float(chance) > 0.5
        told[name] = Told(f"{kind}crystalline solar cell", flaw, families.get(chance, "probably defective"))
    text(root / packed, "labels.csv", "\n".join([*lines, ""]))
    if packed:
        text(root, "tests/test_elpv.py", "")
    return told


def _polygon(path: str) -> list[list[float]]:
    """``outline(path)`` by the corners of its corner pixels."""
    y, x = (line.nonzero()[0] for line in (outline(path).any(1), outline(path).any(0)))
    left, right, top, bottom = float(x[0]), float(x[-1] + 1), float(y[0]), float(y[-1] + 1)
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def bsdata(root: Path, data: str = "data", label: str = "label") -> Tree:
    """BSData: labelme's files in a folder of their own, for some of the images."""
    told: Tree = {}
    for i in range(5):
        name, where = f"{data}/01_2009_{i}_crop_1", f"{label}/01_2009_{i}_crop_1.json"
        picture(root, f"{name}.jpg")
        flaw = i < 2
        if flaw:
            shape = {"label": "Pitting", "points": _polygon(where), "shape_type": "polygon", "group_id": None}
            content = {
                "version": "4.5.6",
                "flags": {},
                "shapes": [shape],
                "imagePath": f"..\\data\\{Path(name).name}.jpg",
            }
            content |= {"imageData": "AAAA", "imageHeight": SIZE[1], "imageWidth": SIZE[0]}
            text(root, where, json.dumps(content))
        told[name] = Told(root.name, flaw, "Pitting" if flaw else "good", "test", where if flaw else None)
    text(root, "image_data.json", json.dumps({"images": [{"filename": "01_2009_0_crop_1.jpg"}]}))
    return told


def runs(mask: np.ndarray) -> list[int]:
    """COCO's lengths of a mask: down the columns, of what is not marked first."""
    flat = mask.flatten(order="F").astype(int)
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    return [0] * int(flat[0]) + np.diff(edges).tolist()


def compressed(counts: list[int]) -> str:
    """COCO's text of them."""
    text = ""
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(digit + 32 * more + 48)
    return text


def coco(root: Path, kind: str = "polygon", style: str = "roboflow") -> Tree:
    """COCO's JSON as Roboflow exports it (one beside the images of each split), or as CVAT does."""
    told: Tree = {}
    for split, word in (
        (("train", "train"), ("valid", "valid"), ("test", "test")) if style == "roboflow" else (("test", ""),)
    ):
        folder = word if style == "roboflow" else "images/default"
        file = f"{word}/_annotations.coco.json" if style == "roboflow" else "annotations/instances_default.json"
        content: dict = {"info": {}, "licenses": [], "images": [], "annotations": []}
        content["categories"] = [{"id": 0, "name": "flaws", "supercategory": "none"}, {"id": 1, "name": "dent"}]
        for i in range(3):
            name = f"{folder}/{i:03d}"
            picture(root, f"{name}.jpg")
            size = {"height": SIZE[1], "width": SIZE[0]}
            content["images"].append({"id": 10 + i, "file_name": f"{i:03d}.jpg"} | size)
            told[name] = Told(root.name, i > 0, "dent" if i else "good", split, file if i else None)
            if i:
                marked = outline(file)
                drawn: object = [[value for point in _polygon(file) for value in point]]
                if kind != "polygon":
                    counts = runs(marked)
                    drawn = {"size": [SIZE[1], SIZE[0]], "counts": counts if kind == "runs" else compressed(counts)}
                row = {"id": len(content["annotations"]), "image_id": 10 + i, "category_id": 1, "bbox": [0, 0, 1, 1]}
                content["annotations"].append(row | {"segmentation": drawn, "iscrowd": int(kind == "runs"), "area": 9})
        text(root, file, json.dumps(content))
    return told
