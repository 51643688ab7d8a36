"""Files in the form in which AA-CLIP saves its adapters, made for the tiny CLIP."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from headlens.backbone import Backbone, load
from headlens.cli import app
from headlens.detectors import AACLIPConfig
from headlens.detectors.methods.importing import read_published
from headlens.detectors.methods.published_aa_clip import adapted_detector, read_adapters
from headlens.errors import CheckpointError, ConfigError, RunError
from headlens.training.run import load_run
from tests.detectors.test_published_april_gan import OSErrorMaker, tiny


def linear(width: int, out: int, leaky: bool) -> nn.Module:
    """As their modules have them."""
    holder, layer = nn.Module(), nn.Linear(width, out, bias=False)
    holder.fc = nn.Sequential(layer, nn.LeakyReLU()) if leaky else layer
    return holder


def theirs(clip: Backbone, taps: int = 2, relu: bool = False) -> tuple[nn.Module, nn.Module]:
    """The image and the text module of one text and two image adapters."""
    torch.manual_seed(0)
    width, d_embed, of_text = clip.vision.cfg.d_model, clip.vision.cfg.d_embed, clip.text.cfg.d_model
    image = nn.ModuleDict(
        {
            "layer_adapters": nn.ModuleList([linear(width, width, True) for _ in range(2)]),
            "seg_proj": nn.ModuleList([linear(width, d_embed, relu) for _ in range(taps)]),
            "det_proj": linear(width, d_embed, relu),
        }
    )
    return image, nn.ModuleList([linear(of_text, of_text, True), linear(of_text, d_embed, True)])


def saved(folder, image, text, **beside):
    """Both files; what else goes into the first."""
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(3))]).state_dict()
    torch.save({"epoch": 15, "image_adapter": image, "image_optimizer": optimizer, **beside}, folder / "image.pth")
    torch.save({"epoch": 5, "text_adapter": text, "text_optimizer": optimizer}, folder / "text.pth")
    return folder / "image.pth", folder / "text.pth"


@torch.no_grad()
def test_adapters_become_the_detector_of_their_authors(tmp_path):
    clip = tiny()
    image, text = theirs(clip)
    found = read_published(*saved(tmp_path, image.state_dict(), text.state_dict()))
    assert found.preset == "aa-clip" and not found.not_taken
    assert found.contents == "adapters in 1 text and 2 image blocks, projections of 2 taps"
    config = AACLIPConfig(taps=(3, 1), teacher_start=1, phrases=(("nut", "metal nut"),))
    detector = adapted_detector(read_adapters(tmp_path / "image.pth", tmp_path / "text.pth"), clip, config)
    assert (detector.config.adapt_text, detector.config.adapt_image) == (1, 2) and detector.config.phrases
    tokens = torch.randn(1, 5, 32)
    for block, adapter in detector.image_adapters.by_block.items():
        y = image["layer_adapters"][block].fc(tokens)
        mixed = 0.1 * (y * tokens.norm(dim=-1, keepdim=True) / y.norm(dim=-1, keepdim=True)) + 0.9 * tokens
        torch.testing.assert_close(adapter(tokens), mixed)
    reading = detector.reading(torch.zeros(1, 3, 32, 32))
    normed = clip.vision.ln_final(tokens)
    torch.testing.assert_close(reading.taps[3](tokens), image["seg_proj"][0].fc(normed))
    torch.testing.assert_close(reading.taps[1](tokens), image["seg_proj"][1].fc(normed))
    torch.testing.assert_close(reading.image(tokens), image["det_proj"].fc(normed))
    words = torch.randn(4, 24)
    torch.testing.assert_close(detector.text_projection(words), text[1].fc(words))
    assert torch.equal(detector.text_adapters[0].linear.weight, text[0].fc[0].weight)
    assert not any(parameter.requires_grad for parameter in detector.parameters())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda image, text: image.pop("det_proj.fc.weight"), r"image\.pth .* there is no det_proj\.fc\.weight"),
        (lambda image, text: image.pop("seg_proj.0.fc.weight"), r"image\.pth .* there is no seg_proj\.0\.fc\.weight"),
        (
            lambda image, text: image.pop("layer_adapters.0.fc.0.weight"),
            r"image\.pth holds layer_adapters\.1\.fc\.0\.weight, .* or not without those before it",
        ),
        (lambda image, text: text.pop("0.fc.0.weight"), r"text\.pth .* there is no 0\.fc\.0\.weight"),
        (lambda image, text: image["det_proj.fc.weight"][0].fill_(torch.nan), r"det_proj\.fc\.weight is .* NaN"),
        (lambda image, text: text.update({"0.fc.0.weight": torch.zeros(3)}), r"0\.fc\.0\.weight is \[3\]"),
        (lambda image, text: text.update({"0.fc.0.bias": torch.zeros(3, 3)}), r"text\.pth holds 0\.fc\.0\.bias"),
        (lambda image, text: image.update({"det_proj.fc.weight": "text"}), "holds no state dict of tensors"),
        (lambda image, text: image.update({"det_proj.fc.weight": OSErrorMaker()}), "more than tensors in it"),
        (lambda image, text: text.clear(), "holds no state dict of tensors"),
    ],
)
def test_other_files_are_refused(change, named, tmp_path):
    image, text = (dict(module.state_dict()) for module in theirs(tiny()))
    change(image, text)
    with pytest.raises(CheckpointError, match=named):
        read_adapters(*saved(tmp_path, image, text))


def test_files_of_other_kinds_are_refused(tmp_path):
    image, text = (module.state_dict() for module in theirs(tiny()))
    files = saved(tmp_path, image, text, discriminator={"lr": 0.1})
    with pytest.raises(CheckpointError, match="holds discriminator, which AA-CLIP has not"):
        read_adapters(*files)
    files = saved(tmp_path, theirs(tiny(), relu=True)[0].state_dict(), text)
    with pytest.raises(CheckpointError, match="was trained with --relu"):
        read_adapters(*files)
    with pytest.raises(CheckpointError, match="holds no image_adapter of AA-CLIP, but text_adapter"):
        read_adapters(*files[::-1])
    for given in (files[:1], files[1:], files[::-1]):
        with pytest.raises(CheckpointError, match=r"is one of AA-CLIP's two files: give image_adapter_….pth, and with"):
            read_published(*given)
    torch.save({"prompt_learner": {"ctx_pos": torch.zeros(1, 1, 2, 3)}}, tmp_path / "prompts.pth")
    with pytest.raises(CheckpointError, match=r"text\.pth: text adapters go with AA-CLIP's image adapters"):
        read_published(tmp_path / "prompts.pth", files[1])
    files[0].write_bytes(files[0].read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"image\.pth"):
        read_published(*files)


def test_a_clip_of_other_sizes_or_activation_is_refused(tmp_path):
    adapters = read_adapters(*saved(tmp_path, *(module.state_dict() for module in theirs(tiny()))))
    with pytest.raises(RunError, match="projections of 2 taps, not 4"):
        adapted_detector(adapters, tiny())
    with pytest.raises(ConfigError, match="block 4 does not exist"):
        adapted_detector(adapters, tiny(), AACLIPConfig(taps=(3, 4), teacher_start=1))
    with pytest.raises(RunError, match=r"is \[24, 24\] in the files, and \[384, 384\] on ViT-S-32: load the CLIP"):
        adapted_detector(adapters, load("ViT-S-32"), AACLIPConfig(taps=(3, 4)))
    with pytest.raises(RunError, match=r"plain GELU, and mini computes quick_gelu.*act_fn='gelu'"):
        adapted_detector(adapters, load("mini"), AACLIPConfig(taps=(3, 4)))


def test_import_writes_a_run_with_both_files_and_phrases(tmp_path, monkeypatch):
    mini = load("mini")
    image, text = saved(tmp_path, *(module.state_dict() for module in theirs(mini, 4)))
    monkeypatch.setattr(
        "headlens.backbone.load", lambda name, weights, size, **rules: load("mini", None, size, **rules)
    )
    (tmp_path / "phrases.toml").write_text('nut = "hexagonal nut"')
    asked = ["import", image, "--text", text, "--out", tmp_path / "run", "--size", 56, "--trained-on", "visa"]
    asked += ["--descriptions", tmp_path / "phrases.toml"]
    said = CliRunner().invoke(app, [str(argument) for argument in asked], catch_exceptions=False)
    assert said.exit_code == 0 and "aa-clip, adapters in 1 text and 2 image blocks" in said.output
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["imported"]["text"] == "text.pth" and len(card["imported"]["text_sha256"]) == 64
    assert card["backbone"]["act_fn"] == "gelu" and card["backbone"]["because"].startswith("AA-CLIP's adapters")
    run = load_run(tmp_path / "run")
    adapters = read_adapters(image, text)
    assert torch.equal(run.detector.patches["23"].weight, adapters.patches[3]) and run.size == 56
    assert run.detector.config.phrases == (("nut", "hexagonal nut"),) and run.detector.config.map_ends == ()
