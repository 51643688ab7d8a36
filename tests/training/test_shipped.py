"""The runs that ship: there, whole, loadable by name, and made as their cards say."""

from __future__ import annotations

import re
import shutil

import pytest
import torch

import headlens
from headlens.backbone import load
from headlens.errors import RunError
from headlens.training import shipped
from headlens.training.run import load_run
from headlens.training.shipped import NAMES, folders


@pytest.fixture(scope="module")
def mini():
    return load("mini")


@pytest.fixture(scope="module")
def backbones(mini):
    return {"mini": mini, "mini-captions": load("mini-captions")}


SEEDS = {
    "mini": {"": 3, "-anomalyclip": 3, "-shallow": 3},
    "mini-captions": {"": 10}
    | dict.fromkeys(("-anomalyclip", "-shallow", "-weights", "-april-gan", "-aa-clip", "-kanoclip"), 5),
}
"""Of the runs on each backbone, by what follows the domain in their names."""


def test_seeds_of_every_method_in_two_domains():
    kinds = {f"{b}-{domain}{m}": n for b in SEEDS for m, n in SEEDS[b].items() for domain in ("industrial", "medical")}
    assert set(NAMES) == {f"{kind}-{seed}" for kind, seeds in kinds.items() for seed in range(seeds)}
    assert [folder.name for folder in folders("mini-medical")] == [f"mini-medical-{seed}" for seed in range(3)]
    assert len(folders("mini-captions-industrial")) == 10
    assert folders("mini") == folders("mini-captions") == folders("mini-medical-3") == []
    size = sum(file.stat().st_size for name in NAMES for file in folders(name)[0].iterdir())
    assert size < 14_000_000


@pytest.mark.parametrize("name", NAMES)
def test_each_is_what_its_name_says(name, backbones):
    backbone, domain, method, seed = re.fullmatch(r"(mini|mini-captions)-(industrial|medical)(.*)-(\d)", name).groups()
    run = load_run(name, backbones[backbone])
    assert run.card["backbone"]["name"] == backbone
    assert run.card["trained_on"] == f"procedural:{domain}/aux" and run.card["domain"] == domain
    assert run.card["seed"] == run.card["procedural"]["seed"] == int(seed)
    headclip = method in ("", "-shallow", "-weights")
    of_headclip = headclip or (method, backbone) == ("-anomalyclip", "mini-captions")  # with its joint score
    assert run.card["preset"] == ("headclip" if of_headclip else method[1:])
    assert of_headclip != (run.detector.config.alpha == 0) or method in ("-kanoclip", "-aa-clip")
    assert 0 < run.threshold < 1 and run.card["metrics"]["image_auroc"] > 0.7
    weights = run.detector.head_weights()
    assert bool(weights) == headclip
    if headclip:
        assert (run.detector.config.deep == 0) == (method == "-shallow")
        assert (run.detector.config.prompts == "ensemble") == (method == "-weights")
    assert all(tensor.dtype == torch.float32 for tensor in run.detector.state_dict().values())
    assert all(w.std() > 0.05 for w in weights.values())


def test_by_name_in_one_line():
    run = headlens.load("mini-industrial")
    assert run.folder.name == "mini-industrial-0"
    prediction = run.predict(torch.zeros(3, 60, 40, dtype=torch.uint8))
    assert prediction.anomaly_map.shape == (1, 224, 224) and prediction.joint_score.isfinite().all()


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch, mini):
    (tmp_path / "mini-medical").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"mini-medical: no config\.toml"):
        load_run("mini-medical", mini)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(RunError, match=r"mini-captions-medical, .*mini-medical-anomalyclip, "):
        load_run("mini-metal")


@pytest.mark.parametrize("file", ["config.toml", "card.json", "model.safetensors"])
def test_a_flipped_bit_in_what_ships_is_noticed(file, tmp_path, monkeypatch, mini):
    """Also one that both tables would agree on, or that says nothing of the detector."""
    shutil.copytree(folders("mini-medical-0")[0], tmp_path / "mini-medical-0")
    shutil.copy(folders("mini-medical-0")[0].parent / "SHA256SUMS", tmp_path)
    monkeypatch.setattr(shipped, "_HERE", tmp_path)
    load_run(tmp_path / "mini-medical-0", mini)
    path = tmp_path / "mini-medical-0" / file
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=rf"mini-medical-0/{file.replace('.', '[.]')}: (not as it ships|its SHA-256 is)"):
        load_run(tmp_path / "mini-medical-0", mini)
