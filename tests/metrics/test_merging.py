"""Several processes, and parts of a data set: torchmetrics' own merging and synchronisation."""

from __future__ import annotations

import json
import socket

import pytest
import torch
import torch.distributed as dist

from headlens.metrics import ImageMetrics, PixelMetrics

MODES = {"exact": {"cflow200": True}, "streaming": {"mode": "streaming", "bins": 200}}


def data(images=10):
    generator = torch.Generator().manual_seed(3)
    maps = (torch.rand(images, 12, 11, generator=generator) * 30).round() / 30
    masks = torch.rand(images, 12, 11, generator=generator) < 0.1
    return maps, masks


def metrics():
    return {"image": ImageMetrics(), **{name: PixelMetrics(**options) for name, options in MODES.items()}}


def feed(metric, maps, masks):
    for some, theirs in zip(maps.split(3), masks.split(3), strict=True):
        if isinstance(metric, ImageMetrics):
            metric.update(some.flatten(1).amax(1), theirs.flatten(1).sum(1) > 13)
        else:
            metric.update(some, theirs)


def answers(metric):
    """Every value, and every limit where there are some, as JSON keeps it to the bit."""
    limits = metric.bounds() if isinstance(metric, PixelMetrics) else {}
    values = {name: float(value) for name, value in metric.compute().items()}
    return [values, {name: [float(low), float(high)] for name, (low, high) in limits.items()}]


SHARES = {"uneven": (slice(0, 4), slice(4, 10)), "nothing": (slice(0, 10), slice(10, 10))}


def process(rank, port, folder):
    """One of two, whose answers tests/parallel compares with those of one."""
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    maps, masks = data()
    for case, shares in SHARES.items():
        for name, metric in metrics().items():
            feed(metric, *(part[shares[rank]] for part in (maps, masks)))
            (folder / f"{case}-{name}-{rank}.json").write_text(json.dumps(answers(metric)))
    dist.destroy_process_group()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.parametrize("name", ["image", *MODES])
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_merged_parts_equal_the_whole(name, parts):
    maps, masks = data()
    whole = metrics()[name]
    feed(whole, maps, masks)
    fed = [metrics()[name] for _ in range(parts)]
    for part, *share in zip(fed, maps.chunk(parts), masks.chunk(parts), strict=True):
        feed(part, *share)
    merged = fed.pop()
    for part in fed:
        merged.merge_state(part)
    assert merged.compute() == whole.compute()


@pytest.mark.parametrize("name", ["image", *MODES])
def test_reset_and_forward(name):
    maps, masks = data()
    metric, fresh = metrics()[name], metrics()[name]
    feed(metric, maps[:5], masks[:5])
    metric.reset()
    feed(metric, maps, masks)
    feed(fresh, maps, masks)
    assert metric.compute() == fresh.compute()
    # ``forward`` gives the batch's value and adds it: torchmetrics merges the states itself.
    stepped = metrics()[name]
    if name != "image":
        for some, theirs in zip(maps.split(4), masks.split(4), strict=True):
            stepped(some, theirs)
        assert stepped.compute() == fresh.compute()
