"""One reader for each on-disk layout. A layout is a line in ``LAYOUTS``; the first that fits a folder reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from headlens.data.readers import coco, downloads, folders, labelme, listings
from headlens.data.readers.tree import Root
from headlens.data.samples import Record


@dataclass(frozen=True)
class Layout:
    """How a data set lies on disk.

    Args:
        name: what users call it.
        about: one line.
        fits: whether a folder, or a file, looks like it. Looks at names and headers of tables, never into images.
        read: its records, of all splits; an empty category where the layout has none.
        domain: where every set of this layout has the same.
        listing: whether a file tells the records, so that ``at`` need not be where the pictures are.
    """

    name: str
    about: str
    fits: Callable[[Root, Path], bool]
    read: Callable[[Root, Path], Iterator[Record]]
    domain: str = ""
    listing: bool = False


LAYOUTS = (
    Layout(
        "realiad",
        "Real-IAD: realiad_jsons/*.json and realiad_1024",
        listings.fits_realiad,
        listings.read_realiad,
        "industrial",
        listing=True,
    ),
    Layout("meta", "meta.json of AnomalyCLIP and its kin", listings.fits_meta, listings.read_meta, listing=True),
    Layout("visa", "VisA as released: split_csv/1cls.csv", listings.fits_visa, listings.read_visa, "industrial"),
    Layout(
        "headct", "HeadCT: labels.csv with id and hemorrhage", downloads.fits_headct, downloads.read_headct, "medical"
    ),
    Layout(
        "ksdd", "KolektorSDD: kosNN/PartK, each cut in three", downloads.fits_ksdd, downloads.read_ksdd, "industrial"
    ),
    Layout(
        "ksdd2",
        "KolektorSDD2: {train,test}/NNNNN and NNNNN_GT",
        downloads.fits_ksdd2,
        downloads.read_ksdd2,
        "industrial",
    ),
    Layout(
        "dagm",
        "DAGM from Kaggle: Train and Test with Label inside",
        downloads.fits_dagm,
        downloads.read_dagm,
        "industrial",
    ),
    Layout(
        "magnetic-tile",
        "magnetic tile: MT_<Flaw>/Imgs with jpg and png",
        downloads.fits_magnetic,
        downloads.read_magnetic,
        "industrial",
    ),
    Layout(
        "crackforest",
        "CrackForest: image/ and groundTruth/*.mat",
        downloads.fits_crackforest,
        downloads.read_crackforest,
        "industrial",
    ),
    Layout(
        "elpv",
        "ELPV: labels.csv of images, probabilities, mono or poly",
        downloads.fits_elpv,
        downloads.read_elpv,
        "industrial",
        listing=True,
    ),
    Layout("bmad", "BMAD: {train,valid,test}/{good,Ungood}", folders.fits_bmad, folders.read_bmad),
    Layout("isic", "ISIC: …_Data and …_GroundTruth", folders.fits_isic, folders.read_isic, "medical"),
    Layout("pairs", "images/ and masks/, matched by name", folders.fits_pairs, folders.read_pairs),
    Layout("mvtec", "MVTec AD: {train,test}/family and ground_truth", folders.fits_mvtec, folders.read_mvtec),
    Layout(
        "coco",
        "COCO: JSON with images, annotations, categories",
        coco.fits_coco,
        coco.read_coco,
        listing=True,
    ),
    Layout("labelme", "labelme: a.json beside a.jpg, or label/a.json", labelme.fits_labelme, labelme.read_labelme),
    Layout("classes", "yes/ and no/, or NORMAL/ and others", folders.fits_classes, folders.read_classes),
    Layout(
        "jsonl", "one JSON record on each line, as AA-CLIP's", listings.fits_jsonl, listings.read_jsonl, listing=True
    ),
    Layout("csv", "a table of images", listings.fits_csv, listings.read_csv, listing=True),
    Layout("images", "pictures without labels", folders.fits_images, folders.read_images),
)
"""In the order in which they are tried: the specific before the general."""

__all__ = ["LAYOUTS", "Layout", "Root"]
