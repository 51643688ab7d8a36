"""What functions of the lens take: a detector or a run, and a data set or its name; of anything else they say so."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest

from headlens import attribution, data, heads
from headlens.data.procedural import World, write
from headlens.errors import ConfigError, DataError
from headlens.training import evaluate

OF_SETS = {
    "ablate": heads.ablate,
    "capture": lambda run, images, **options: heads.capture(run, images, "never-made"),
    "contributions": heads.contributions,
    "importance": heads.importance,
    "name_heads": heads.name_heads,
    "screen": lambda run, images, **options: heads.screen(run, images, None),
    "map_agreement": lambda run, images, **options: heads.map_agreement(run, run, images),
    "transfer": lambda run, images, **options: heads.transfer(run, images, run),
    "faithfulness": attribution.faithfulness,
    "evaluate": evaluate,
}


@pytest.fixture
def run(detector):
    """Anything that has a detector counts as a run."""
    return SimpleNamespace(detector=detector)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("screws")
    write(World("procedural:industrial", per_category=2, size=32), place)
    return place / "screw"


@pytest.mark.parametrize("name", OF_SETS)
def test_what_is_no_data_set_is_said_to_be_none(name, run, folder):
    image = data.open(folder)[0]
    with pytest.raises(
        DataError, match=r"Pixels is not a data set; give headlens.data.open\(...\), its name, or a part"
    ):
        OF_SETS[name](run, image)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        OF_SETS[name](run, "nowhere")


def test_a_run_and_a_name_give_what_a_detector_and_a_set_give(run, folder, detector):
    of_both = heads.importance(detector, data.open(folder), size=32).frame
    pd.testing.assert_frame_equal(heads.importance(run, str(folder), size=32).frame, of_both)
    assert heads.heads_of(run) == heads.heads_of(detector)
    by_folder = attribution.attribute(run, folder, "legrad", size=32)
    assert len(by_folder.map) == 2 and by_folder.provenance["category"] == "screw"


def test_the_name_of_a_run_is_refused_with_what_loads_it(folder):
    for verb in (heads.weights, lambda name: heads.importance(name, folder), lambda name: heads.heads_of(name)):
        with pytest.raises(ConfigError, match=r"give headlens.load\('mini-captions-medical'\)"):
            verb("mini-captions-medical")


def test_a_folder_for_finished_parts_may_be_text(run, folder, tmp_path):
    made = heads.capture(run, folder, str(tmp_path / "captured"), size=32)
    assert made.folder == tmp_path / "captured" and made.files[0].parent == made.folder
    heads.importance(run, folder, size=32, out=str(tmp_path / "parts"))
    assert list((tmp_path / "parts").glob("part-*.parquet"))
