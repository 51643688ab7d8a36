"""Any folder at all, of anything that lies about on a disk: opened and checked, or refused in one error."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data import check, layouts, open
from headlens.errors import DataError
from tests.data import trees

FOLDERS = [
    "train",
    "test",
    "good",
    "bad",
    "Ungood",
    "ok",
    "yes",
    "no",
    "NORMAL",
    "ground_truth",
    "masks",
    "images",
    "image",
    "label",
    "Imgs",
    "MT_Crack",
    "MT_Free",
    "kos01",
    "Class1",
    "Label",
    "annotations",
    "groundTruth",
    "split_csv",
    "realiad_jsons",
    "realiad_1024",
    "Data",
    "ISIC_GroundTruth",
    "ISIC_Data",
    "head_ct",
    ".git",
]
FILES = [
    "a.png",
    "a.jpg",
    "a_mask.png",
    "a_mask_1.png",
    "b.bmp",
    "A.PNG",
    "Part0.jpg",
    "Part0_label.bmp",
    "001.png",
    "a.json",
    "meta.json",
    "labels.csv",
    "_annotations.coco.json",
    "1cls.csv",
    "t.csv",
    "l.jsonl",
    "Labels.txt",
    "a.mat",
    "mask_colours.csv",
    "ISIC_1_Segmentation.png",
    "\udce9.png",
]
TEXTS = [
    '{"test": {"a": [{"img_path": "a.png", "mask_path": "a_mask.png", "anomaly": 1}]}}',
    '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 1, "category_id": 1, "segmentation": '
    '[[0, 0, 5, 0, 5, 5]]}], "categories": [{"id": 1, "name": "x"}]}',
    '{"shapes": [{"label": "x", "points": [[0, 0], [5, 0], [5, 5]]}], "imagePath": "a.png"}',
    '{"meta": {"prefix": "a/"}, "train": [], "test": [{"image_path": "a.png"}]}',
    '{"image": "a.png", "label": 1}\n{"image": "b.bmp"}\n',
    "id,hemorrhage\n1,1\n",
    "image,label\na.png,1\nb.bmp,0\n",
    "object,split,label,image,mask\nbottle,test,anomaly,a.png,a_mask.png\n",
    "images/a.png 0.33 mono\n",
    "1\n1\t1\ta.png\t0\t0\n",
    "colour,label\n0,0\n255,1\n",
    "",
    "{",
    "\0",
]
KINDS = ["image", "image", "image", "mask", "text", "text", "pipe", "loop", "dangling", "device", "up", "folder"]
places = st.lists(st.sampled_from(FOLDERS), max_size=3).map("/".join)
entries = st.tuples(places, st.sampled_from(FILES), st.sampled_from(KINDS), st.sampled_from(TEXTS))


def put(root: Path, place: str, name: str, kind: str, text: str) -> None:
    path = root / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    links = {"loop": name, "dangling": "nowhere", "device": "/dev/zero", "up": ".."}
    if kind in links:
        path.symlink_to(links[kind])
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "text" and path.suffix.lower() in (".png", ".jpg", ".bmp"):
        (trees.picture if kind == "image" else trees.mask)(root, f"{place}/{name}".lstrip("/"))
    else:
        path.write_text(text, encoding="utf-8")


@pytest.mark.filterwarnings("ignore::headlens.errors.HeadlensWarning")
@settings(deadline=None, max_examples=80, derandomize=True)
@given(st.lists(entries, min_size=1, max_size=12), st.sampled_from([None, None, *layouts()]), st.booleans())
def test_any_folder_is_read_or_refused(entries, layout, follow_links):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        for place, name, kind, text in entries:
            put(root, place, name, kind, text)
        told: list[DataError] = []
        for refuse in (None, told.append):
            try:
                data = open(root, layout, split="all", refuse=refuse, follow_links=follow_links)
            except DataError as error:
                told.append(error)
                continue
            assert len({record.name for record in data.records}) == len(data) > 0
            assert len(data.fingerprint) == 64
            assert len(data.frame) == len(data)
            told += [DataError(problem.message) for problem in check(data, workers=1).problems]
        assert all("\n" not in str(error) for error in told)
