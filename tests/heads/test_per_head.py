"""One number for each head of every kind of result: by hand from the frames, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headlens import data, heads
from headlens.errors import ConfigError, ShapeError
from headlens.heads.per_head import KEYS, head_values
from headlens.results import Result
from tests.tiny import headclip


@pytest.fixture(scope="module")
def detector():
    return headclip(torch.float32)


@pytest.fixture(scope="module")
def images():
    painted = data.open("procedural:industrial", per_category=4, size=28)
    return painted.where(lambda record: record.category in painted.categories[:2])


SOME = [heads.Head("global", 2, 0), heads.Head("local", 1, 1), heads.Head("local", 3, 0)]


def by_head(frame):
    return frame.set_index(KEYS)["value"]


def test_weights_are_what_was_learned(detector):
    frame = head_values(heads.weights(detector), stream="local")
    learned = detector.head_weights()["local"]
    assert [float(learned[row.layer, row.head]) for row in frame.itertuples()] == pytest.approx(frame["value"])
    assert frame["quantity"].eq("weight").all() and frame["stream"].eq("local").all()


def test_importance_is_the_mean_absolute_slope_over_that_of_all_heads_of_the_stream(detector, images):
    result = heads.importance(detector, images, metrics=("joint_margin", "image_margin"), size=28)
    with pytest.raises(ConfigError, match="several metrics, joint_margin, image_margin: take one at a time"):
        head_values(result)
    found = by_head(head_values(result, "image_margin", "global"))
    rows = result.frame.query("metric == 'image_margin' and stream == 'global'")
    slopes = {key: float(np.mean(np.abs(group["value"]))) for key, group in rows.groupby(KEYS)}
    mean = np.mean(list(slopes.values()))
    assert found.to_dict() == pytest.approx({key: slope / mean for key, slope in slopes.items()})
    assert found.mean() == pytest.approx(1)


def test_of_ablations_single_heads_count_and_nothing_else(detector, images):
    layer = heads.whole_layers(heads.heads_of(detector, [2], streams=["global"]))
    grown = heads.cumulative(SOME, [1, 2])
    result = heads.ablate(detector, images, [*heads.single_heads(SOME), *layer, *grown], metrics=(), size=28)
    found = by_head(head_values(result))
    moved = {str(head): 0.0 for head in SOME}
    for name in moved:
        rows = result.frame.query("metric == 'joint_margin' and variant == @name and kind == 'zero'")
        moved[name] = rows.groupby("category")["effect"].apply(lambda each: each.abs().mean()).mean()
    mean = np.mean(list(moved.values()))
    assert {str(heads.Head(*key)): value for key, value in found.items()} == pytest.approx(
        {name: size / mean for name, size in moved.items()}
    )
    assert not np.allclose(found, by_head(head_values(result, "anomaly_map")))
    with pytest.raises(ConfigError, match="no 'image_auroc' here; give metric, one of"):
        head_values(result, "image_auroc")
    with pytest.raises(ShapeError, match="no single head in this result"):
        head_values(heads.ablate(detector, images, layer, metrics=(), size=28))


def test_contributions_keep_their_sign_and_need_no_labels(detector, images):
    result = heads.contributions(detector, images, size=28)
    found = by_head(head_values(result, stream="global"))
    summary = result.summary.query("metric == 'image_margin' and stream == 'global'").set_index(KEYS)["separation"]
    assert np.allclose(found, summary.sort_index() / summary.abs().mean())
    assert (found < 0).any() and (found > 0).any()
    anomalous = heads.contributions(detector, images.where(lambda record: bool(record.anomalous)), size=28)
    alone = by_head(head_values(anomalous, stream="global"))
    value = anomalous.summary.query("metric == 'image_margin' and stream == 'global'").set_index(KEYS)["value"]
    assert np.allclose(alone, value.sort_index() / value.abs().mean())
    assert set(head_values(result, "tap_margin_3")["metric"]) == {"tap_margin_3"}


def test_names_count_as_far_as_they_beat_chance(detector, images):
    result = heads.name_heads(detector, images, SOME, pool=["a screw", "a nut", "grey", "red"], phrases=2, size=28)
    last = result.frame.query("rank == 2").set_index(KEYS)
    expected = (last["cumulative"] - last["chance"]).sort_index()
    assert len(expected) == len(SOME)
    assert by_head(head_values(result)).to_dict() == pytest.approx(expected.to_dict())


def test_another_kind_of_result_is_refused(detector, images):
    with pytest.raises(ConfigError, match="Result has no number for each head"):
        head_values(Result(heads.weights(detector).frame, {}))
    with pytest.raises(ShapeError, match="no single head of stream 'sideways' in this result; streams: global, local"):
        head_values(heads.weights(detector), stream="sideways")


def test_results_of_any_kind_are_compared_and_not_mixed(detector, images):
    other = headclip(torch.float32)
    with torch.no_grad():
        other.weights.raw["local"].add_(0.1)
    pair = (detector, other)
    single = heads.single_heads(SOME)
    ablated = [heads.ablate(one, images, single, metrics=(), size=28) for one in pair]
    direct = [heads.contributions(one, images, size=28) for one in pair]
    for results, of in ((ablated, "ablation"), (direct, "contribution")):
        found = heads.compare({"a": results[0], "b": results[1]}, k=1)
        values = by_head(head_values(results[1]))
        assert found.provenance["of"] == of and found.provenance["dataset"]["images"] == len(images)
        assert np.allclose(found.frame.set_index(KEYS)["b"], values)
    assert found.paragraph.startswith("Direct effects of 16 heads on procedural:industrial")
    by_map = [head_values(result, "anomaly_map") for result in ablated]
    assert heads.compare({"a": by_map[0], "b": by_map[1]}, k=1).provenance["of"] == "ablation"
    with pytest.raises(ConfigError, match="a 0 gives ablation, b 0 gives contribution; give all of one kind"):
        heads.compare({"a": ablated[0], "b": direct[0]})
    several = heads.importance(detector, images, metrics=("joint_margin", "image_margin"), size=28)
    with pytest.raises(ConfigError, match=r"a 0: several metrics, .*: take one at a time by head_values"):
        heads.compare({"a": several, "b": several})
