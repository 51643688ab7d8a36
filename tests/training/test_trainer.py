from __future__ import annotations

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save

from headlens import data
from headlens.backbone import architecture_from_config, assemble
from headlens.detectors.methods.headclip import HeadCLIP
from headlens.detectors.methods.registry import preset
from headlens.detectors.stages import TrainingConfig
from headlens.errors import ConfigError, RunError
from headlens.files import write_atomically
from headlens.training.calibration import best_threshold
from headlens.training.evaluation import evaluate
from headlens.training.features import FeatureStore
from headlens.training.interrupt import Stopped
from headlens.training.run import load_run
from headlens.training.state import _digest, _read, read_state
from headlens.training.trainer import Objective, train
from tests.tiny import SENTENCES
from tests.training.conftest import SMALL

CONFIG = TrainingConfig(epochs=3, batch=4, save_every=1, lr_heads=0.05)  # 2 steps an epoch


class KilledError(Exception):
    """What kills a run in these tests."""


def killed_after(steps: int):
    def progress(row):
        if row["step"] == steps:
            raise KilledError

    return progress


def learned(folder, clip) -> dict[str, torch.Tensor]:
    return load_run(folder, clip).detector.state_dict()


def test_training_lowers_the_loss_and_moves_everything(clip, pictures, headclip, tmp_path):
    before = {name: value.clone() for name, value in HeadCLIP(clip, headclip).state_dict().items()}
    config = TrainingConfig(epochs=15, batch=10, lr=0.01, lr_heads=0.05)
    train(HeadCLIP(clip, headclip), pictures, config, tmp_path / "run", cpu=True)
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = [float(row["pixel"]) for row in csv.DictReader(file)]
    assert len(rows) == 15
    assert rows[-1] < rows[0]
    after = learned(tmp_path / "run", clip)
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("name", ["headclip", "anomalyclip"])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_killed_run_ends_with_the_same_weights(name, at, clip, pictures, tmp_path):
    config = preset(name, **SMALL)
    train(HeadCLIP(clip, config), pictures, CONFIG, tmp_path / "whole", cpu=True)
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, config), pictures, CONFIG, tmp_path / "cut", cpu=True, progress=killed_after(at))
    begun = []
    train(
        HeadCLIP(clip, config), pictures, CONFIG, tmp_path / "cut", cpu=True, begin=lambda step, of: begun.append(step)
    )
    assert begun == [at - 1]  # it was killed before the state of its last step was written
    whole, cut = learned(tmp_path / "whole", clip), learned(tmp_path / "cut", clip)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not (tmp_path / "cut" / "state.safetensors").exists()


@pytest.mark.parametrize(("at", "number"), [(1, signal.SIGINT), (4, signal.SIGTERM), (6, signal.SIGINT)])
def test_a_signal_saves_the_step_that_is_being_taken(number, at, clip, pictures, headclip, tmp_path, monkeypatch):
    """Long before the first regular save, inside a step, and at the last one."""
    config = TrainingConfig(epochs=3, batch=4, save_every=100, lr_heads=0.05)
    train(HeadCLIP(clip, headclip), pictures, config, tmp_path / "whole", cpu=True)
    calls, step, noticed, begun = [], torch.optim.Adam.step, [], []

    def signalled(self, *args, **kwargs):
        step(self, *args, **kwargs)
        calls.append(1)
        if len(calls) == at:
            signal.raise_signal(number)  # the weights have moved, the log does not know yet
            signal.raise_signal(number)  # of one Ctrl-C two may come

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", signalled)
        with pytest.raises(Stopped, match=f"stopped at step {at} of 6") as stopped:
            train(
                HeadCLIP(clip, headclip),
                pictures,
                config,
                tmp_path / "cut",
                cpu=True,
                notify=lambda: noticed.append(1),
            )
    assert stopped.value.number == number and noticed == [1]
    train(
        HeadCLIP(clip, headclip),
        pictures,
        config,
        tmp_path / "cut",
        cpu=True,
        begin=lambda step, of: begun.append(step),
    )
    assert begun == [at]
    whole, cut = learned(tmp_path / "whole", clip), learned(tmp_path / "cut", clip)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_who_insists_ends_it_at_once_without_a_save(clip, pictures, headclip, tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.training.interrupt._SAME", -1.0)

    def twice(row):
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    config = TrainingConfig(epochs=3, batch=4, save_every=100)
    with pytest.raises(KeyboardInterrupt) as ended:
        train(HeadCLIP(clip, headclip), pictures, config, tmp_path / "cut", cpu=True, progress=twice)
    assert not isinstance(ended.value, Stopped) and not (tmp_path / "cut").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_loss_that_is_not_finite_ends_it(clip, pictures, headclip, tmp_path):
    with pytest.raises(RunError, match=r"loss of step \d is not finite.*smaller learning rates"):
        train(HeadCLIP(clip, headclip), pictures, TrainingConfig(3, 4, lr=1e30), tmp_path / "run", cpu=True)
    assert not (tmp_path / "run" / "config.toml").exists()


def test_two_trainings_at_once_in_one_folder_are_refused(clip, pictures, headclip, tmp_path):
    """Of another seed, inside of the first: the first one ends as if it had been alone."""
    refused = []

    def second(row):
        if row["step"] == 1:
            with pytest.raises(RunError, match="is in use by another headlens") as error:
                train(HeadCLIP(clip, headclip), pictures, replace(CONFIG, seed=1), tmp_path / "run", cpu=True)
            refused.append(error)

    train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path / "run", cpu=True, progress=second)
    assert len(refused) == 1
    assert load_run(tmp_path / "run", clip).training == CONFIG
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "model.safetensors", "card.json", "log.csv"}


def test_accumulated_steps_are_one_large_step(clip, pictures, headclip, tmp_path):
    """Dice and the image term are means over images, and every half has the same number of each kind of image."""
    losses = {}
    for name, config in {"large": TrainingConfig(1, 8), "halves": TrainingConfig(1, 4, accumulate=2)}.items():
        train(HeadCLIP(clip, headclip), pictures, config, tmp_path / name, cpu=True)
        losses[name] = learned(tmp_path / name, clip)
    for key, value in losses["large"].items():
        torch.testing.assert_close(losses["halves"][key], value, rtol=0.05, atol=1e-4)


def test_another_run_in_the_folder_is_refused(clip, pictures, headclip, tmp_path):
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, cpu=True, progress=killed_after(2))
    other = TrainingConfig(epochs=4, batch=4, save_every=1, lr_heads=0.05)
    with pytest.raises(RunError, match="unfinished run with training epochs = 3, not 4: continue"):
        train(HeadCLIP(clip, headclip), pictures, other, tmp_path, cpu=True)
    train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, cpu=True)
    with pytest.raises(RunError, match="finished run"):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, cpu=True)


def restated(path, change, checksum=True):
    """Writes a state again, with other tensors, and with a checksum that fits."""
    tensors, about = _read(path)
    change(tensors, about)
    if checksum:
        about["sha256"] = _digest(tensors, about)
    path.write_bytes(save(tensors, about))


def plus(tensors, about):
    tensors["model/prompts.context"] += 1000


def longer(tensors, about):
    tensors["optimizer/0/exp_avg"] = torch.zeros(7)


def one_more(tensors, about):
    tensors["optimizer/99/step"] = torch.zeros(())


def no_log(tensors, about):
    about["log"] = "{}"


def deep(tensors, about):
    about["same"] = "[" * 100_000


def another_stage(tensors, about):
    about["stage"] = "1"


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "header": lambda path: path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:]),
    "numbers": lambda path: restated(path, plus, checksum=False),
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])),
    "a shape": lambda path: restated(path, longer),
    "a parameter": lambda path: restated(path, one_more),
    "a log": lambda path: restated(path, no_log),
    "nested": lambda path: restated(path, deep),
    "a stage": lambda path: restated(path, another_stage),
}


def test_a_damaged_state_is_named(clip, pictures, headclip, tmp_path):
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, cpu=True, progress=killed_after(2))
    path = tmp_path / "state.safetensors"
    content = path.read_bytes()
    detector = HeadCLIP(clip, headclip)
    optimizer = torch.optim.Adam([dict(group) for group in detector.stages(CONFIG)[0].groups])
    same = json.loads(_read(path)[1]["same"])
    state = read_state(tmp_path, same)
    state.restore(detector, optimizer)
    assert len(state.log) == 1 and state.stage == 0
    for name, damage in DAMAGE.items():
        path.write_bytes(content)
        damage(path)
        with pytest.raises(RunError, match=r"state\.safetensors: damaged .*delete it to begin again"):
            read_state(tmp_path, same).restore(detector, optimizer)
            pytest.fail(name)


def test_a_state_of_an_older_version_says_no_stage_and_goes_on(clip, pictures, headclip, tmp_path):
    train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path / "whole", cpu=True)
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path / "cut", cpu=True, progress=killed_after(3))
    restated(tmp_path / "cut" / "state.safetensors", lambda tensors, about: about.pop("stage"))
    train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path / "cut", cpu=True)
    whole, cut = learned(tmp_path / "whole", clip), learned(tmp_path / "cut", clip)
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


class CrashError(Exception):
    """What ends a process at a write."""


def test_a_crash_at_any_write_leaves_what_can_go_on(clip, pictures, headclip, tmp_path, monkeypatch):
    """Of states, learned tensors, card, log and configuration: the next one ends as if nothing had been."""
    config = replace(CONFIG, epochs=1)
    train(HeadCLIP(clip, headclip), pictures, config, tmp_path / "whole", cpu=True)
    files, replace_, writes = ("config.toml", "model.safetensors"), Path.replace, []
    for number in range(2, 7):  # the second state, model, card, log, config
        writes.clear()

        def crashing(path, target, number=number):
            writes.append(target.name)
            if len(writes) == number:
                raise CrashError
            return replace_(path, target)

        folder = tmp_path / f"cut-{number}"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", crashing)
            with pytest.raises(CrashError):
                train(HeadCLIP(clip, headclip), pictures, config, folder, cpu=True)
        assert not (folder / "config.toml").exists()
        train(HeadCLIP(clip, headclip), pictures, config, folder, cpu=True)
        assert all((folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files)
        load_run(folder, clip)
    assert writes == ["state.safetensors"] * 2 + ["model.safetensors", "card.json", "log.csv", "config.toml"]


def test_pictures_that_cannot_be_read_are_left_out_and_named(clip, headclip, tmp_path):
    folder = tmp_path / "wood" / "test"
    for family in ("good", "hole"):
        (folder / family).mkdir(parents=True)
        for number in range(4):
            Image.effect_noise((40, 40), 60).save(folder / family / f"{number}.png")
    (folder / "good" / "1.png").write_bytes(b"not a picture")
    card = train(
        HeadCLIP(clip, headclip), data.open(tmp_path / "wood"), TrainingConfig(1, 2), tmp_path / "run", cpu=True
    )
    assert card["images"] == 7
    ((name, reason),) = card["skipped"].items()
    assert "good/1" in name and "good" in reason


def test_nothing_to_learn_or_too_few_images_is_an_error(clip, pictures, headclip, tmp_path):
    with pytest.raises(ConfigError, match=r"nothing to learn.* presets that learn are headclip, .*aa-clip-medical"):
        train(HeadCLIP(clip, preset("clip", taps=(1,), local_start=1)), pictures, CONFIG, tmp_path, cpu=True)
    with pytest.raises(ConfigError, match=r"takes 64 images, procedural:industrial/aux has 10"):
        train(HeadCLIP(clip, headclip), pictures, TrainingConfig(batch=64), tmp_path, cpu=True)


def objective_of(detector, images=10):
    (stage,) = detector.stages(CONFIG)
    return Objective(detector, stage, images)


@pytest.mark.parametrize("changes", [{"head_weights": "none"}, {"streams": ("local",)}], ids=["features", "parts"])
def test_what_nothing_learned_influences_is_computed_once(changes, clip, pictures):
    detector = HeadCLIP(clip, preset("headclip", **SMALL, **changes))
    calls = []
    clip.vision.register_forward_hook(lambda *_: calls.append(1))
    objective = objective_of(detector)
    loader = data.Loader(pictures, data.Preprocess(32), 4)
    first = [objective.see(batch, batch.images) for batch in loader]
    assert objective.store.keeps and len(objective.store) == 10 and len(calls) == 3
    second = [objective.see(batch, batch.images) for batch in loader]
    assert len(calls) == 3
    for a, b, batch in zip(first, second, loader, strict=True):
        plain = detector(batch.images)
        for kept in (a, b):
            torch.testing.assert_close(kept.image_margin, plain.image_margin)
            torch.testing.assert_close(kept.tap_margins, plain.tap_margins)


def test_what_does_not_fit_as_a_whole_is_not_kept(clip, pictures):
    (stage,) = HeadCLIP(clip, preset("anomalyclip", **SMALL)).stages(CONFIG)
    loader = data.Loader(pictures, data.Preprocess(32), 4)
    each = 4 * (clip.vision.cfg.d_embed * (1 + 2 * 16))  # CLS, and 16 patches at two taps
    enough, short = (FeatureStore(stage.keep, 10, budget) for budget in (10 * each, 10 * each - 1))
    for batch in loader:
        few, many = (store.of(batch.index, batch.images) for store in (short, enough))
        torch.testing.assert_close(few.cls, many.cls)
        assert few.size == many.size == (32, 32)
    assert enough.keeps and len(enough) == 10
    assert not short.keeps and len(short) == 0


def test_too_many_images_are_seen_anew_at_every_step(clip, pictures):
    detector = HeadCLIP(clip, preset("headclip", **SMALL))
    objective = objective_of(detector, 10**9)
    (batch,) = data.Loader(pictures, data.Preprocess(32), 10)
    first = objective.see(batch, batch.images)
    assert not objective.store.keeps
    torch.testing.assert_close(objective.see(batch, batch.images).image_margin, first.image_margin)


def test_nothing_is_kept_of_a_tower_that_learns(clip, pictures):
    detector = HeadCLIP(clip, preset("headclip", streams=("global", "local"), **SMALL))
    objective = objective_of(detector)
    (batch,) = data.Loader(pictures, data.Preprocess(32), 10)
    assert objective.store is None
    objective.see(batch, batch.images).tap_margins[3].sum().backward()
    assert detector.weights.raw["global"].grad.abs().sum() > 0


def test_a_full_disk_at_the_end_costs_no_training(clip, pictures, headclip, tmp_path, monkeypatch):
    def full(path, content):
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("headlens.files.write_atomically", full)
        with pytest.raises(RunError, match="No space left"):
            train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path / "run", cpu=True)
    begun = []
    train(
        HeadCLIP(clip, headclip),
        pictures,
        CONFIG,
        tmp_path / "run",
        cpu=True,
        begin=lambda step, of: begun.append(step),
    )
    assert begun == [6]  # of 6


@pytest.mark.parametrize("changes", [{}, {"streams": ("global", "local")}, {"head_weights": "none"}])
def test_half_precision_trains_and_is_calibrated_in_full(changes, clip, pictures, tmp_path):
    config = TrainingConfig(epochs=2, batch=5, precision="bfloat16", lr_heads=0.05)
    detector = HeadCLIP(clip, preset("headclip", **SMALL, **changes))
    card = train(detector, pictures, config, tmp_path / "run", cpu=True)
    scores = evaluate(load_run(tmp_path / "run", clip).detector, pictures).scores
    labels = torch.tensor(scores["anomalous"].astype(int).to_numpy())
    # Half precision would be off by 1e-3; another batch size only moves the last digit.
    expected = best_threshold(torch.tensor(scores["joint"].to_numpy()), labels)
    assert card["threshold"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-7, -10.0])
def test_no_threshold_does_better(scale):
    """Also of scores that are closer than it is rounded, and where all images are best called anomalous."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        scores, labels = scale * torch.rand(9, generator=generator), torch.rand(9, generator=generator) < 0.6
        if labels.unique().numel() < 2:
            continue

        limits = torch.tensor([best_threshold(scores, labels.long()), -1e9, *scores.tolist()], dtype=torch.float64)
        above = scores.double() > limits[:, None]
        f1 = 2 * (above & labels).sum(1) / (above.sum(1) + labels.sum())
        assert f1[0] == f1.max()


def test_another_activation_is_another_run(clip, pictures, headclip, tmp_path):
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, cpu=True, progress=killed_after(2))
    arch = architecture_from_config(SENTENCES, "tiny").computing("gelu", "its maps need it")
    with pytest.raises(RunError, match="unfinished run with activation = None, not 'gelu'"):
        train(HeadCLIP(assemble(arch, None, seed=4), headclip), pictures, CONFIG, tmp_path, cpu=True)


def test_other_pictures_are_another_run(clip, pictures, headclip, tmp_path):
    about = {"procedural": {"seed": 0}}
    with pytest.raises(KilledError):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, about=about, cpu=True, progress=killed_after(2))
    with pytest.raises(RunError, match="unfinished run with data"):
        train(HeadCLIP(clip, headclip), pictures, CONFIG, tmp_path, about={"procedural": {"seed": 1}}, cpu=True)


@pytest.mark.parametrize(
    ("values", "named"),
    [({"epochs": 0}, "epochs is 0"), ({"precision": "half"}, "float32, bfloat16"), ({"colour": 1}, "'colour'")],
)
def test_bad_settings_are_named(values, named):
    with pytest.raises(ConfigError) as error:
        TrainingConfig.of(values)
    assert named in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("streams", [("local",), ("global", "local")])
def test_a_step_never_waits_for_the_gpu(streams, clip, pictures):
    detector = HeadCLIP(clip.to("cuda"), preset("headclip", streams=streams, **SMALL))
    loader = data.Loader(pictures, data.Preprocess(detector.image_size), 4, normalise=False)
    batch = next(iter(loader))
    images = loader.preprocess.normalise(batch.images.cuda())
    loss = objective_of(detector, 10**9)  # too many for their features to be kept
    for mode in ("default", "error"):  # the first step makes what is made once
        torch.cuda.set_sync_debug_mode(mode)
        try:
            terms = loss(batch, images)
            (terms["image"] + terms["pixel"]).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert all(parameter.grad is not None for parameter in detector.parameters())
