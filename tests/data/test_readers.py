"""Every reader on a tree of its layout, and on trees as strangers make them."""

from __future__ import annotations

import shutil
import string
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data import FileSet, Record, layouts, open
from headlens.data.readers import LAYOUTS
from headlens.data.readers.known import known
from headlens.data.readers.tree import NORMAL, pair
from headlens.errors import DataError
from tests.data import annotated, trees

quick = settings(deadline=None, max_examples=60, derandomize=True)

EVERY: list[tuple[str, Callable[[Path], trees.Tree], str, str]] = [
    ("mvtec", trees.mvtec, "mvtec_anomaly_detection", "industrial"),
    ("mvtec", trees.mvtec, "unheard_of", "industrial"),  # by its categories
    ("mvtec", trees.btad, "BTech_Dataset_transformed", "industrial"),
    ("mvtec", trees.converted_visa, "VisA_pytorch", "industrial"),
    ("visa", annotated.visa, "VisA_20220922", "industrial"),
    ("dagm", annotated.dagm, "DAGM_KaggleUpload", "industrial"),
    ("ksdd", trees.ksdd, "KolektorSDD", "industrial"),
    ("ksdd2", trees.ksdd2, "KolektorSDD2", "industrial"),
    ("realiad", annotated.realiad, "Real-IAD", "industrial"),
    ("bmad", trees.bmad, "BMAD", "medical"),
    ("bmad", partial(trees.bmad, masks="anomaly_mask", flawed="ungood"), "BMAD", "medical"),
    ("bmad", partial(trees.bmad, masks="", pictures=""), "BMAD", "medical"),
    ("headct", annotated.headct, "archive", "medical"),
    ("classes", trees.yes_no, "brain_tumor_dataset", "medical"),
    ("classes", trees.covid, "COVID-19_Radiography_Dataset", "medical"),
    ("pairs", trees.pairs, "CVC-ColonDB", "medical"),
    ("pairs", partial(trees.pairs, images="Original", masks="Ground Truth", kind=".tif"), "CVC-ClinicDB", "medical"),
    ("pairs", partial(trees.pairs, suffix="_mask", kind=".jpg"), "Kvasir-SEG", "medical"),
    ("pairs", partial(trees.pairs, images="test/Images", masks="test/Masks"), "EndoTect_2020", "medical"),
    ("pairs", trees.tn3k, "tn3k", "medical"),
    ("isic", trees.isic, "skin", "medical"),
    ("magnetic-tile", trees.magnetic, "Magnetic-Tile-Defect", "industrial"),
    ("crackforest", annotated.crackforest, "CrackForest-dataset", "industrial"),
    ("elpv", annotated.elpv, "elpv-dataset", "industrial"),
    ("classes", trees.busi, "Dataset_BUSI_with_GT", "medical"),
    ("mvtec", trees.loco, "mvtec_loco_anomaly_detection", "industrial"),
    ("labelme", annotated.bsdata, "BSData", "industrial"),
    ("labelme", partial(annotated.bsdata, data="test", label="test"), "drives", ""),
    ("coco", annotated.coco, "export", ""),
    ("coco", partial(annotated.coco, kind="runs", style="cvat"), "export", ""),
    ("coco", partial(annotated.coco, kind="compressed"), "export", ""),
    ("images", trees.plain, "pictures", ""),
    ("meta", annotated.meta, "set", ""),
    ("jsonl", annotated.jsonl, "set", ""),
    ("csv", annotated.listed, "set", ""),
]


UNPAIRED = [make for layout, make, _, _ in EVERY if layout == "pairs" and make is not trees.tn3k]


@pytest.mark.filterwarnings("ignore::headlens.errors.HeadlensWarning")
@pytest.mark.parametrize(("layout", "make", "name", "domain"), EVERY)
def test_every_layout(tmp_path, layout, make, name, domain):
    root = tmp_path / name
    told = make(root)
    data = open(root, split="all")
    assert isinstance(data, FileSet)
    assert (data.layout, data.domain, data.name) == (layout, domain, name)
    base = root / "1cls" if (root / "1cls").exists() else root
    trees.agree(data, told, base)
    expected = {"labelme": ["no file of labelme"]}.get(layout, [])
    expected = ["masks belong to no image"] if make in UNPAIRED else expected
    assert [part in note for part, note in zip(expected, data.notes, strict=True)] == [True] * len(expected)
    assert data.has_masks == any(it.anomalous and it.mask for it in told.values())
    assert data.has_normals == ({it.anomalous for it in told.values()} >= {True, False})
    named = open(base, layout, split="all", domain="other")
    assert named.records == data.records
    assert named.domain == "other"
    tests = {key: it for key, it in told.items() if it.split == "test"}
    trees.agree(open(root), tests, base)


def test_every_layout_has_a_test():
    elsewhere = {"clips", "generators"}  # test_clips.py, test_generators.py
    assert {row[0] for row in EVERY} | elsewhere == {layout.name for layout in LAYOUTS} == set(layouts())
    assert all(layouts().values())


@pytest.mark.parametrize("make", [trees.mvtec, trees.btad, trees.bmad, annotated.visa, annotated.dagm])
def test_one_category_of_a_set(tmp_path, make):
    """Opened by its folder, a category is what it is in the whole set."""
    make(tmp_path / "set")
    whole = open(tmp_path / "set", split="all")
    for folder in sorted(path for path in (tmp_path / "set").iterdir() if path.is_dir()):
        if folder.name in ("__MACOSX", "split_csv"):
            continue
        part = [record for record in whole.records if record.image and record.image.is_relative_to(folder)]
        own = open(folder, split="all")
        facts = [
            (r.image, r.mask, r.anomalous, r.family, r.split, r.category) for r in sorted(own.records, key=name_of)
        ]
        assert facts == [
            (r.image, r.mask, r.anomalous, r.family, r.split, r.category) for r in sorted(part, key=name_of)
        ]
        if make in (trees.mvtec, trees.btad, annotated.visa):
            assert {r.name for r in own.records} == {r.name for r in part}


def name_of(record: Record) -> str:
    return str(record.image)


@pytest.mark.parametrize(
    ("name", "domain", "category"),
    [
        ("mvtec_anomaly_detection", "industrial", ""),
        ("MVTec-AD", "industrial", ""),
        ("VisA_20220922", "industrial", ""),
        ("dtd-synthetic", "industrial", ""),
        ("SDD_anomaly_detection", "industrial", ""),
        ("KSDD2", "industrial", ""),
        ("BrainMRI", "medical", "brain"),
        ("Br35h_anomaly_detection", "medical", "brain"),
        ("Brain_AD", "medical", "brain"),
        ("Retina_RESC_AD", "medical", "retina"),
        ("ISIC2016", "medical", "skin"),
        ("CVC-300", "medical", "colon"),
        ("EndoTect_2020_Segmentation_Test_Dataset", "medical", "colon"),
        ("tn3k", "medical", "thyroid"),
        ("vendor", "", ""),
        ("visage", "", ""),
        ("images", "", ""),
        ("Dataset_BUSI_with_GT", "medical", "breast"),
        ("brain_tumor_dataset", "medical", "brain"),
        ("Retina_OCT2017_AD", "medical", "retina"),
        ("skin lesions 2019", "medical", "skin"),
        ("retina_display_defects", "", ""),
        ("skin_of_fruit", "", ""),
        ("liver_sausage", "", ""),
        ("chest_freezer_panels", "", ""),
        ("endoscope_lenses", "", ""),
        ("semicolon-fonts", "", ""),
        ("cvcable", "", ""),
    ],
)
def test_known_names(name, domain, category):
    assert known([name]) == (domain, category)
    assert known(["something", name]) == (domain, category)


def test_elpv_in_its_package(tmp_path):
    told = annotated.elpv(tmp_path, "src/elpv_dataset/data")
    for place in (tmp_path, tmp_path / "src/elpv_dataset/data"):
        data = open(place)
        assert isinstance(data, FileSet)
        assert data.layout == "elpv"
        trees.agree(data, told, tmp_path / "src/elpv_dataset/data")
    trees.text(
        tmp_path, "src/elpv_dataset/data/labels.csv", "images/cell0001.png 1.5 mono\nimages/cell0002.png 0.0 mono\n"
    )
    with pytest.raises(DataError, match=r"labels\.csv: line 1: 'images/cell0001\.png 1\.5 mono' is not an image"):
        open(tmp_path, layout="elpv")


def test_several_sets_in_a_folder_are_named(tmp_path):
    annotated.bsdata(tmp_path / "BSData")
    annotated.crackforest(tmp_path / "CrackForest")
    annotated.coco(tmp_path / "deep/er/export")
    with pytest.raises(
        DataError, match=r"Open one of these: .*BSData \(labelme\), .*CrackForest \(crackforest\), .*deep"
    ):
        open(tmp_path)


@pytest.mark.parametrize(
    ("make", "name", "domain"),
    [
        (trees.mvtec, "mine", "industrial"),
        (trees.bmad, "castings", ""),
        (trees.bmad, "castings/Brain_AD", "medical"),
        (trees.yes_no, "bolts", ""),
        (annotated.headct, "castings", "medical"),
    ],
)
def test_a_domain_that_nothing_tells_is_empty(tmp_path, make, name, domain):
    """Not one by a layout that anybody's set can have, nor by a word that can be about anything."""
    make(tmp_path / name.partition("/")[0])
    if make is trees.bmad and "/" not in name:
        (tmp_path / "castings/Brain_AD").rename(tmp_path / "castings/left")
    assert open(tmp_path / name).domain == domain
    assert open(tmp_path / name, domain="medical").domain == "medical"
    trees.picture(tmp_path, "capsule/test/good/1.png")
    assert open(tmp_path / "capsule", split="all").domain == ""


# Trees of strangers
names = st.text(string.ascii_letters + string.digits + " äß測-()", min_size=1, max_size=8).map(str.strip)
cased = st.sampled_from([str.lower, str.upper, str.title])
endings = st.sampled_from([".png", ".PNG", ".jpg", ".JPG", ".jpeg", ".bmp", ".tif", ".TIFF"])


def distinct(strategy: st.SearchStrategy[str], least: int, most: int) -> st.SearchStrategy[list[str]]:
    """Usable as file names side by side, also where case does not count."""
    return st.lists(strategy.filter(bool), min_size=least, max_size=most, unique_by=str.casefold)


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


@quick
@given(st.data())
def test_mvtec_trees_of_strangers(data):
    """Any names, suffixes and cases; masks with any ending, of any kind, or lost; splits that are not there.

    The files are empty: nobody looks into a picture to recognise a set or to list it.
    """
    draw, expected = data.draw, set()
    taken = {*NORMAL, "train", "test", "valid", "ungood", "label", "data", "images", "masks"}
    free = names.filter(lambda name: name.casefold() not in taken and not name.lower().startswith("kos"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        for category in draw(distinct(free, 1, 3)):
            case, ending, kind = draw(cased), draw(endings), draw(endings)
            truth, normal = draw(st.sampled_from(["ground_truth", "GT"])), case(draw(st.sampled_from(sorted(NORMAL))))
            for family in [normal, *draw(distinct(free, 0, 3))]:
                for number, stem in enumerate(draw(distinct(names, 1, 5))):
                    split = "test" if number == 0 else draw(st.sampled_from(["train", "test", "valid"]))
                    image = root / category / case(split) / family / f"{stem}{ending}"
                    touch(image)
                    mask = None
                    if family != normal and draw(st.booleans()):
                        role = draw(st.sampled_from(["", "_mask", "_MASK", "-gt", " label"]))
                        mask = (
                            root
                            / category
                            / truth
                            / family
                            / f"{draw(st.sampled_from([stem, case(stem)]))}{role}{kind}"
                        )
                        touch(mask)
                    told = "good" if family == normal else family
                    expected.add((image, mask, category, family != normal, told, split))
        found = open(root, split="all")
        assert isinstance(found, FileSet)
        assert found.layout == "mvtec"
        got = {(r.image, r.mask, r.category, r.anomalous, r.family, r.split) for r in found.records}
        assert got == expected
        assert len(found) == len(expected) == len({record.name for record in found.records})


@quick
@given(st.data())
def test_pairs_of_strangers(data):
    """Masks find their images by name: whatever order, ending, kind and case, and however many are missing."""
    stems = data.draw(distinct(names, 1, 8))
    ending = data.draw(st.sampled_from(["", "_mask", "_Segmentation", " gt", "-label"]))
    images = {stem: Path("images", stem + data.draw(endings)) for stem in stems}
    masks = {
        stem: Path("masks", data.draw(cased)(stem) + ending + data.draw(endings))
        for stem in stems
        if data.draw(st.booleans())
    }
    mixed = data.draw(st.permutations([*masks.values(), Path("masks", f"nobodys{ending}.png")]))
    if "nobodys" not in map(str.lower, stems):
        asked = data.draw(st.permutations(list(images)))
        expected = [masks.get(stem) for stem in asked]
        assert pair([images[stem] for stem in asked], mixed) == expected


@quick
@given(
    st.lists(
        st.sampled_from(["a.png", "a.jpg", "A.png", "a_mask.png", "a_gt.jpg", "b.png", "B_mask.PNG"]), unique=True
    ),
    st.lists(
        st.sampled_from(["a.png", "a.jpg", "A.png", "a_mask.png", "a_gt.jpg", "b.png", "B_mask.PNG"]), unique=True
    ),
    st.randoms(),
)
def test_no_mask_twice_and_none_by_position(images, masks, random):
    """However confusing the names: a mask goes to one image, and the order of files changes nothing."""
    images, masks = [Path("i", name) for name in images], [Path("m", name) for name in masks]
    found = dict(zip(images, pair(images, masks), strict=True))
    given_out = [mask for mask in found.values() if mask]
    assert len(given_out) == len(set(given_out))
    for image in images:
        if Path("m", image.name) in masks:
            assert found[image] == Path("m", image.name)
    random.shuffle(images)
    random.shuffle(masks)
    assert dict(zip(images, pair(images, masks), strict=True)) == found


def test_a_lost_mask_does_not_shift_the_others_and_is_not_all_normal(tmp_path):
    """Pairing by position would give image 5 the mask of image 7."""
    trees.pairs(tmp_path / "kvasir")
    data = open(tmp_path / "kvasir")
    five = next(i for i, record in enumerate(data.records) if record.name == "images/5")
    assert data.records[five].anomalous
    assert data.pixels(five).mask is None
    assert data.has_masks
    assert not data.has_normals


def test_pictures_that_differ_in_their_suffix_only(tmp_path):
    for name in ("a.png", "a.bmp", "b.png"):
        trees.picture(tmp_path, name)
    data = open(tmp_path)
    assert {r.name for r in data.records} == {"a.png", "a.bmp", "b"}


def test_ksdd_is_cut_in_three(tmp_path):
    trees.ksdd(tmp_path / "sdd")
    data = open(tmp_path / "sdd")
    whole = np.asarray(Image.open(tmp_path / "sdd/kos01/Part0.jpg"))
    label = np.asarray(Image.open(tmp_path / "sdd/kos01/Part0_label.bmp")) > 0
    parts = [data.pixels(i) for i, record in enumerate(data.records) if record.name.startswith("kos01")]
    images = torch.cat([part.image for part in parts], 1)
    masks = torch.cat([part.mask for part in parts if part.mask is not None])
    assert np.array_equal(images[0].numpy(), whole)
    assert np.array_equal(masks.numpy(), label)
    assert [part.image.shape[1] for part in parts] == [10, 10, 11]
    # an image that is not what its label says
    Image.new("L", (10, 20)).save(tmp_path / "sdd/kos01/Part0.jpg")
    with pytest.raises(DataError, match=r"Part0_label.bmp: is 10x31, .*Part0.jpg is 10x20"):
        data.pixels(2)


def test_ksdd_with_a_label_lost_and_one_broken(tmp_path):
    trees.ksdd(tmp_path)
    (tmp_path / "kos01/Part0_label.bmp").write_bytes(b"no picture")
    shutil.copy(tmp_path / "kos02/Part1.jpg", tmp_path / "kos02/Part2.jpg")
    with pytest.raises(DataError, match="not an image"):
        open(tmp_path)
    refused: list[DataError] = []
    data = open(tmp_path, refuse=refused.append)
    assert {record.name for record in data.records} == {f"kos02/Part1_{k}" for k in range(3)}
    assert ["Part0_label" in str(error) or "Part2.jpg: has no mask" in str(error) for error in refused] == [True] * 2


def test_ksdd_labels_count_as_pixels_too(tmp_path):
    trees.ksdd(tmp_path)
    with pytest.raises(DataError, match=r"Part0_label\.bmp: 10x31 pixels are more than max_pixels = 300"):
        open(tmp_path, max_pixels=300)


def test_ksdd2_with_a_mask_lost_and_one_broken(tmp_path):
    """Without it nobody knows whether the image is normal."""
    trees.ksdd2(tmp_path)
    (tmp_path / "test/10001_GT.png").rename(tmp_path / "test/20001.png")
    (tmp_path / "train/10000_GT.png").write_bytes(b"no picture")
    refused: list[DataError] = []
    data = open(tmp_path, split="all", refuse=refused.append)
    assert [r.name for r in data.records] == ["test/10000", "test/10002", "train/10001", "train/10002"]
    assert [Path(str(error).partition(": ")[0]).name for error in refused] == [
        "10001.png",
        "20001.png",
        "10000_GT.png",
    ]


# DAGM, HeadCT, BMAD, VisA
@pytest.mark.parametrize("lost", ["Label", "Label/*"])
def test_dagm_without_labels_is_not_normal(tmp_path, lost):
    annotated.dagm(tmp_path)
    for path in list((tmp_path / "Class1/Test").glob(lost)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError, match="Class1/Test: neither"):
        open(tmp_path)
    refused: list[DataError] = []
    data = open(tmp_path, split="all", refuse=refused.append)
    assert len(refused) == 1
    assert len(data) == 9
    assert not any(record.name.startswith("Class1/Test") for record in data.records)


def test_headct_with_a_second_folder_of_the_same_numbers(tmp_path):
    told = annotated.headct(tmp_path / "usual")
    for i in (0, 7, 12):
        trees.picture(tmp_path / "usual", f"overlays/{i:03d}.png")
    trees.agree(open(tmp_path / "usual"), told, tmp_path / "usual")
    (tmp_path / "usual/head_ct/head_ct/007.png").unlink()
    assert [r.image for r in open(tmp_path / "usual").records][1] == tmp_path / "usual/head_ct/007.png"
    for folder in ("a", "b"):
        trees.picture(tmp_path / "other", f"{folder}/001.png")
    trees.text(tmp_path / "other", "labels.csv", "id,hemorrhage\n1,1\n")
    with pytest.raises(DataError, match=r"line 2 can be .*a/001\.png and .*b/001\.png"):
        open(tmp_path / "other")


def test_headct_tables(tmp_path):
    trees.picture(tmp_path, "head_ct/003.png")
    for content in ("id;hemorrhage\n3;1\n", "id\themorrhage\n0003\t1\n", "ID, hemorrhage,\n"):
        trees.text(tmp_path, "labels.csv", content)
        if content.endswith("1\n"):
            assert [(r.name, r.anomalous) for r in open(tmp_path).records] == [("head_ct/003", True)]
    trees.text(tmp_path, "labels.csv", f"id,hemorrhage\n{'9' * 5000},1\n")
    assert open(tmp_path).records[0].image == tmp_path / f"head_ct/{'9' * 5000}.png"
    trees.text(tmp_path, "labels.csv", f"id,hemorrhage\n0,{'1' * 200_000}\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2 is not csv"):
        open(tmp_path)


def test_several_sets_of_bmad_are_several_categories(tmp_path):
    """Two of them show the retina, and their pictures have the same names."""
    trees.bmad(tmp_path)
    for other in ("Retina_RESC_AD", "Retina_OCT2017_AD"):
        shutil.copytree(tmp_path / "Brain_AD", tmp_path / other)
    assert open(tmp_path).categories == ("Brain_AD", "Retina_OCT2017_AD", "Retina_RESC_AD")
    assert open(tmp_path / "Retina_RESC_AD").categories == ("retina",)
