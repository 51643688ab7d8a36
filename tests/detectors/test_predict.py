from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from headlens import data
from headlens.data import Pixels, Record
from headlens.data.procedural import World, write
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.errors import DataError, ShapeError
from headlens.predict import as_bytes, predict
from headlens.results import read_parquet
from tests.tiny import SMALL


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def test_every_form_of_a_picture_is_the_same_picture(picture, tmp_path):
    expected = torch.from_numpy(picture).permute(2, 0, 1)
    Image.fromarray(picture).save(tmp_path / "a.png")
    forms = (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(picture),
        picture,
        picture / 255,
        expected,
        expected.float() / 255,
        expected.long(),
    )
    for form in forms:
        assert torch.equal(as_bytes(form), expected)
    grey = as_bytes(picture[..., 0])
    assert torch.equal(grey, expected[:1].expand(3, -1, -1))


def test_sixteen_bits_are_scaled_as_those_of_a_file(tmp_path):
    grey = (np.random.default_rng(0).integers(0, 2**16, (20, 30))).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    expected = as_bytes(tmp_path / "deep.png")
    assert expected.float().std() > 50
    with Image.open(tmp_path / "deep.png") as opened:
        assert torch.equal(as_bytes(opened), expected)
    assert torch.equal(as_bytes(grey), expected)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (np.zeros((4, 5, 7)), r"\(4, 5, 7\)"),
        (torch.zeros(4, 5), r"\(4, 5\)"),
        (np.zeros((0, 5, 3)), "no pixels"),
        (torch.full((3, 4, 4), -2.0), "-2 to -2"),
        (torch.full((3, 4, 4), float("nan")), "nan"),
        (np.full((4, 4, 3), 70_000), "70000"),
        (42, "int is not an image"),
        (Record("a", "b", None), r"Record is not an image; .* images\[3\]"),
        (np.zeros((4, 4), complex), "complex128"),
        (np.array([["a", "b"]]), "expected numbers"),
        (np.full((4, 4), -1), "from -1 to -1"),
    ],
)
def test_what_is_no_picture_is_named(bad, named):
    with pytest.raises(ShapeError, match=named):
        as_bytes(bad)


def test_pixels_of_a_data_set_are_a_picture():
    image = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    assert torch.equal(as_bytes(Pixels(image, torch.ones(4, 5, dtype=torch.bool))), image)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="gone"):
        as_bytes(tmp_path / "gone.png")


def test_order_and_batch_do_not_matter(clip):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    generator = np.random.default_rng(1)
    pictures = [generator.integers(0, 256, (24, 20 + i, 3), dtype=np.uint8) for i in range(5)]
    all_at_once = predict(detector, pictures, size=32, batch=5)
    backwards = predict(detector, (p for p in reversed(pictures)), size=32, batch=2)
    torch.testing.assert_close(all_at_once.joint_score, backwards.joint_score.flip(0))
    torch.testing.assert_close(all_at_once.anomaly_map, backwards.anomaly_map.flip(0))
    pixels = Pixels(as_bytes(pictures[0]), None)
    one = [predict(detector, picture, size=32).joint_score for picture in (pictures[0], pixels)]
    assert len(one[0]) == 1 and torch.equal(*one)
    assert all_at_once.tap_margins[3].shape == (5, 4, 4)
    with pytest.raises(ShapeError, match="no image"):
        predict(detector, [], size=32)


def test_a_prediction_has_a_frame_a_figure_files_and_a_provenance(clip, tmp_path):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    found = predict(detector, [torch.zeros(3, 40, 30), torch.ones(3, 40, 30)], size=32)
    fig, ax = found.plot(image=1)
    assert ax.get_title() == f"joint score {float(found.joint_score[1]):.2f}" and "tiny" in fig.get_supxlabel()
    assert np.array_equal(ax.images[0].get_array(), found.anomaly_map[1])
    with pytest.raises(ShapeError, match="image 2 does not exist; there are 2"):
        found.plot(image=2)
    frame, about = read_parquet(found.save(tmp_path / "scores.parquet"))
    assert about == found.provenance and about["size"] == 32 and about["learned_sha256"]
    assert frame["joint score"].tolist() == found.joint_score.tolist()
    with np.load(found.save(tmp_path / "maps.npz")) as arrays:
        assert np.array_equal(arrays["anomaly_map"], found.anomaly_map) and "provenance" in arrays


@pytest.fixture(scope="module")
def bolts(tmp_path_factory):
    """A folder of images, and the data set in it."""
    folder = tmp_path_factory.mktemp("bolts")
    write(World("procedural:industrial", per_category=2, size=32), folder)
    return folder / "screw", data.open(folder / "screw")


def test_a_data_set_a_part_of_it_and_its_folder_are_scored(bolts, clip):
    detector = HeadCLIP(clip, preset("headclip", **SMALL), seed=1)
    folder, images = bolts
    whole, names = predict(detector, images, size=32), [record.name for record in images.records]
    assert whole.frame.index.tolist() == list(whole.names) == names and len(names) == 2
    assert whole.provenance["category"] == "screw"
    for given in (str(folder), folder, list(images)):
        assert torch.equal(predict(detector, given, size=32).joint_score, whole.joint_score)
    assert torch.allclose(predict(detector, images[1:], size=32).joint_score, whole.joint_score[1:], atol=1e-6)
    assert predict(detector, list(images), size=32).frame.index.tolist() == [0, 1]


def test_a_category_that_is_given_is_stronger_than_that_of_the_set(bolts, clip):
    detector, asked = HeadCLIP(clip, preset("headclip", **SMALL), seed=1), []
    read = detector.reading
    with patch.object(detector, "reading", lambda images, categories: asked.append(list(categories)) or read(images)):
        for images, category in ((bolts[1], None), (bolts[1][0], "bolt"), (bolts[1][0].image, None)):
            predict(detector, images, size=32, category=category)
    assert asked == [["screw", "screw"], ["bolt"], ["object"]]
