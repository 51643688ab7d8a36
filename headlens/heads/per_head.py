"""``head_values``: one number for each head out of a result of any kind, so that results of many runs can be compared.

============== =============== ====================================================================================
result of      quantity        value
============== =============== ====================================================================================
weights        weight          the learned weight
importance     importance      ``I``, in units of the run's mean head
ablate         ablation        how far the score moves without the head: the mean absolute effect over images, in
                               units of the mean head; of variants that are one head
contributions  contribution    what the head adds to the distance of anomalous from normal images (``separation``;
                               the mean direct effect where images have no labels), in units of the mean absolute head
name           naming          the share of its variance that phrases explain, beyond what they explain by chance
============== =============== ====================================================================================

How steep a detector's margins are on the whole is no property of a head: so slopes, effects and contributions are
divided by their mean, and runs of different methods can be compared. Weights and shares have units of their own.
"""

from __future__ import annotations

import pandas as pd

from headlens.errors import ConfigError, ShapeError
from headlens.heads.ablation import Ablation
from headlens.heads.contributions import Contributions
from headlens.heads.importance import Importance
from headlens.heads.naming import Naming
from headlens.heads.weights import Weights
from headlens.metrics.table import MEAN
from headlens.results import Result

KEYS = ["stream", "layer", "head"]


def head_values(result: Result, metric: str | None = None, stream: str | None = None) -> pd.DataFrame:
    """One number for each head.

    Args:
        result: of ``weights``, ``importance``, ``ablate``, ``contributions`` or ``name_heads``.
        metric: which target (importance), quantity (ablation: a metric, too) or margin (contributions), where there
            are several. By default the only target; the joint margin; the image margin.
        stream: only heads of this one; all when None. Means are over these heads.

    Returns:
        Columns ``stream``, ``layer``, ``head``, ``quantity`` and ``metric`` (what it is, as above) and ``value``.

    Raises:
        ConfigError: a result of another kind; a metric that it has not, or several and none is chosen.
        ShapeError: no single head, or none of that stream.

    >>> import headlens
    >>> run = headlens.load("mini-captions-industrial")
    >>> frame = head_values(headlens.heads.weights(run))
    >>> len(frame), frame["quantity"].unique().tolist()
    (304, ['weight'])
    """
    if isinstance(result, Weights):
        return _values(result.frame, "weight", result.frame["value"], stream)
    if isinstance(result, Naming):
        last = result.frame.groupby(KEYS, sort=False).tail(1)
        return _values(last, "naming", (last["cumulative"] - last["chance"]).fillna(0.0), stream)
    if isinstance(result, Importance):
        rows = _of_metric(result.summary, metric, None)
        return _in_means(_values(rows, "importance", rows["importance"], stream))
    if isinstance(result, Ablation):
        rows = result.summary
        single = (rows["heads"] == 1) & (rows["order"] == "") & (rows["category"] == MEAN)  # probes have no head
        rows = _of_metric(rows[single], metric, "joint_margin")
        return _in_means(_values(rows, "ablation", rows["magnitude"], stream))
    if isinstance(result, Contributions):
        rows = _of_metric(result.summary, metric, "image_margin")
        apart = rows["separation"].notna().any()
        return _in_means(_values(rows, "contribution", rows["separation" if apart else "value"], stream))
    raise ConfigError(
        f"{type(result).__name__} has no number for each head; give a result of weights, importance, ablate, "
        "contributions or name_heads"
    )


def _of_metric(rows: pd.DataFrame, metric: str | None, usual: str | None) -> pd.DataFrame:
    """The rows of one metric: the one that is asked for, the usual one, or the only one."""
    known = list(dict.fromkeys(rows["metric"]))
    wanted = metric or (usual if usual in known or len(known) > 1 else next(iter(known), None))
    if known and wanted is None:
        raise ConfigError(f"several metrics, {', '.join(known)}: take one at a time by head_values(result, metric=...)")
    if known and wanted not in known:
        raise ConfigError(f"no {wanted!r} here; give metric, one of {', '.join(known)}")
    return rows[rows["metric"] == wanted]


def _values(rows: pd.DataFrame, quantity: str, value: pd.Series, stream: str | None) -> pd.DataFrame:
    frame = rows[KEYS].assign(quantity=quantity, metric=rows.get("metric", quantity), value=value.astype(float))
    known = ", ".join(dict.fromkeys(frame["stream"])) or "none"
    frame = frame[frame["stream"] == stream] if stream else frame
    if frame.empty:
        raise ShapeError(f"no single head{f' of stream {stream!r}' if stream else ''} in this result; streams: {known}")
    return frame.astype({"layer": int, "head": int}).sort_values(KEYS, ignore_index=True)


def _in_means(frame: pd.DataFrame) -> pd.DataFrame:
    size = frame["value"].abs().mean() or 1.0  # where nothing matters, nothing is divided
    return frame.assign(value=frame["value"] / size)
