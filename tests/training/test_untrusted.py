"""Run folders that were edited, damaged or made to harm: refused in one line, or the same predictions."""

from __future__ import annotations

import json
import os
import re
import struct
from hashlib import sha256
from pathlib import Path

import pytest
import tomli_w
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from headlens.backbone import load as load_backbone
from headlens.errors import ConfigError, HeadlensError, RunError
from headlens.training.reading import tomllib
from headlens.training.run import find_run, load_run

IMAGE = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
NAMES = {"config": "config.toml", "card": "card.json", "model": "model.safetensors"}
FILES = {path.name: path.read_bytes() for path in find_run("mini-medical-shallow-1").iterdir()}


@pytest.fixture(scope="module")
def mini():
    return load_backbone("mini")


@pytest.fixture(scope="module")
def sound(mini):
    return load_run("mini-medical-shallow-1", mini)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("untrusted") / "run"


def written(folder: Path, **changed: bytes) -> Path:
    """A run folder with some files as given: ``config``, ``card``, ``model``."""
    folder.mkdir(exist_ok=True)
    for own, name in NAMES.items():
        (folder / name).write_bytes(changed.get(own, FILES[name]))
    return folder


def agreed(folder: Path, table: str, **values) -> Path:
    """A run whose config and card both say so."""
    config, card = tomllib.loads(FILES["config.toml"].decode()), json.loads(FILES["card.json"])
    card["training"] = dict(config["training"])
    config[table] |= values
    card[table] |= values
    return written(folder, config=tomli_w.dumps(config).encode(), card=json.dumps(card).encode())


def carded(folder: Path, **values) -> Path:
    return written(folder, card=json.dumps(json.loads(FILES["card.json"]) | values).encode())


def modelled(folder: Path, content: bytes) -> Path:
    """With other learned tensors, whose hash is in the card."""
    card = carded(folder, model_sha256=sha256(content).hexdigest()) / "card.json"
    return written(folder, model=content, card=card.read_bytes())


def tensors(**changed: torch.Tensor) -> bytes:
    own = load(FILES["model.safetensors"]) | {name.replace("__", "."): value for name, value in changed.items()}
    return save({name: value for name, value in own.items() if value is not None})


CONTEXT = load(FILES["model.safetensors"])["prompts.context"]
HOSTILE = {  # what is done to the folder, and what its error says
    "huge context": (lambda f: agreed(f, "detector", context=10**9), "config.toml: context is 1000000000, but the"),
    "many deep prompts": (lambda f: agreed(f, "detector", deep=10**9), "config.toml: deep is 1000000000, but the"),
    "a size": (lambda f: agreed(f, "training", size=100_000), "config.toml: size is 100000: images have 14 px"),
    "an image size": (lambda f: agreed(f, "backbone", image_size=[10**9, 224]), "image_size is 1000000000: images"),
    "half a size": (lambda f: agreed(f, "backbone", image_size=[224]), r"image_size is \[224\]; it is a list of 2"),
    "a rule": (lambda f: agreed(f, "backbone", position_rule="day"), "config.toml: position_rule is 'day'; it can"),
    "no weights": (
        lambda f: written(f, config=FILES["config.toml"].replace(b"weights =", b"weight =")),
        "config.toml: BackboneTable has no field 'weight'; available: name, weights",
    ),
    "less of a backbone": (
        lambda f: written(f, config=re.sub(rb"(?m)^weights =.*\n", b"", FILES["config.toml"])),
        "config.toml: BackboneTable needs weights; its fields are name, weights",
    ),
    "a tap": (lambda f: agreed(f, "detector", taps=[99]), "config.toml: taps: block 99 does not exist: mini has 24"),
    "a negative tap": (lambda f: agreed(f, "detector", taps=[-1]), r"config.toml: taps is \(-1,\), which is not a"),
    "a wide blur": (lambda f: agreed(f, "detector", sigma=1e9), "config.toml: sigma is 1000000000.0, which is not a"),
    "a nested list": (lambda f: agreed(f, "detector", streams=[["local"]]), r"streams is \['local'\]; it is text"),
    "a type": (lambda f: agreed(f, "detector", alpha="0.5"), "config.toml: alpha is '0.5'; it is a finite number"),
    "a truth": (lambda f: agreed(f, "detector", deep=True), "config.toml: deep is True; it is a whole number"),
    "not a number": (lambda f: agreed(f, "detector", alpha=float("nan")), "config.toml: alpha is nan; it is a finite"),
    "a large seed": (lambda f: agreed(f, "training", seed=2**60), "config.toml: seed is 1152921504606846976; it is a"),
    "a large CLIP": (
        lambda f: agreed(f, "backbone", name="ViT-bigG-14", weights="random (seed 0)"),
        r"does not hold what config.toml describes: prompts.context is \[2, 12, 128\], not \[2, 12, 1280\]",
    ),
    "no CLIP": (lambda f: agreed(f, "backbone", name="\u2603"), "unknown architecture"),
    "a method": (lambda f: agreed(f, "detector", method="day"), "config.toml: method is 'day'; this headlens has"),
    "a number for a method": (lambda f: agreed(f, "detector", method=7), "config.toml: method is 7; this headlens has"),
    "a format": (lambda f: carded(f, format=9), "card.json: format is 9, and headlens .* reads formats 1 to 2: inst"),
    "a word for a format": (lambda f: carded(f, format="two"), "card.json: format is 'two'; it is a whole number"),
    "a card of nothing": (lambda f: written(f, card=b"[]"), r"card.json: holds \[\], not a card"),
    "a deep card": (lambda f: written(f, card=b"[" * 10**5), "card.json: nested too deeply"),
    "half a letter": (lambda f: carded(f, trained_on="\ud800"), "card.json: 'utf-8' codec can't encode"),
    "a set of sets": (lambda f: carded(f, trained_on=["a"]), r"card.json: trained_on is \['a'\]; it is text"),
    "a deep config": (lambda f: written(f, config=b"a = " + b"[" * 10**5), "config.toml: damaged .nested too deeply"),
    "a long config": (lambda f: written(f, config=b"#" * 2**21), "config.toml: damaged .has 2.0 MiB, more than"),
    "a threshold below": (lambda f: carded(f, threshold=-0.1), "threshold is -0.1; a joint score is 0 to 1"),
    "no threshold": (lambda f: carded(f, threshold=float("nan")), "threshold is nan; a joint score is 0 to 1"),
    "endless threshold": (lambda f: carded(f, threshold=float("inf")), "threshold is inf; a joint score is 0 to 1"),
    "NaN": (lambda f: modelled(f, tensors(prompts__context=CONTEXT / 0 * 0)), "prompts.context has NaN or infinity"),
    "infinity": (lambda f: modelled(f, tensors(prompts__context=CONTEXT / 0)), "prompts.context has NaN or infinity"),
    "doubles": (lambda f: modelled(f, tensors(prompts__context=CONTEXT.double())), "torch.float64, not float32"),
    "a shape": (lambda f: modelled(f, tensors(prompts__context=torch.zeros(3))), r"prompts.context is \[3\], not"),
    "too few": (lambda f: modelled(f, tensors(prompts__context=None)), "describes: there is no prompts.context"),
    "too many": (lambda f: modelled(f, tensors(more=torch.zeros(1))), "config.toml describes: more is unknown"),
    "too large": (lambda f: modelled(f, tensors(more=torch.zeros(10**6))), "model.safetensors: has .* MiB, more than"),
    "a lying header": (lambda f: modelled(f, struct.pack("<Q", 2**62) + tensors()[8:]), "model.safetensors: .*eader"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_is_refused_by_name(name, place, monkeypatch):
    """Without a backbone: none is loaded for it."""
    spoil, message = HOSTILE[name]
    spoil(place)
    monkeypatch.setattr("headlens.training.run.load_backbone", lambda *_, **__: pytest.fail("loaded a backbone"))
    with pytest.raises((RunError, ConfigError, HeadlensError), match=message) as error:
        load_run(place)
    assert str(place) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("name", ["config.toml", "card.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["a folder", "a pipe", "a device", "a link"])
def test_what_is_no_file_is_not_read(name, kind, tmp_path, mini):
    path = written(tmp_path / "run") / name
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else name)
    with pytest.raises(RunError, match=f"{name}: .*({kind}, not a regular file|symbolic links)"):
        load_run(tmp_path / "run", mini)


def test_text_as_editors_save_it_is_the_same_run(place, mini, sound):
    scored = sound.predict(IMAGE).anomaly_map
    text = {name: FILES[name].decode() for name in ("config.toml", "card.json")}
    for encoding in ("utf-8-sig", "utf-16"):
        for newline in ("\n", "\r\n"):
            files = {name: own.replace("\n", newline).encode(encoding) for name, own in text.items()}
            run = load_run(written(place, config=files["config.toml"], card=files["card.json"]), mini)
            assert torch.equal(run.predict(IMAGE).anomaly_map, scored)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(), st.text(max_size=5), st.just([]),
    st.just({}), st.lists(st.integers(-1, 30), max_size=3), st.sampled_from(["free", "softmax", "top", "local"]),
)  # fmt: skip


def same_or_refused(folder: Path, mini, sound) -> None:
    try:
        run = load_run(folder, mini)
    except HeadlensError as error:
        said = str(error)
        assert str(folder) in said and "\n" not in said and len(said) < 1500
        return
    run._repr_html_()
    assert (run.detector.config, run.size) == (sound.detector.config, sound.size)
    learned = sound.detector.state_dict()
    assert all(torch.equal(own, learned[name]) for name, own in run.detector.state_dict().items())


FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@FUZZ
@given(data=st.data())
def test_any_value_in_the_card_is_refused_or_changes_nothing(data, place, mini, sound):
    card = json.loads(FILES["card.json"])
    table = data.draw(st.sampled_from([card, card["backbone"], card["detector"]]))
    key = data.draw(st.sampled_from(sorted(table)))
    value = data.draw(VALUES | st.just("absent"))
    table.pop(key) if value == "absent" else table.update({key: value})
    same_or_refused(written(place, card=json.dumps(card).encode()), mini, sound)


@FUZZ
@given(data=st.data())
def test_any_value_in_the_config_is_refused_or_changes_nothing(data, place, mini, sound):
    config = tomllib.loads(FILES["config.toml"].decode())
    table = config[data.draw(st.sampled_from(sorted(config)))]
    key = data.draw(st.sampled_from(sorted(table)))
    value = data.draw(VALUES)
    table.pop(key) if value is None else table.update({key: value})
    same_or_refused(written(place, config=tomli_w.dumps(config).encode()), mini, sound)


@FUZZ
@given(data=st.data())
def test_any_damaged_byte_is_refused_or_changes_nothing(data, place, mini, sound):
    own = data.draw(st.sampled_from(sorted(NAMES)))
    content = bytearray(FILES[NAMES[own]])
    at = data.draw(st.integers(0, len(content) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    else:
        content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    same_or_refused(written(place, **{own: bytes(content)}), mini, sound)
