"""AnoCLIP against its formula, written down on open_clip's modules; its adaptation, image by image; what it refuses."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn

from headlens.attribution import attribute
from headlens.backbone import Backbone, load
from headlens.detectors import PRESETS, AnoCLIPConfig, Scoring, TrainingConfig, build
from headlens.detectors.parts.views import changed
from headlens.errors import ConfigError
from headlens.heads import (
    ablate,
    clean_forward,
    contributions,
    heads_of,
    importance,
    map_parts,
    name_heads,
    single_heads,
)
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.exactness import held, held_before
from headlens.heads.measuring import measure
from headlens.training.trainer import train
from tests.backbone.models import close, random_clip
from tests.methods.cases import images, made
from tests.methods.test_identities import by_gate, few
from tests.tiny import SENTENCES, clip

CATEGORIES = ["metal_nut", "wood", "macaroni2"]
FLAWS = ("flaw", "defect", "damage")
STATES = (
    ["normal {}", "flawless {}", "perfect {}", "unblemished {}", *(f"{{}} without {flaw}" for flaw in FLAWS)],
    ["damaged {}", "abnormal {}", "imperfect {}", "blemished {}", *(f"{{}} with {flaw}" for flaw in FLAWS)],
)
KINDS = {
    "metal_nut": ("an industrial photo", "an industrial image", "a manufacturing image"),
    "wood": ("an industrial photo", "a textural photo", "a surface picture"),
}
NOISE = 0.05 * 1.1


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


@cache
def ours() -> Backbone:
    """One for all, which encodes the hundreds of sentences once; no test may change it."""
    return clip()


def templates(kinds: tuple[str, ...]) -> list[str]:
    """22 of each kind."""
    found = []
    for article, kind in (kind.split(" ", 1) for kind in kinds):
        for of in ("a", "the"):
            looks = ["cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry"]
            found += [f"a {look} {kind} of {of} {{}}" for look in looks]
            tails = ["{}", "small {}", "large {}", "{} for visual inspection", "{} for anomaly detection"]
            found += [f"{article} {kind} of {of} {tail}" for tail in tails]
    return found


@cache
@torch.no_grad()
def sentences(category: str) -> Tensor:
    """[2, 462, d_e], of any length, by open_clip's text tower."""
    thing = "macaroni" if category == "macaroni2" else category
    kinds = KINDS.get(category, KINDS["metal_nut"])
    said = [[t.format(s.format(thing)) for s in states for t in templates(kinds)] for states in STATES]
    return torch.stack([theirs().encode_text(ours().tokenizer(each)) for each in said])


@cache
@torch.no_grad()
def text(category: str) -> Tensor:
    """[2, d_e]: the mean of embeddings as they are, then at unit length."""
    return F.normalize(sentences(category).mean(1), dim=-1)


def tokens(given: Tensor) -> Tensor:
    """Patches of the V-V stream through ln_post and proj, [B, N, d_e]; it begins at block 0 and has no MLPs."""
    visual = theirs().visual
    x = visual.conv1(given).flatten(2).mT
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    y = x = visual.ln_pre(x)
    for block in visual.transformer.resblocks:
        attn, normed = block.attn, block.ln_1(x)
        v = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)[2]
        heads = v.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # (B, H, T, d)
        mixed = (heads @ heads.mT / heads.shape[-1] ** 0.5).softmax(-1) @ heads
        y = y + attn.out_proj(mixed.transpose(1, 2).flatten(2))
        x = block(x)
    return visual.ln_post(y[:, 1:]) @ visual.proj


class OneAdapter(nn.Module):
    """Of one image, as the authors' code has it; its first values and its noise are those of ``seed``."""

    def __init__(self, category: str, adapter: str, seed: int) -> None:
        super().__init__()
        self.made = torch.Generator().manual_seed(seed)
        self.sentences = F.normalize(sentences(category).flatten(0, 1), dim=-1) if adapter == "sentences" else None
        width = theirs().visual.proj.shape[1]
        self.linear = nn.Linear(width, width if self.sentences is None else len(self.sentences))
        with torch.no_grad():
            bound = 1 / width**0.5
            for parameter in (self.linear.weight, self.linear.bias):
                parameter.copy_(bound * (2 * torch.rand(parameter.shape, generator=self.made) - 1))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.linear(x / x.norm(dim=-1, keepdim=True))
        inner = inner if self.sentences is None else torch.tanh(inner) @ self.sentences
        return 0.5 * x + 0.5 * inner


def adapted(x: Tensor, category: str, adapter: str, loss_at: str, steps: int, seed: int) -> Tensor:
    """Patches [N, d_e] of one image after ``steps`` steps on it alone."""
    one = OneAdapter(category, adapter, seed)
    optimiser = torch.optim.AdamW(one.parameters(), 1e-3)

    def probabilities(tokens: Tensor) -> Tensor:
        logits = F.normalize(one(tokens), dim=-1) @ text(category).T  # (N, 2)
        if loss_at == "pixels":
            maps = logits.T.reshape(1, 2, 4, 4)
            logits = F.interpolate(maps, (32, 32), mode="bilinear", align_corners=True).flatten(2)[0].T
        return logits.softmax(-1)

    for _ in range(steps):
        noise = NOISE * torch.randn(x.shape, generator=one.made)
        p, q = probabilities(x), probabilities(x + noise)
        loss = -(p * p.log()).sum(-1).mean() + 0.5 * -(q[:, 1].log() + p[:, 0].log()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return one(x).detach()


def shown(patches: Tensor, categories: list[str]) -> Tensor:
    """Maps [B, 32, 32] of embeddings [B, 16, d_e]: softmax, borders repeated, 3 x 3 mean, enlarged."""
    pairs = torch.stack([text(category) for category in categories])
    maps = torch.einsum("bnd,bcd->bnc", F.normalize(patches, dim=-1), pairs).softmax(-1)[..., 1].unflatten(1, (4, 4))
    padded = F.pad(maps[:, None], (1, 1, 1, 1), "replicate")
    mean = torch.stack([padded[:, 0, i : i + 4, j : j + 4] for i in range(3) for j in range(3)]).mean(0)
    return F.interpolate(mean[:, None], (32, 32), mode="bilinear", align_corners=True)[:, 0]


@torch.no_grad()
def test_a_prediction_is_the_published_formula():
    detector, given = build(ours(), "anoclip", taps=(3,)), images((32, 32))
    found = detector(given, CATEGORIES)
    close(found.anomaly_map, shown(tokens(given), CATEGORIES), 1e-12)
    image = F.normalize(theirs().encode_image(given), dim=-1)
    pairs = torch.stack([text(category) for category in CATEGORIES])
    close(found.image_score, torch.einsum("bd,bcd->bc", image, pairs).softmax(-1)[:, 1], 1e-12)
    close(found.joint_score, found.image_score, 0.0)
    assert found.unit == "probability" and list(detector.stages(TrainingConfig())) == []


@pytest.mark.parametrize(("adapter", "loss_at"), [("sentences", "grid"), ("linear", "pixels")])
def test_each_image_adapts_as_published_and_by_itself(adapter, loss_at):
    given = images((32, 32))
    detector = build(ours(), "anoclip", taps=(3,), steps=3, adapter=adapter, loss_at=loss_at, adapter_seed=5)
    with torch.inference_mode():
        found = detector(given, CATEGORIES).anomaly_map
    each = [
        adapted(x, category, adapter, loss_at, 3, 5)
        for x, category in zip(tokens(given).detach(), CATEGORIES, strict=True)
    ]
    close(found, shown(torch.stack(each), CATEGORIES), 1e-8)
    with torch.no_grad():
        alone = detector(given[1:2], CATEGORIES[1:2]).anomaly_map
        fewer = detector.with_config(steps=2)(given, CATEGORIES).anomaly_map
        never = detector.with_config(steps=0)(given, CATEGORIES)
    close(alone, found[1:2], 1e-12)
    assert (fewer - found).abs().max() > 1e-6 and (never.anomaly_map - found).abs().max() > 1e-4
    close(never.image_score, detector(given, CATEGORIES).image_score, 0.0)


def test_presets_are_the_published_pipelines():
    plain, mvtec, visa = (PRESETS[name] for name in ("anoclip", "anoclip-plus", "anoclip-plus-visa"))
    assert all(isinstance(config, AnoCLIPConfig) for config in (plain, mvtec, visa))
    assert (plain.taps, plain.local_start, plain.temperature, plain.side, plain.steps) == ((), 0, 1.0, 3, 0)
    assert not any(config.views for config in (plain, mvtec, visa))
    assert (mvtec.steps, mvtec.adapter, mvtec.loss_at) == (5, "sentences", "grid")
    assert (visa.steps, visa.adapter, visa.loss_at) == (5, "linear", "pixels")


@torch.no_grad()
def test_without_taps_patches_are_read_after_the_last_block():
    detector, given = build(ours(), "anoclip"), images((32, 32))
    assert detector.about["taps"] == "3"
    expected = detector.with_config(taps=(3,))(given, CATEGORIES).anomaly_map
    assert torch.equal(detector(given, CATEGORIES).anomaly_map, expected)
    assert build(load("mini"), "anoclip").plan.taps == (23,)


def seen_from_elsewhere(given: Tensor) -> list[Tensor]:
    """22 views of square images, by torchvision and numpy where they can make them."""
    side = given.shape[-1]
    padded = F.pad(given, (side - 1,) * 4, mode="reflect")  # which is what lies around an image
    found = [given, given.flip(-1), torch.rot90(given, 1, (2, 3)), torch.rot90(given, 2, (2, 3))]
    found.append(torch.rot90(given, 3, (2, 3)))
    found.append((0.299 * given[:, :1] + 0.587 * given[:, 1:2] + 0.114 * given[:, 2:]).repeat(1, 3, 1, 1))
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    rows, columns = torch.meshgrid(at, at, indexing="ij")

    def taken(y: Tensor, x: Tensor) -> Tensor:
        """Between the four pixels around each place, [B, 3, h, w]; places in pixels from the middle."""
        y, x = (place + (side - 1) / 2 + side - 1 for place in (y, x))
        top, left = y.floor().long(), x.floor().long()
        down, right = y - top, x - left
        corners = {(0, 0): (1 - down) * (1 - right), (0, 1): (1 - down) * right}
        corners |= {(1, 0): down * (1 - right), (1, 1): down * right}
        return sum(padded[..., top + i, left + j] * weight for (i, j), weight in corners.items())

    for degrees in (11.25, 22.5, 33.75, 45):
        for sign in (1, -1):
            angle = torch.deg2rad(torch.tensor(sign * degrees, dtype=torch.float64))
            turned = columns * angle.sin() + rows * angle.cos(), columns * angle.cos() - rows * angle.sin()
            found.append(taken(*turned))
    for by in (0.1, 0.2):
        for down in (1, -1):
            for right in (1, -1):
                found.append(taken(rows + down * by * (side - 1) / 2, columns + right * by * (side - 1) / 2))
    return found


@torch.no_grad()
def test_an_image_score_is_the_mean_over_its_views_and_the_map_is_not():
    detector, given = build(ours(), "anoclip", views=True, temperature=0.1), images((32, 32))
    found, plain = detector(given, CATEGORIES), detector.with_config(views=False)(given, CATEGORIES)
    pairs = torch.stack([text(category) for category in CATEGORIES])
    each = [F.normalize(theirs().encode_image(view), dim=-1) for view in seen_from_elsewhere(given)]
    scores = [torch.einsum("bd,bcd->bc", one / 0.1, pairs).softmax(-1)[:, 1] for one in each]
    assert len(scores) == 22
    close(found.image_score, torch.stack(scores).mean(0), 1e-10)
    assert (found.image_score - plain.image_score).abs().min() > 1e-4
    assert torch.equal(found.anomaly_map, plain.anomaly_map)
    close(detector(given[1:2], CATEGORIES[1:2]).image_score, found.image_score[1:2], 1e-12)
    assert torch.equal(detector(given, CATEGORIES).image_score, found.image_score)


@torch.no_grad()
def test_a_head_is_gated_in_every_view():
    detector, given = build(ours(), "anoclip", views=True), images((32, 32), count=1)
    gates = {stream: torch.ones(1, 4, 4, dtype=torch.float64) for stream in ("global", "local")}
    close(detector.margins(given, gates=gates).image, detector.margins(given).image, 1e-12)
    gates["global"][0, 3, 1] = 0
    upright = detector.with_config(views=False)
    expected = torch.stack([upright.margins(view, gates=gates).image for view in [given, *changed(given)]])
    close(detector.margins(given, gates=gates).image.sigmoid(), expected.sigmoid().mean(0), 1e-12)


@torch.no_grad()
def test_turning_keeps_angles_in_images_that_are_not_square():
    """A straight line through the middle, as bright as it is far from another: turned, it is the other."""
    rows, columns = torch.meshgrid(torch.arange(21.0) - 10, torch.arange(41.0) - 20, indexing="ij")
    ramp = (rows + columns).expand(1, 3, -1, -1).double()  # grows along the diagonal of pixels
    turned = list(changed(ramp))[7]  # by 45 degrees
    middle = turned[0, 0, 6:15, 16:25]
    close(middle.amax(0) - middle.amin(0), torch.zeros(9, dtype=torch.float64), 1e-6)
    close(middle[0].diff().abs(), torch.full((8,), 2**0.5, dtype=torch.float64), 1e-6)


def test_the_lens_says_that_it_reads_no_views(dataset):
    detector = made("anoclip", views=True)
    few = single_heads(heads_of(detector)[:1])
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    for asked in (
        lambda: ablate(detector, dataset, few),
        lambda: importance(detector, dataset),
        lambda: map_parts(detector, image, size=32),
        lambda: attribute(detector, image, "input_x_gradient", "joint_margin", size=32),
    ):
        with pytest.raises(ConfigError, match=r"views = true.*with_config\(views=False\)"):
            asked()


@torch.no_grad()
def test_parts_go_through_a_linear_adapter_and_ablation_meets_it_as_it_is():
    detector, given = made("anoclip-plus-visa", taps=(1, 3), temperature=0.1), images()
    clean, margins = clean_forward(detector, given), detector.margins(given)
    for tap in (1, 3):
        close(tap_parts(clean, tap).total, margins.taps[tap])
    assert held(detector)[2:] == ["adapted embeddings", "adapter of each image"]
    assert clean.reading.taps[3].tail.opaque == ""
    assert held(detector, of=["image"]) == ["layer norm scale", "embedding norm"], "CLS is read as CLIP reads it"
    assert held_before(detector) == ["adapter of each image"]
    swept = measure(clean, few(detector))
    for row, variant in enumerate(few(detector)):
        expected = by_gate(detector, given, variant)  # the reading is made before gates are shut
        close(swept.patch_map[row], detector.scoring.patch_maps(expected, clean.grid))
    assert (swept.patch_map - swept.patch_map[0]).abs().max() > 1e-3


@torch.no_grad()
def test_the_mean_of_patches_is_what_ablated_maps_are_made_of():
    detector, given = made("anoclip", taps=(3,), temperature=0.1), images()
    swept = measure(clean_forward(detector, given), single_heads(heads_of(detector, streams=("local",))[:2]))
    unsmoothed = made("anoclip", taps=(3,), temperature=0.1, side=1)
    sharp = measure(clean_forward(unsmoothed, given), single_heads(heads_of(detector, streams=("local",))[:2]))
    inner = sharp.patch_map[..., 1:4, 1:4].mean((-1, -2))
    close(swept.patch_map[..., 2, 2], inner, 1e-12)


def test_a_tanh_is_refused_by_name_and_what_does_not_meet_it_is_not(dataset):
    detector = made("anoclip-plus", taps=(3,), temperature=0.1)
    with pytest.raises(ConfigError, match=r"tap 3 are not sums over heads.*tanh.*steps = 0.*use ablate or importance"):
        contributions(detector, dataset)
    with pytest.raises(ConfigError, match=r"adapted in each image.*name global heads"):
        name_heads(detector, dataset, heads_of(detector, streams=("local",))[:1], pool=["wood", "a scratch"])
    clean = clean_forward(detector, images())
    close(image_parts(clean).total, clean.margins.image)
    assert len(contributions(detector.with_config(steps=0), dataset, check_sums=True).frame)


@torch.no_grad()
def test_the_category_is_read_as_it_is_written_unless_the_config_says_otherwise():
    detector, given = build(ours(), "anoclip", taps=(3,)), images()
    close(detector.text(["metal_nut"])[0], text("metal_nut"), 1e-12)
    close(detector.text(["macaroni1"]), detector.text(["macaroni"]), 1e-12)
    assert not torch.equal(detector.text(["wood"]), detector.with_config(textures=()).text(["wood"]))
    other = build(ours(), "anoclip-plus", taps=(3,), class_aware=False)
    assert torch.equal(other(given, CATEGORIES).anomaly_map, other(given).anomaly_map)


def test_only_what_an_image_shows_is_encoded(monkeypatch):
    """Hundreds of sentences take longer than the image does."""
    detector, asked = build(ours(), "anoclip", taps=(3,)), []
    encode = detector._encoded_one
    monkeypatch.setattr(detector, "_encoded_one", lambda thing: asked.append(thing) or encode(thing))
    map_parts(detector, torch.zeros(3, 32, 32, dtype=torch.uint8), size=32, category="wood")
    assert asked == ["wood"]


def test_there_is_nothing_to_train(dataset, tmp_path):
    with pytest.raises(ConfigError, match="nothing to learn in this detector: anoclip"):
        train(build(clip(torch.float32), "anoclip", taps=(3,)), dataset, TrainingConfig(), tmp_path / "run", cpu=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"taps": (1, 1)}, r"taps is \(1, 1\)"),
        ({"taps": (11,)}, "block 11 does not exist: tiny has 4"),
        ({"local_start": 4}, "block 4 does not exist: tiny has 4"),
        ({"local_start": -2}, "local_start is -2"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"steps": -1}, "steps is -1"),
        ({"adapter": "mlp"}, "adapter is 'mlp'"),
        ({"loss_at": "patches"}, "loss_at is 'patches'"),
        ({"adapter_seed": -1}, "adapter_seed is -1"),
        ({"side": 2}, "side is 2"),
        ({"side": 0}, "side is 0"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"head_weights": "free"}, "AnoCLIPConfig has no field 'head_weights'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(ours(), "anoclip", **({"taps": (3,)} | fields))


def test_a_mean_of_patches_is_taken_on_their_grid_alone():
    with pytest.raises(ConfigError, match="side is 3"):
        Scoring(side=3, fuse_at="pixels")
