"""VadCLIP against its formula on open_clip's and torch's own modules, clip by clip; its training; what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from open_clip.model import CLIP
from torch import Tensor, nn

from headlens import data, heads
from headlens.clips import Shown
from headlens.detectors import PRESETS, Answers, Detector, TrainingConfig, VadCLIPConfig, build
from headlens.detectors.parts.clip_windows import Windows, averaged
from headlens.errors import ConfigError
from headlens.heads import clean_forward, single_heads
from headlens.heads.measuring import measure
from headlens.heads.replacement import donors
from headlens.training import load_run, train
from tests.backbone.models import close, random_clip
from tests.methods.cases import CASES, FRAMES, images
from tests.tiny import SENTENCES, clip

WIDTH = 20


@cache
def theirs() -> CLIP:
    return random_clip(SENTENCES)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return CASES["vadclip"]()


def sentences(detector: Detector) -> Tensor:
    """open_clip's text tower on tokens that are put together one by one: [C, d_e]."""
    model, table, n = theirs(), detector.prompts.table.double(), detector.config.context
    told = []
    for kind in detector.config.kinds:
        ids = clip().tokenizer([kind])[0].tolist()
        ids = ids[: ids.index(max(ids)) + 1]
        word = model.token_embedding(torch.tensor(ids))
        x = torch.empty(len(ids) + 2 * n, word.shape[1], dtype=torch.float64)
        for position in range(len(x)):
            x[position] = table[position]
        x[0], x[n + 1 : n + len(ids) - 1], x[-1] = word[0], word[1:-1], word[-1]
        x = x + model.positional_embedding[: len(x)]
        mask = torch.full((len(x), len(x)), -torch.inf, dtype=torch.float64).triu(1)
        x = model.ln_final(model.transformer(x[None], attn_mask=mask))[0, -1]
        told.append(x @ model.text_projection)
    return torch.stack(told)


class Published(nn.Module):
    """What stands above frames, of torch's modules, one window of one clip at a time."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        state = {name: tensor.double() for name, tensor in detector.state_dict().items()}
        self.state, self.config = state, detector.config
        self.attention, self.conv = {}, {}
        for layer in range(self.config.layers):
            at = f"above.temporal.blocks.{layer}"
            self.attention[layer] = nn.MultiheadAttention(WIDTH, 1, batch_first=True).double()
            names = ("qkv.weight", "qkv.bias", "out.weight", "out.bias")
            theirs = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
            own = {other: state[f"{at}.{name}"] for name, other in zip(names, theirs, strict=True)}
            self.attention[layer].load_state_dict(own)
        for graph in ("similarity", "distance"):
            self.conv[graph] = nn.Conv1d(WIDTH, WIDTH // 2, 5, padding=2).double()
            own = {"weight": state[f"above.temporal.{graph}.kernel"], "bias": state[f"above.temporal.{graph}.bias"]}
            self.conv[graph].load_state_dict(own)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.state[f"{name}.weight"].T + self.state.get(f"{name}.bias", torch.zeros(()))

    def mlp(self, name: str, x: Tensor) -> Tensor:
        x = self.linear(f"{name}.up", x)
        return self.linear(f"{name}.down", x * torch.sigmoid(1.702 * x))

    def norm(self, name: str, x: Tensor) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def frames(self, x: Tensor) -> Tensor:
        """Up to T embeddings [n, d] of one window, to v [T, d]."""
        size, window, count = self.config.length, self.config.window, len(x)
        x = torch.cat([x, x.new_zeros(size - count, WIDTH)]) + self.state["above.temporal.position"]
        hidden = torch.ones(size, size, dtype=torch.bool)
        for first in range(0, size, window):
            hidden[first : first + window, first : first + window] = False
        for layer, attention in self.attention.items():
            at = f"above.temporal.blocks.{layer}"
            normed = self.norm(f"{at}.ln1", x)[None]
            x = x + attention(normed, normed, normed, attn_mask=hidden)[0][0]
            x = x + self.mlp(f"{at}.mlp", self.norm(f"{at}.ln2", x))
        adjacency = {name: torch.zeros(size, size, dtype=torch.float64) for name in ("similarity", "distance")}
        for i in range(size):
            for j in range(size):
                adjacency["distance"][i, j] = math.exp(-abs(i - j) / math.e)
            if i < count:
                cosines = torch.stack([F.cosine_similarity(x[i], x[j], 0) for j in range(count)])
                kept = [float(c) if c > self.config.threshold else 0.0 for c in cosines]
                adjacency["similarity"][i, :count] = torch.tensor(kept, dtype=torch.float64).softmax(0)
        halves = []
        for graph, a in adjacency.items():
            z = a @ self.linear(f"above.temporal.{graph}.first", x) + self.conv[graph](x.T[None])[0].T
            z = z * torch.sigmoid(1.702 * z)
            z = a @ self.linear(f"above.temporal.{graph}.second", z) + z
            halves.append(z * torch.sigmoid(1.702 * z))
        return self.linear("above.temporal.merge", torch.cat(halves, 1))

    def logits(self, x: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Of one window: a [n] and m [n, C]."""
        v = self.frames(x)
        a = self.linear("above.classifier", v + self.mlp("above.frame_mlp", v))[:, 0]
        shown = sum(a[t] * v[t] for t in range(len(v)))
        told = text + shown / shown.norm()
        told = told + self.mlp("above.kind_mlp", told)
        m = torch.stack([F.cosine_similarity(v, one[None], -1) for one in told], 1) / 0.07
        return a[: len(x)], m[: len(x)]


@torch.no_grad()
def predicted(detector: Detector, shown: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    published, text = Published(detector), sentences(detector)
    found = []
    for frames in theirs().encode_image(shown).split(list(lengths)):
        found += [published.logits(window, text) for window in frames.split(detector.config.length)]
    return torch.cat([a for a, _ in found]), torch.cat([m for _, m in found])


def clips(lengths: Sequence[int]) -> tuple[Tensor, Shown]:
    return images((32, 32), sum(lengths)), Shown(("street",) * sum(lengths), tuple(lengths))


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(5, 1, 8), (19,)])
def test_a_prediction_is_the_published_formula(detector, lengths):
    shown, categories = clips(lengths)
    a, m = predicted(detector, shown, lengths)
    assert m.std() > 0.1 and a.std() > 0.1
    close(detector.text(), sentences(detector), 1e-10)
    found = detector(shown, categories)
    close(found.image_margin, a, 1e-10)
    close(found.image_score, a.sigmoid(), 1e-10)
    p = m.softmax(-1)
    assert list(found.kinds) == list(detector.config.kinds[1:])
    close(torch.stack([*found.kinds.values()], -1), p[:, 1:], 1e-10)
    aligned = detector.with_config(branch="alignment")(shown, categories)
    close(aligned.image_score, 1 - p[:, 0], 1e-10)
    close(aligned.joint_score, aligned.image_score, 1e-12)
    assert not found.has_map


@torch.no_grad()
def test_a_score_depends_on_its_clip_alone(detector):
    lengths = (5, 9, 1, 3)
    shown, categories = clips(lengths)
    together, start = detector(shown, categories), 0
    for length in lengths:
        alone = detector(shown[start : start + length], Shown(("street",) * length, (length,)))
        close(alone.image_score, together.image_score[start : start + length], 1e-12)
        start += length
    close(detector(shown).image_score, torch.cat([detector(one[None]).image_score for one in shown]), 1e-12)
    apart = detector(shown).image_score - together.image_score
    assert apart.abs().max() > 1e-3, "what is known of the clip matters"
    swapped = shown.clone()
    swapped[:5] = shown[:5].flip(0)
    assert (detector(swapped, categories).image_score - together.image_score)[5:].abs().max() < 1e-12


@torch.no_grad()
def test_a_head_is_ablated_in_a_whole_clip(detector):
    """By a gate that is shut in every frame."""
    shown, categories = clips((4, 10))
    clean, some = clean_forward(detector, shown, categories), single_heads(heads.heads_of(detector)[::7])
    swept = measure(clean, some)
    close(clean.margins.image, detector.margins(shown, categories).image, 1e-12)
    for row, variant in enumerate(some):
        (head,) = variant.heads
        gates = torch.ones(14, 4, 4, dtype=torch.float64)
        gates[:, head.layer, head.head] = 0
        expected = detector.margins(shown, categories, gates={"global": gates}).image
        close(swept.image_margin[row], expected, 1e-10)
        assert (expected - clean.margins.image).abs().max() > 1e-4
    assert (swept.map_change == 0).all()


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_verbs_read_clips_whole_whatever_the_batch(detector, kind):
    frames = data.open("procedural:clips/aux", category="nut", per_category=4, size=32, every=4)
    some, results = single_heads(heads.heads_of(detector, [0, 3], [1])), []
    for batch in (1, 12, 1000):
        options = {"kind": kind, "metrics": ("image_auroc",), "replicates": 2, "batch": batch, "size": 32}
        results.append(heads.ablate(detector, frames, some, **options).frame)
    for other in results[1:]:
        assert list(other["image"]) == list(results[0]["image"])
        for column in ("value", "baseline"):
            close(torch.tensor(other[column].to_numpy()), torch.tensor(results[0][column].to_numpy()), 1e-10)
    assert (results[0]["effect"].abs() > 1e-6).any()
    (batch,) = data.Loader(frames, data.Preprocess(32), len(frames))
    rows = results[0][(results[0]["metric"] == "image_margin") & (results[0]["variant"] == "L3H1")]
    expected = detector.margins(batch.images.double(), batch.shown).image
    close(torch.tensor(rows["baseline"].to_numpy()), expected, 1e-6)


def test_a_frame_is_never_replaced_by_one_of_its_clip():
    frames = data.open("procedural:clips/aux", category="nut", per_category=4, size=32, every=4)
    for record, donor in zip(frames.records, donors(frames), strict=True):
        assert frames.records[donor].clip != record.clip and not frames.records[donor].anomalous


def test_importance_is_of_the_whole_clip(detector):
    """The gate of one frame moves the scores of all, and the sum of them is what is differentiated."""
    shown, categories = clips((3, 2))
    value, gradients = heads.gate_gradients(detector, shown, "image_margin", categories)
    assert value.shape == (5,)
    for frame, layer, head in ((0, 0, 1), (2, 3, 2), (4, 2, 0)):
        ends = []
        for step in (-1e-6, 1e-6):
            gates = torch.ones(5, 4, 4, dtype=torch.float64)
            gates[frame, layer, head] += step
            ends.append(detector.margins(shown, categories, gates={"global": gates}).image.sum())
        close(gradients["global"][frame, layer, head], (ends[1] - ends[0]) / 2e-6, 1e-6)


@torch.no_grad()
def test_the_loss_is_the_published_one(detector):
    lengths, families = (5, 20, 8), ("good",) * 5 + ("good",) * 9 + ("CarAccident",) * 11 + ("fighting",) * 8
    shown, categories = clips(lengths)
    labels = torch.tensor([0] * 5 + [0] * 9 + [1] * 11 + [-1] * 8)  # of the last one only the clip is known
    (stage,) = detector.stages(TrainingConfig())
    masks, known = torch.zeros(33, 4, 4, dtype=torch.bool), torch.zeros(33, dtype=torch.bool)
    answers = Answers(labels, masks, known, families, lengths)
    terms = stage.loss(stage.see(shown, categories), answers)
    published, text = Published(detector), sentences(detector)
    of_clip, of_kinds = [], []
    for frames, kind in zip(theirs().encode_image(shown).split(list(lengths)), (0, 2, 1), strict=True):
        bounds = [i * len(frames) // 8 for i in range(9)]
        if len(frames) > 8:
            frames = torch.stack([frames[i:j].mean(0) for i, j in pairwise(bounds)])
        a, m = published.logits(frames, text)
        k = len(frames) // 16 + 1
        p = a.sigmoid().sort(descending=True).values[:k].mean()
        of_clip.append(-torch.log(p if kind else 1 - p))
        top = torch.stack([m[:, c].sort(descending=True).values[:k].mean() for c in range(3)])
        of_kinds.append(-top.log_softmax(0)[kind])
    close(terms["anomalous"], torch.stack(of_clip).mean(), 1e-10)
    close(terms["kinds"], torch.stack(of_kinds).mean(), 1e-10)
    cosines = [F.cosine_similarity(text[0], one, 0).abs() for one in text[1:]]
    close(terms["apart"], sum(cosines) / 2, 1e-10)
    assert stage.weights == {"apart": 0.1} and stage.clips
    shuffled = Answers(labels[[*range(5), *range(24, 4, -1), *range(25, 33)]], masks, known, families, lengths)
    again = stage.loss(stage.see(shown, categories), shuffled)
    assert again == terms, "labels of frames are not read, but for what they say of their clip"
    unknown = Answers(labels, masks, known, ("good",) * 25 + ("riot",) * 8, lengths)
    with pytest.raises(ConfigError, match="shows 'riot', and kinds are normal, fighting, car accident: name those"):
        stage.loss(stage.see(shown, categories), unknown)


@given(st.integers(1, 60), st.integers(1, 16))
def test_clips_are_cut_and_averaged_as_plain_loops_do(count, size):
    frames = torch.arange(2.0 * count).unflatten(0, (count, 2)).double()
    bounds = [i * count // size for i in range(size + 1)]
    means = [frames[i:j].mean(0) for i, j in pairwise(bounds) if j > i]
    close(averaged(frames, size), torch.stack(means) if count > size else frames, 1e-12)
    windows = Windows.of([count, 2], size)
    variants = torch.stack([torch.cat([frames, frames[:1], frames[:1]]), torch.ones(count + 2, 2)])
    cut = windows.cut(variants)
    assert cut.shape[:3] == (2, -(-count // size) + -(-2 // size), size)
    assert windows.lengths.sum() == count + 2 and torch.equal(windows.joined(cut), variants)
    of_none = torch.arange(size) >= windows.lengths[:, None]
    assert (cut[:, of_none] == 0).all()


def test_published_settings_have_the_published_size():
    """12,642,306 and 9,489,922 in the authors' code, each with one number that nothing reads."""
    from headlens.backbone import architecture

    towers = architecture("ViT-B-16")
    sizes = {"vadclip-ucf": 12_642_305, "vadclip-xd": 9_489_921}
    for name, size in sizes.items():
        shapes = PRESETS[name].learned_shapes(towers.vision, towers.text)
        assert sum(map(math.prod, shapes.values())) == size
    ucf, xd = (PRESETS[name] for name in sizes)
    assert isinstance(ucf, VadCLIPConfig) and isinstance(xd, VadCLIPConfig)
    assert (ucf.length, ucf.layers, ucf.window, ucf.context, ucf.lr, ucf.apart) == (256, 2, 8, 10, 2e-5, 0.1)
    assert (xd.length, xd.layers, xd.window, xd.context, xd.lr, xd.apart) == (256, 1, 64, 10, 1e-5, 1e-4)
    assert (len(ucf.kinds), len(xd.kinds), ucf.branch, xd.branch) == (14, 7, "classifier", "alignment")


def test_training_moves_what_is_above_frames_and_resumes_to_the_bit(tmp_path):
    frames = data.open("procedural:clips/aux", category="nut", per_category=4, size=32, every=2)
    settings = FRAMES | {"kinds": PRESETS["vadclip"].kinds, "epochs": 3, "batch": 2}

    def begun() -> Detector:
        return build(clip(torch.float32), "vadclip", **settings)

    detector, training = begun(), TrainingConfig(seed=3, save_every=2)
    started = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    card = train(detector, frames, training, tmp_path / "run", cpu=True, progress=lambda row: None)
    assert card["steps"] == 6 and card["threshold"] is not None and card["stages"][0]["batch"] == 2
    assert not any(torch.equal(tensor, started[name]) for name, tensor in detector.state_dict().items())

    class KilledError(Exception):
        pass

    def kill(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KilledError

    again = begun()
    with pytest.raises(KilledError):
        train(again, frames, training, tmp_path / "killed", cpu=True, progress=kill)
    again = begun()
    train(again, frames, training, tmp_path / "killed", cpu=True, progress=lambda row: None)
    assert all(torch.equal(tensor, detector.state_dict()[name]) for name, tensor in again.state_dict().items())
    run = load_run(tmp_path / "run", detector.backbone)
    (batch,) = data.Loader(frames, data.Preprocess(32), len(frames))
    close(run.predict(frames).image_score, detector(batch.images, batch.shown).image_score, 1e-4)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kinds": ("normal",)}, r"kinds is \('normal',\)"),
        ({"kinds": ("normal", "Normal")}, "kinds is"),
        ({"window": 5}, "window is 5"),
        ({"layers": -1}, "layers is -1"),
        ({"threshold": 2.0}, "threshold is 2.0"),
        ({"branch": "both"}, "branch is 'both'"),
        ({"context": 20}, "context is 20, twice, but the text tower of tiny reads 32 tokens"),
        ({"milestones": (2, 1)}, r"milestones are \(2, 1\)"),
        ({"taps": (3,)}, "VadCLIPConfig has no field 'taps'"),
    ],
)
def test_settings_that_make_no_detector_are_named(fields, said):
    with pytest.raises(ConfigError, match=said):
        build(clip(), "vadclip", **(FRAMES | fields))
