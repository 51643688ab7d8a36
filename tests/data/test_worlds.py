"""The worlds as data sets: the same bytes every time, masks that are true, splits that leak nothing."""

from __future__ import annotations

import csv
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.data.procedural.captions import caption, kind, states
from headlens.data.procedural.catalogue import _AUX, _UNSEEN, CATEGORIES, FAMILIES, FAMILY_WORDS, HELD_OUT, ROLES
from headlens.data.procedural.render import COLOURS, PLACES
from headlens.data.procedural.worlds import SPECS, Sample, World, read, write
from headlens.errors import DataError

DOMAINS = ("industrial", "medical")
LEAST_AREA, LEAST_CHANGE = 1 / 1500, 0.03

quick = settings(deadline=None, max_examples=30, derandomize=True)


def same(a: Sample, b: Sample) -> None:
    assert torch.equal(a.image, b.image)
    assert a.image.dtype == b.image.dtype == torch.uint8
    assert torch.equal(a.mask, b.mask)
    assert a.mask.dtype == b.mask.dtype == torch.bool
    assert [getattr(a, f) for f in ("category", "family", "severity", "caption", "name", "anomalous")] == [
        getattr(b, f) for f in ("category", "family", "severity", "caption", "name", "anomalous")
    ]


# Determinism
FINGERPRINT = """
import hashlib, sys, torch
from headlens.data.procedural.worlds import SPECS, World
digest = hashlib.sha256(b"")
for spec in SPECS[::3]:
    world = World(spec, 4, int(sys.argv[1]), seed=3)
    for i in (1, 2, len(world) - 1):
        sample = world[i]
        digest.update(sample.image.numpy().tobytes() + sample.mask.numpy().tobytes() + sample.caption.encode())
"""


def fingerprint(size: int) -> str:
    names: dict = {}
    argv, sys.argv = sys.argv, ["-", str(size)]
    try:
        exec(FINGERPRINT, names)
    finally:
        sys.argv = argv
    return names["digest"].hexdigest()


def test_the_same_bytes_again():
    assert fingerprint(56) == fingerprint(56)


def test_the_same_bytes_in_another_process_and_on_other_threads():
    """At 192 px: torch divides the work between threads from 32768 numbers on."""
    other = "1" if torch.get_num_threads() > 1 else "2"
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT + "print(digest.hexdigest(), torch.get_num_threads())", "192"],
        # Threads sleep while they wait for each other: to spin costs far more than the work where the cores are taken.
        env={**os.environ, "OMP_NUM_THREADS": other, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONHASHSEED": "77"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [fingerprint(192), other]


def test_another_seed_or_number_is_another_picture():
    worlds = [World("procedural:industrial", 4, 56, seed) for seed in (0, 1, -1, 2**31)]
    images = {hashlib.sha256(w[i].image.numpy().tobytes()).digest() for w in worlds for i in range(8)}
    assert len(images) == 4 * 8


def test_a_sample_does_not_depend_on_how_many_there_are():
    few, many = World("procedural:medical", 4, 56), World("procedural:medical", 20, 56)
    assert torch.equal(few[1].image, many[1].image)
    assert few.place(4)[0] == many.place(20)[0]
    assert torch.equal(few[4].image, many[20].image)


@pytest.mark.parametrize("spec", ["procedural:industrial", "procedural:medical/seen"])
def test_a_batch_is_its_samples(spec):
    """Up to float rounding: one grey level in all but 1 pixel of 1000, and no mask pixel in all but 1 of 5000."""
    world = World(spec, 6, 56)
    indices = [len(world) - 1, *range(0, len(world), 2), 3, 3]
    images, masks = world.batch(indices)
    assert images.shape == (len(indices), 3, 56, 56)
    assert images.dtype == torch.uint8
    assert masks.shape == (len(indices), 56, 56)
    assert masks.dtype == torch.bool
    alone = [world[i] for i in indices]
    difference = (images.int() - torch.stack([s.image for s in alone]).int()).abs()
    assert float((difference > 1).float().mean()) < 1e-3
    assert float((masks != torch.stack([s.mask for s in alone])).float().mean()) < 2e-4
    assert torch.equal(images[-1], images[-2])


# Order
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("per_category", [2, 7, 80])
def test_order(spec, per_category):
    """Categories one after the other; in each, half normal, then every family of the split in turn."""
    world = World(spec, per_category, 56)
    assert len(world) == len(world.categories) * per_category > 0
    at = 0
    for name in world.categories:
        families = world.families(name)
        assert len(set(families)) == len(families) > 0
        assert set(families) <= set(CATEGORIES[name].flaws)
        expected = ["good"] * (per_category // 2)
        expected += [families[k % len(families)] for k in range(per_category - per_category // 2)]
        for number, family in enumerate(expected):
            category, found, k = world.place(at)
            assert (category.name, found, k) == (name, family, number)
            assert category.domain == world.domain
            assert world.place(at - len(world)) == world.place(at)
            at += 1
    assert at == len(world)
    for outside in (at, -at - 1):
        with pytest.raises(IndexError, match=str(at)):
            world[outside]


def test_iteration_is_in_order():
    world = World("procedural:medical/novel", 3, 28)
    names = [sample.name for sample in world]
    assert len(names) == len(set(names)) == len(world)
    for i, name in enumerate(names):
        category, family, number = world.place(i)
        assert name == f"{category.name}/test/{family}/{number:03d}"
    same(world[-1], world[len(world) - 1])


@pytest.mark.parametrize("size", [14, 56, 57, 100, 224])
def test_any_size(size):
    for spec in ("procedural:industrial", "procedural:medical"):
        world = World(spec, 2, size)
        for i in (0, 3):
            sample = world[i]
            assert sample.image.shape == (3, size, size)
            assert sample.mask.shape == (size, size)
            assert sample.image.float().std() > 2
            assert bool(sample.mask.any()) == sample.anomalous == (i == 3)


@pytest.mark.parametrize(
    "spec, near",
    [
        ("procedural:industral", "procedural:industrial"),
        ("procedural:medical/auxx", "procedural:medical/aux"),
        ("medical/novel", "procedural:medical/novel"),
    ],
)
def test_an_unknown_spec(spec, near):
    with pytest.raises(DataError, match=f"did you mean {near}\\?$"):
        World(spec)


def test_an_unknown_spec_near_nothing():
    with pytest.raises(DataError, match="unknown procedural set '#'") as caught:
        World("#")
    assert "did you mean" not in str(caught.value)
    assert all(spec in str(caught.value) for spec in SPECS)


@pytest.mark.parametrize("per_category, size", [(1, 56), (0, 56), (-4, 56), (4, 13), (4, 0), (4, -56)])
def test_sizes_that_make_no_sense(per_category, size):
    with pytest.raises(DataError, match=rf"per_category is {per_category} .*size {size} "):
        World(SPECS[0], per_category, size)


# Masks
def true_mask(world: World, i: int) -> None:
    """What the mask says was drawn is what was drawn: more than a few pixels, and visible."""
    scene, normal, mask = world.twin(i)
    what = (world.spec, world.seed, i, world.place(i)[1])
    assert scene.shape == normal.shape == (3, world.size, world.size)
    assert torch.equal(scene[:, ~mask], normal[:, ~mask]), what
    if world.place(i)[1] == "good":
        assert not mask.any(), what
        return
    least = LEAST_AREA - 1 / world.size**2  # one pixel of tolerance
    assert float(mask.float().mean()) >= least, (what, float(mask.float().mean()))
    change = (scene - normal)[:, mask].abs()
    assert float(change.mean()) >= LEAST_CHANGE, (what, float(change.mean()))
    assert float((change.amax(0) > 0).float().mean()) > 0.8, what  # almost every pixel of the mask has changed


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.sampled_from(SPECS), st.integers(0, 10_000), st.integers(-(2**33), 2**33))
def test_masks_agree_with_what_was_drawn(spec, index, seed):
    world = World(spec, 40, 112, seed)
    true_mask(world, index % len(world))


@pytest.mark.parametrize("spec", SPECS)
def test_masks_of_every_category_and_every_family(spec):
    """Each at least once, not each with each other."""
    world = World(spec, 30, 112, seed=1)
    categories, families = set(), set()
    for i in range(len(world)):
        category, family, _ = world.place(i)
        if family != "good" and (category.name not in categories or family not in families):
            categories.add(category.name)
            families.add(family)
            true_mask(world, i)
    assert categories == set(world.categories)
    assert families == {family for name in world.categories for family in world.families(name)}


def test_the_camera_does_not_hide_what_was_drawn():
    """In most pictures the flaw is still there after light, marks, noise and JPEG; it hides for nobody by frames."""
    world, seen = World("procedural:industrial", 4, 112), []
    for i in range(2, len(world), 4):
        category, family, number = world.place(i)
        own, twin = world._render(category, family, [number]), world._render(category, "good", [number])
        seen.append(float((own.image - twin.image)[own.mask.expand_as(own.image)].abs().mean()))
    assert sorted(seen)[len(seen) // 2] > 0.04, seen
    assert min(seen) > 0.005, seen


# Splits
def test_no_category_in_two_roles():
    assert len(set(_AUX)) == len(_AUX)
    assert len(set(_UNSEEN)) == len(_UNSEEN)
    assert not set(_AUX) & set(_UNSEEN)
    assert set(_AUX) | set(_UNSEEN) <= set(CATEGORIES), "a name that is misspelt would become a seen one"
    assert set(ROLES) == set(CATEGORIES)
    for domain in DOMAINS:
        parts = {split: set(World(f"procedural:{domain}{split}", 2).categories) for split in ("", "/aux", "/seen")}
        assert all(parts.values())
        everything = [name for part in parts.values() for name in part]
        assert len(everything) == len(set(everything))
        assert set(everything) == {c.name for c in CATEGORIES.values() if c.domain == domain}
        assert set(World(f"procedural:{domain}/novel", 2).categories) == parts[""]
        assert parts[""] <= set(_UNSEEN)
        assert parts["/aux"] <= set(_AUX)


def test_held_out_families_are_held_out():
    assert set().union(*FAMILIES.values()) >= HELD_OUT
    for spec in SPECS:
        world = World(spec, 30)
        found = {world.place(i)[1] for i in range(len(world))} - {"good"}
        assert found
        if spec.endswith("/novel"):
            assert found <= HELD_OUT
        else:
            assert not found & HELD_OUT


def test_plain_sets_have_only_flaws_that_pre_training_saw():
    for domain in DOMAINS:
        world = World(f"procedural:{domain}", 2)
        pretrained = {f for name, c in CATEGORIES.items() if ROLES[name] != "unseen" for f in c.flaws} - HELD_OUT
        for name in world.categories:
            assert set(world.families(name)) <= pretrained


def test_there_is_enough_of_everything():
    kinds = [(c.domain, c.texture) for c in CATEGORIES.values()]
    assert kinds.count(("industrial", True)) >= 10
    assert kinds.count(("industrial", False)) >= 10
    assert sum(domain == "medical" for domain, _ in kinds) >= 10
    assert all(len(FAMILIES[domain]) >= 10 for domain in DOMAINS)
    assert not set(FAMILIES["industrial"]) & set(FAMILIES["medical"]), "HELD_OUT names families of both"


def test_the_catalogue_is_complete():
    for name, category in CATEGORIES.items():
        assert category.name == name
        assert category.words
        assert len(set(category.flaws)) == len(category.flaws) > 0
        assert set(category.flaws) <= set(FAMILIES[category.domain]), name
    assert set(FAMILY_WORDS) == set(FAMILIES["industrial"]) | set(FAMILIES["medical"])


def test_every_family_occurs():
    """A family that no set ever shows is dead code, and a held-out one measures nothing."""
    shown = {
        f for world in (World(spec, 2) for spec in SPECS) for name in world.categories for f in world.families(name)
    }
    assert shown == set(FAMILIES["industrial"]) | set(FAMILIES["medical"])


# Captions
@pytest.mark.parametrize("spec", ["procedural:industrial", "procedural:medical", "procedural:industrial/novel"])
def test_captions_are_true(spec):
    world = World(spec, 6, 56)
    axis = np.linspace(-1, 1, 56)
    for i in range(0, len(world), 2):
        sample = world[i]
        category = CATEGORIES[sample.category]
        words = sample.caption.split()
        assert sample.caption.isascii()
        assert sample.caption == " ".join(words), "no double spaces"
        assert category.words[0] in sample.caption
        before = sample.caption[: sample.caption.index(category.words[0])].split()
        assert before[-1] in COLOURS
        assert before[:4] == ["a", "photo", "of", before[3]]
        places = [place for place in PLACES if sample.caption.endswith(place)]
        if not sample.anomalous:
            assert not places
            assert before[-2] in ("healthy", "flawless")
            assert sample.severity == 0
            assert not any(word.split()[-1] in words for f in category.flaws for word in FAMILY_WORDS[f][:1])
            continue
        assert before[-2] in ("damaged", "abnormal")
        assert FAMILY_WORDS[sample.family][0].removeprefix("a ").removeprefix("an ") in sample.caption
        assert ("obvious" in words) <= (sample.severity > 0.6)
        assert ("slight" in words) <= (sample.severity < 0.3)
        rows, columns = np.nonzero(sample.mask.numpy())
        x, y = axis[columns].mean(), axis[rows].mean()
        sideways = "on the left" if x < 0 else "on the right"
        upright = "at the top" if y < 0 else "at the bottom"
        middle = max(abs(x), abs(y)) < 0.3
        assert places == ["in the middle" if middle else sideways if abs(x) > abs(y) else upright], (x, y)


@quick
@given(st.sampled_from(sorted(CATEGORIES)), st.data(), st.floats(0, 1), st.sampled_from(COLOURS))
def test_captions_for_anything(name, data, severity, colour):
    category = CATEGORIES[name]
    family = data.draw(st.sampled_from(category.flaws))
    place = data.draw(st.sampled_from((*PLACES, None)))
    words = caption(category, family, severity, colour, place)
    assert f" {colour} {category.words[0]} with " in words
    assert " a o" not in words.replace(" a of", "")
    assert words.endswith(place or FAMILY_WORDS[family][0].split()[-1])
    assert f"a a{'n'}" not in words
    assert caption(category, "good", 0.0, colour, None).endswith(f" {colour} {category.words[0]}")


@pytest.mark.parametrize("domain", DOMAINS)
def test_states(domain):
    normal, abnormal = states(domain, False), states(domain, True)
    assert len(normal) >= 8
    assert len(abnormal) >= 8
    assert not set(normal) & set(abnormal)
    assert all(pattern.count("{}") == 1 for pattern in normal + abnormal)
    assert ("diseased {}" in abnormal) == ("healthy {}" in normal) == (domain == "medical")
    assert "flawless {}" in normal
    assert "damaged {}" in abnormal
    for category in CATEGORIES.values():
        expected = "medical image" if category.domain == "medical" else "surface" if category.texture else "product"
        assert kind(category) == expected


# Folders
@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[World, Path]:
    world = World("procedural:medical", 4, 40)
    folder = tmp_path_factory.mktemp("world") / "made" / "here"
    assert write(world, folder) == len(world)
    return world, folder


def test_what_is_written_can_be_read(written):
    world, folder = written
    samples = read(folder)
    assert len(samples) == len(world)
    for i, sample in enumerate(samples):
        same(sample, world[i])


def test_progress_is_told_and_an_empty_folder_will_do(tmp_path):
    """Called after every image, when it and its mask are on disk."""
    world, counts = World("procedural:industrial/novel", 2, 28), []
    assert write(world, tmp_path, lambda: counts.append(len([*tmp_path.glob("*/test/*/*.png")]))) == len(world)
    assert counts == list(range(1, len(world) + 1))
    for i, sample in enumerate(read(tmp_path)):
        same(sample, world[i])


def test_the_layout_is_mvtecs(written):
    world, folder = written
    assert {path.name for path in folder.iterdir()} == {*world.categories, "samples.csv"}
    expected = {"samples.csv"}
    for i in range(len(world)):
        sample = world[i]
        category, test, family, number = sample.name.split("/")
        assert (category, test, family) == (sample.category, "test", sample.family)
        expected.add(f"{sample.name}.png")
        with Image.open(folder / f"{sample.name}.png") as image:
            assert (image.mode, image.size) == ("RGB", (40, 40))
        if sample.anomalous:
            expected.add(f"{category}/ground_truth/{family}/{number}_mask.png")
            with Image.open(folder / category / "ground_truth" / family / f"{number}_mask.png") as image:
                assert (image.mode, image.size) == ("L", (40, 40))
                values = np.array(image)
            assert set(np.unique(values)) == {0, 255}
            assert np.array_equal(values == 255, sample.mask.numpy())
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == expected
    assert not [*folder.glob("*/ground_truth/good")]
    with (folder / "samples.csv").open(newline="", encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert [row["caption"] for row in rows] == [world[i].caption for i in range(len(world))]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    world = World("procedural:medical", 2, 28)
    kept = tmp_path / "kept.txt"
    kept.write_text("mine")
    for out in (tmp_path, kept):
        with pytest.raises(DataError, match="not an empty folder") as caught:
            write(world, out)
        assert str(out) in str(caught.value)
    assert [*tmp_path.iterdir()] == [kept]
    assert kept.read_text() == "mine"


@pytest.mark.parametrize("harm", ["gone", "cut short", "not a picture"])
@pytest.mark.parametrize("which", ["image", "mask"])
def test_files_that_are_missing_or_broken(tmp_path, harm, which):
    world = World("procedural:medical", 2, 28)
    write(world, tmp_path)
    name = world[1].name
    path = tmp_path / f"{name}.png"
    if which == "mask":
        path = tmp_path / f"{name.replace('/test/', '/ground_truth/')}_mask.png"
    data = path.read_bytes()
    path.unlink()
    if harm != "gone":
        path.write_bytes(data[: len(data) // 2] if harm == "cut short" else b"nothing of the kind")
    with pytest.raises(DataError, match="not complete") as caught:
        read(tmp_path)
    assert path.name in str(caught.value)


def test_a_folder_that_was_not_written_by_us(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"samples\.csv") as caught:
            read(folder)
        assert str(folder) in str(caught.value)


def test_the_oracle_of_equality_can_tell():
    """``same`` above is not satisfied by everything."""
    sample = World("procedural:medical", 2, 28)[1]
    for other in (
        replace(sample, image=sample.image ^ 1),
        replace(sample, mask=~sample.mask),
        replace(sample, name=""),
    ):
        with pytest.raises(AssertionError):
            same(sample, other)
