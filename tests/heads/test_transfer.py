"""The best heads alone against the plain hook loop; head weights of another run; smallest sets; what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from headlens import data
from headlens.detectors import build
from headlens.errors import ConfigError, RunError, ShapeError
from headlens.heads import ablation
from headlens.heads.effects import Effects
from headlens.heads.importance import importance
from headlens.heads.measuring import measure
from headlens.heads.ranking import overlap_of, rankings_of
from headlens.heads.transfer import Transfer, smallest_sets, transfer
from headlens.heads.variants import Head, Variant, heads_of, shuffled
from headlens.heads.weighting import shuffled_weights, weighted
from headlens.heads.weights import weights
from headlens.metrics import Truth, image_metrics, pixel_metrics
from tests import tiny
from tests.heads.oracles import cached, hooked, naive, stand_ins

QUICK = {"random": 1, "shuffles": 1, "replicates": 10, "batch": 6}


@pytest.fixture
def one_batch(pictures):
    (batch,) = data.Loader(pictures, data.Preprocess(32), 12)
    return batch


def unweighted():
    """The tiny HeadCLIP without its head weights."""
    detector = build(tiny.clip(), "headclip", seed=1, **(tiny.BOTH | {"head_weights": "none"}))
    with torch.no_grad():
        for parameter in detector.prompts.parameters():
            parameter.mul_(20)
    return detector.requires_grad_(False)


def metrics_of(prediction, batch, rows):
    """Image AUROC and AUPRO, exact."""
    ranks = image_metrics(prediction.joint_score[rows], batch.labels[rows])
    pixels = pixel_metrics([prediction.anomaly_map[rows]], Truth.of(batch.masks[rows]), mode="exact")
    return {"image_auroc": float(ranks["auroc"]), "pixel_aupro": float(pixels["aupro"])}


@torch.no_grad()
@pytest.mark.parametrize("kind", ["zero", "mean"])
def test_the_best_heads_alone_are_the_plain_hook_loop(kind, detector, pictures, one_batch):
    images = one_batch.images.double()
    order = shuffled(heads_of(detector), 5)
    result = transfer(detector, pictures, order, keep=[0, 3, 9], kind=kind, **QUICK)
    instead = None
    if kind == "mean":
        normal = one_batch.labels == 0
        mean = stand_ins({name: z[normal] for name, z in cached(detector, images)[1].items()}, kind)
        instead = {name: z[:1].expand(len(images), -1, -1, -1) for name, z in mean.items()}
    rows = result.frame.set_index(["ranking", "heads", "category", "metric"])
    for count in (0, 3, 9, len(order)):
        rest = Variant("rest", tuple(order[count:]))
        expected = naive(detector, images, rest, kind, instead) if rest.heads else hooked(detector, images, [])
        for category in pictures.categories:
            here = torch.tensor([record.category == category for record in one_batch.records])
            for metric, value in metrics_of(expected, one_batch, here).items():
                measured = rows.loc[("transferred", count, category, metric)]
                assert measured["value"] == pytest.approx(value, abs=1e-6 if metric == "image_auroc" else 3e-4)
                assert measured["effect"] == pytest.approx(measured["value"] - measured["baseline"])
    everything = rows.xs(len(order), level="heads")
    assert (everything["value"] == everything["baseline"]).all()
    assert not everything[["effect", "low", "high"]].to_numpy().any()
    nothing = rows.xs(0, level="heads")
    assert nothing.loc["transferred"].equals(nothing.loc["random 0"])  # whatever the ranking


@torch.no_grad()
def test_weights_of_another_run_are_those_that_it_learned(make, pictures, one_batch, images):
    learned, plain = make(), unweighted()
    result = transfer(
        plain,
        pictures,
        learned,
        keep=[0],
        streams=["local"],
        **(QUICK | {"random": 0}),
        metrics=("pixel_aupro", "image_auroc"),
    )
    rows = result.weights.set_index(["weights", "category", "metric"])["value"]
    for name, source in (("none", plain), ("transferred", learned)):
        expected = hooked(source, one_batch.images.double(), [])
        for category in pictures.categories:
            here = torch.tensor([record.category == category for record in one_batch.records])
            for metric, value in metrics_of(expected, one_batch, here).items():
                assert rows[name, category, metric] == pytest.approx(value, abs=3e-4)
    none, (one, two) = (
        vars(scores)["joint_score"] for scores in weighted(plain, images, [], [learned.head_weights(), {}])
    )
    assert torch.allclose(one, hooked(learned, images, []).joint_score, rtol=0, atol=1e-12)
    assert torch.equal(none, two) and not torch.allclose(one, two)


@torch.no_grad()
def test_a_text_follows_the_weights_that_it_depends_on(images, monkeypatch):
    """KAnoCLIP's prompts ask the patches, which weights change."""
    settings = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5, "conv_width": 4}
    detector = build(tiny.clip(), "kanoclip", seed=1, **settings)
    for name, parameter in detector.named_parameters():
        if name.endswith("gate"):
            parameter.fill_(0.7)
    given = tiny.headclip().head_weights()
    scores = weighted(detector, images, [], [given])[1]
    weighing = replace(detector.plan, head_weights=given)
    monkeypatch.setattr(type(detector), "plan", weighing)  # as if the method had them
    expected = detector(images)
    assert torch.allclose(scores.joint_score[0], expected.joint_score, rtol=0, atol=1e-12)
    assert not torch.allclose(scores.joint_score[0], weighted(detector, images, [], [])[0].joint_score)


def test_shuffled_weights_are_the_same_weights(detector):
    given = detector.head_weights()
    first, again, other = (shuffled_weights(detector, given, seed) for seed in (0, 0, 1))
    for stream, layers in (("global", range(4)), ("local", range(1, 4))):
        read = list(layers)
        assert torch.equal(first[stream][read].flatten().sort()[0], given[stream][read].flatten().sort()[0])
        assert torch.equal(first[stream], again[stream]) and not torch.equal(first[stream], other[stream])
    assert torch.equal(first["local"][0], given["local"][0])  # is not read


def test_learned_weights_rank_by_their_distance_from_1_and_ties_by_place(detector):
    with torch.no_grad():
        for raw in detector.weights.raw.values():
            raw.fill_(1.0)
        detector.weights.raw["local"][2, 1], detector.weights.raw["global"][3, 0] = 0.2, 1.5
    (ranking,) = rankings_of(detector, {"a": detector})
    assert ranking.heads[:4] == (Head("local", 2, 1), Head("global", 3, 0), Head("global", 0, 0), Head("global", 0, 1))
    assert list(ranking.heads[2:]) == sorted(ranking.heads[2:])
    frame = weights(detector).frame.assign(value=lambda rows: rows["value"] == 1.5)  # a mask
    assert rankings_of(detector, {"a": frame.sample(frac=1, random_state=0)})[0].heads[0] == Head("global", 3, 0)


def effects(values, baseline: float, replicates, whole) -> Effects:
    values = np.array(values)
    difference = np.array(replicates) - np.array(whole)[:, None]
    return Effects(values, baseline, values - baseline, np.abs(values - baseline), difference, np.array(whole))


def test_smallest_sets_are_those_of_each_draw_of_images():
    rows = {
        ("measured", 0): 0,
        ("measured", 2): 1,
        ("measured", 8): None,
        ("random 0", 0): 0,
        ("random 0", 2): 2,
        ("random 0", 8): None,
    }
    drawn = [[0.1, 0.5, 0.2]] * 30 + [[0.6, 0.1, 0.1]] * 30
    part = effects([0.2, 0.58, 0.3], 0.6, drawn, [0.5] * 30 + [0.6] * 30)
    table = smallest_sets([part, part], rows, 0.95).set_index("ranking")
    assert table.loc["measured", ["heads", "low", "high"]].tolist() == [2, 0, 2]  # the first one that is enough
    assert (
        table.loc["random 0", "heads"] == 8
        and table.loc["measured", "p"] == 0.5
        and np.isnan(table.loc["random 0", "p"])
    )
    assert smallest_sets([part], rows, 1.0).set_index("ranking").loc["measured", "heads"] == 8
    undefined = effects([np.nan] * 3, np.nan, np.full((60, 3), np.nan), [np.nan] * 60)
    assert smallest_sets([undefined], rows, 0.95)["heads"].isna().all()
    assert smallest_sets([undefined, part], rows, 0.95).equals(smallest_sets([part], rows, 0.95))


def test_overlap_by_chance_is_the_mean_over_all_sets():
    first, every = set(range(2)), [set(drawn) for drawn in combinations(range(6), 3)]
    agreed = overlap_of(first, {1, 2, 3}, 6)
    jaccard = [len(first & drawn) / len(first | drawn) for drawn in every]
    assert agreed.common == 1 and agreed.jaccard == 0.25 and agreed.chance == pytest.approx(np.mean(jaccard))
    assert agreed.p == pytest.approx(np.mean([len(first & drawn) >= 1 for drawn in every]))
    assert overlap_of((), (), 6).jaccard == 1


def test_a_result_is_saved_drawn_and_said_in_words(make, pictures, tmp_path):
    detector, source = make(torch.float32), make(torch.float32, streams=("local",))
    result = transfer(detector, pictures, source, keep=[0, 2], out=tmp_path / "parts", **QUICK)
    assert set(result.frame["ranking"]) == {"transferred", "measured", "random 0"}
    assert set(result.weights["weights"]) == {"none", "transferred", "measured", "shuffled 0 transferred"}
    assert len(result.best("measured", 2)) == 2 and {head.stream for head in result.best("measured")} == {"local"}
    again = Transfer.load(result.save(tmp_path / "x.parquet"))
    assert again.paragraph == result.paragraph and "Jaccard" in result.paragraph and "shuffled" in result.paragraph
    for table in ("frame", "smallest", "overlap", "weights"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(result, table))
    assert result.plot().axes.size == 3 and result.plot(metric="pixel_aupro").axes.get_ylabel() == "AUPRO (%)"
    assert "Smallest sets" in result._repr_html_()
    with pytest.raises(ConfigError, match="no ranking 'theirs'; available: transferred, measured"):
        result.best("theirs")
    with pytest.raises(ConfigError, match="'f1' was not measured"):
        result.plot(metric="f1")


def test_what_was_killed_goes_on_to_the_same_numbers(make, pictures, tmp_path, monkeypatch):
    detector = make(torch.float32)
    go = {"keep": [2], "random": 1, "shuffles": 0, "replicates": 5, "batch": 4, "metrics": ("pixel_aupro",)}
    whole = transfer(detector, pictures, detector, **go)
    calls = []

    def killed(count):
        calls.append(count)
        if len(calls) == 5:  # of three batches for weights, and three for heads
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        transfer(detector, pictures, detector, **go, out=tmp_path, progress=killed)
    forwards = []
    monkeypatch.setattr(ablation, "measure", lambda *args: forwards.append(0) or measure(*args))
    again = transfer(detector, pictures, detector, **go, out=tmp_path)
    assert len(forwards) == 1
    for table in ("frame", "smallest", "weights"):
        pd.testing.assert_frame_equal(getattr(again, table), getattr(whole, table), check_exact=True)
    with pytest.raises(RunError, match="holds a sweep with"):
        transfer(detector, pictures, detector, **(go | {"keep": [3]}), out=tmp_path)


def test_importance_of_a_method_ranks_the_streams_that_both_have(detector, pictures):
    few = pictures.where(lambda record: record.category == "wood")
    steep = importance(detector, few)
    one_stream = build(tiny.clip(), "aa-clip", taps=(1, 3), adapt_text=1, adapt_image=2, teacher_start=1)
    result = transfer(one_stream, few, {"headclip": steep}, keep=[4], **QUICK)
    largest = steep.summary.query("stream == 'global'").nlargest(4, "importance")
    assert [tuple(head) for head in result.best("headclip", 4)] == [
        *largest[["stream", "layer", "head"]].itertuples(index=False, name=None)
    ]
    assert result.weights.empty
    with pytest.raises(
        ConfigError, match=r"ranks heads of the local stream, and the detector \(aa-clip\) has heads of"
    ):
        transfer(one_stream, few, tiny.headclip(streams=("local",)))


def test_a_method_that_adapts_to_each_image_cannot_host_weights(detector, pictures):
    adapting = build(tiny.clip(), "anoclip-plus", taps=(1, 3), steps=1)
    with pytest.raises(ConfigError, match=r"anoclip cannot host .* of transferred: .* \(adapter of each image\)"):
        transfer(adapting, pictures, detector, streams=["global"])


def test_bad_rankings_are_named(detector, pictures):
    frame = weights(detector).frame[["stream", "layer", "head", "value"]]
    at = frame.index[(frame["stream"] == "local") & (frame["layer"] == 2) & (frame["head"] == 3)]
    larger = pd.concat([frame, frame.assign(head=frame["head"] + 4)])
    steep = importance(detector, pictures.where(lambda record: record.category == "wood"), size=16)
    other = {**steep.provenance["backbone"], "sha256": "0" * 64}
    elsewhere = replace(steep, provenance=steep.provenance | {"backbone": other})
    cases = [
        (ShapeError, "transferred does not rank L2H3/local, which the detector has", frame.drop(at)),
        (ShapeError, "transferred ranks L9H0, which", pd.concat([frame, frame.head(1).assign(layer=9)])),
        (ShapeError, "heads of another grid (global 0..3 x 0..7, local 1..3 x 0..7) than", larger),
        (ShapeError, "the value of L2H3/local is not finite", frame.assign(value=frame["value"].drop(at))),
        (ShapeError, "transferred: L0H0 has two rows", pd.concat([frame, frame.head(1)])),
        (ShapeError, "'L2' is not a head", ["L2"]),
        (ShapeError, "does not rank L3H3, which the detector has (1 of", heads_of(detector, streams=["global"])[:-1]),
        (ConfigError, "transferred has no head weights", unweighted()),
        (ConfigError, "their heads do not correspond; rank and measure on one backbone", elsewhere),
        (ConfigError, "int is not a run", 3),
        (ConfigError, "no ranking of heads", {}),
        (ConfigError, "a ranking is called 'random 1'", {"random 1": frame}),
    ]
    for error, message, ranking in cases:
        with pytest.raises(error, match=message.replace("(", r"\(").replace(")", r"\)")):
            transfer(detector, pictures, ranking)


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("keep has 29; numbers of best heads are 0 to 28", {"keep": [29]}),
        ("keep has no number below that of all heads", {"keep": [28]}),
        ("share is 0; it lies above 0", {"share": 0}),
        ("metric 'pixel_ap' is not measured", {"metric": "pixel_ap"}),
        ("unknown metric 'f1'", {"metrics": ["f1"]}),
        ("unknown kind 'knockout'", {"kind": "knockout"}),
        ("stream 'v-v' does not exist", {"streams": ["v-v"]}),
        ("random is -1", {"random": -1}),
    ],
)
def test_bad_settings_are_named(message, options, detector, pictures):
    with pytest.raises(ConfigError, match=message):
        transfer(detector, pictures, heads_of(detector), **options)
