"""``kind="paired"``: a head writes what it writes for the same image of another set, as in the plain hook loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headlens.data import JoinedSet, Loader, Preprocess, Trigger, triggered
from headlens.errors import ConfigError, DataError
from headlens.heads import Head, Variant, ablate
from tests.heads.oracles import cached, hooked, naive

BOTH = Variant("two", (Head("global", 1, 2), Head("local", 2, 3)))
VARIANTS = [Variant(str(head), (head,)) for head in BOTH.heads] + [BOTH]
FEW = {"metrics": (), "replicates": 2}


@pytest.fixture(scope="module")
def twin(pictures):
    generator = torch.Generator().manual_seed(0)
    return triggered(pictures, Trigger(torch.randint(-40, 41, (3, 32, 32), generator=generator), 40))


@torch.no_grad()
def test_it_is_the_plain_hook_loop_with_the_twins_heads(detector, pictures, twin):
    few = twin.where(lambda record: record.category == "nut")  # the reference has more images, others come first
    found = ablate(detector, few, VARIANTS, kind="paired", reference=pictures, batch=4, **FEW)
    clean = pictures.where(lambda record: record.category == "nut")
    plain, under = (next(iter(Loader(one, Preprocess(32), len(one)))).images.double() for one in (clean, few))
    instead, before = cached(detector, plain)[1], hooked(detector, under, [])
    frame = found.frame.set_index(["variant", "metric"])
    for variant in VARIANTS:
        after = naive(detector, under, variant, "paired", instead)
        for metric in ("image_margin", "joint_score"):
            expected = getattr(after, metric) - getattr(before, metric)
            assert np.allclose(frame.loc[(variant.name, metric), "effect"], expected, rtol=0, atol=1e-10)
            assert (expected.abs() > 1e-8).all() or variant.stream == "local"
    assert found.provenance["reference"] == {"name": pictures.name, "fingerprint": pictures.fingerprint}


def test_paired_with_itself_nothing_changes(detector, twin):
    found = ablate(detector, twin[:3], VARIANTS, kind="paired", reference=twin, **FEW).frame
    assert (found.query("kind == 'paired'")["effect"] == 0).all()


def test_what_cannot_be_paired_is_named(make, pictures, twin):
    detector = make(torch.float32)
    with pytest.raises(ConfigError, match=r"kind 'paired' takes .* give it, reference=\.\.\."):
        ablate(detector, twin, VARIANTS, kind="paired", **FEW)
    with pytest.raises(DataError, match=r"aux has no image of the name 'nut/.*', whose twin was asked for"):
        ablate(detector, twin, VARIANTS, kind="paired", reference=pictures[:6], **FEW)
    again = JoinedSet([pictures])
    again.records = tuple(pictures.records[0] for _ in again.records)
    with pytest.raises(DataError, match="has 12 images of the name"):
        ablate(detector, twin, VARIANTS, kind="paired", reference=again, **FEW)
