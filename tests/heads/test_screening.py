"""Importance against exact ablation: which heads are taken, and whether what is said of them is so."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from headlens.errors import ConfigError
from headlens.heads import Head, Screen, ablate, importance, screen, single_heads
from headlens.heads.screening import agreement


@pytest.fixture
def found(make, pictures):
    detector = make(torch.float32)
    return detector, importance(detector, pictures, batch=12)


def test_the_top_and_a_sample_are_ablated_for_real(found, pictures):
    detector, ranked = found
    result = screen(detector, pictures, ranked, 4, 5, batch=12, seed=1)
    order = ranked.summary.sort_values("importance", ascending=False)
    top = [str(Head(*row)) for row in order[["stream", "layer", "head"]].head(4).itertuples(index=False)]
    assert result.frame.loc[result.frame["top"], "variant"].tolist() == top
    assert result.frame[result.frame["sampled"]].groupby("stream").size().tolist() == [5, 5]
    assert (result.frame["top"] | result.frame["sampled"]).all()
    exact = ablate(detector, pictures, single_heads(map(Head.of, result.frame["variant"])), metrics=(), batch=12)
    magnitude = exact.means("joint_margin").set_index("variant")["magnitude"]
    assert np.allclose(result.frame["magnitude"], magnitude.loc[result.frame["variant"]], atol=1e-5)
    other = screen(detector, pictures, ranked, 4, 5, batch=12, seed=2)
    assert set(other.frame["variant"]) != set(result.frame["variant"])
    again = screen(detector, pictures, ranked, 4, 5, batch=12, seed=1)
    pd.testing.assert_frame_equal(again.agreement, result.agreement)


def test_agreement_is_scipys_with_a_bootstrap_over_heads():
    random = np.random.default_rng(0)
    slope = random.random(40)
    frame = pd.DataFrame({"stream": "global", "importance": slope, "magnitude": slope + 0.3 * random.random(40)})
    row = agreement(frame, seed=3).iloc[0]
    assert row["spearman"] == pytest.approx(stats.spearmanr(frame["importance"], frame["magnitude"]).statistic)
    assert row["factor"] == pytest.approx((frame["magnitude"] / slope).median())
    draws = np.random.default_rng(3).integers(40, size=(1000, 40))
    naive = [stats.spearmanr(slope[d], frame["magnitude"].to_numpy()[d]).statistic for d in draws]
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(naive, [0.025, 0.975])))
    few = agreement(frame.head(2)).iloc[0]
    assert np.isnan(few["spearman"]) and few["heads"] == 2


def test_where_first_order_is_exact_slopes_are_ablations(make, pictures):
    """Gates of a tower without attention to speak of: heads whose output is tiny hardly leave the first order."""
    detector = make(torch.float64)
    with torch.no_grad():
        for block in detector.backbone.vision.blocks:
            block.attn.out.weight.mul_(1e-4)
    result = screen(detector, pictures, importance(detector, pictures, batch=12), 0, 8, batch=12)
    assert np.allclose(result.frame["magnitude"], result.frame["importance"], rtol=1e-2)
    assert (result.agreement["spearman"] > 0.99).all()
    assert np.allclose(result.frame["effect"], -result.frame["signed"], rtol=0.05, atol=1e-8)


def test_pictures_and_bad_input(found, pictures):
    detector, ranked = found
    result = screen(detector, pictures, ranked, 2, 3, batch=12)
    fig, ax = result.plot()
    assert ax.get_xscale() == "log" and result.plot(fig.add_subplot()).figure is fig
    with pytest.raises(ConfigError, match="top 0 and sample 0"):
        screen(detector, pictures, ranked, 0, 0)
    with pytest.raises(ConfigError, match="not measured by 'image_margin'; available: joint_margin"):
        screen(detector, pictures, ranked, metric="image_margin")


def test_heads_without_any_effect_have_no_rank(make, pictures, tmp_path):
    """The image margin does not hear of local heads: nothing to rank, and nothing to crash on."""
    detector = make(torch.float32)
    result = screen(
        detector, pictures, importance(detector, pictures, metrics=("image_margin",), batch=12), 3, 5, batch=12
    )
    local = result.agreement.set_index("stream").loc["local"]
    assert local[["spearman", "low", "high", "factor"]].isna().all()
    again = Screen.load(result.save(tmp_path / "screen.parquet"))
    pd.testing.assert_frame_equal(again.agreement, result.agreement)
    pd.testing.assert_frame_equal(again.frame, result.frame)


def test_importance_of_something_else_is_refused(found, pictures, make):
    _, ranked = found
    other = make(torch.float32)
    other.weights.raw["local"].data += 0.1
    with pytest.raises(ConfigError, match="of another detector or of other images"):
        screen(other, pictures, ranked)
