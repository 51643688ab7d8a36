from __future__ import annotations

import torch

from headlens import data
from headlens.baselines import LocalContrast, local_contrast
from headlens.training.evaluation import evaluate


def test_a_spot_stands_out_where_it_is():
    images = torch.full((2, 3, 40, 40), 0.5)
    images[1, :, 10:13, 25:28] = 1.0
    maps = local_contrast(images, 8.0)
    assert maps[0].max() < 1e-6
    row, column = divmod(int(maps[1].argmax()), 40)
    assert abs(row - 11) <= 1 and abs(column - 26) <= 1
    assert maps.min() >= 0 and maps.max() <= 1


def test_brightness_alone_is_no_contrast():
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) / 2
    torch.testing.assert_close(local_contrast(images, 4.0), local_contrast(images + 0.3, 4.0), rtol=1e-4, atol=1e-5)


def test_it_is_evaluated_as_detectors_are():
    pictures = data.open("procedural:industrial/aux", category="wood", per_category=6, size=56)
    result = evaluate(LocalContrast(4.0, image_size=56), pictures, exact=True)
    prediction = LocalContrast(4.0)(next(iter(data.Loader(pictures, data.Preprocess(56), 6))).images)
    expected = prediction.anomaly_map.flatten(1).amax(1)
    torch.testing.assert_close(torch.tensor(result.scores["joint"].to_numpy(), dtype=torch.float32), expected)
    assert set(result.frame["score"]) == {"image", "map", "joint", "pixel"}
