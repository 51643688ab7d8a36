"""Our reading of KAnoCLIP against its formulas, written apart as plain loops, in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens import data, knowledge
from headlens.attribution.targets import target_of
from headlens.detectors import Answers, KAnoCLIP, KAnoCLIPConfig, TrainingConfig, build
from headlens.detectors.parts.distillation import distillation, knowledge_of, taught
from headlens.errors import ConfigError, DataError
from headlens.heads import clean_forward
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.exactness import held
from headlens.heads.response import respond
from headlens.knowledge import Row
from headlens.training.run import load_run
from headlens.training.trainer import train
from tests.backbone.models import close
from tests.heads.oracles import HOOKS
from tests.methods.cases import CASES, images
from tests.methods.formula import embedded
from tests.methods.test_identities import few
from tests.tiny import clip

SMALL = {"taps": (1, 3), "local_start": 1, "deep": 2, "deep_tokens": 3, "context": 5}
SMALL |= {"prompt_count": 2, "cross_heads": 2, "conv_width": 6, "kd_weight": 0.0}
ROWS = [
    Row("industrial", "*", "normal", "The surface is even.", "a test"),
    Row("industrial", "nut", "anomalous", "A corner is off.", "a test"),
    Row("industrial", "nut", "anomalous", "The nut is cracked.", "a test"),
]


def trained(**changes: object) -> KAnoCLIP:
    """As large as learned tensors become, gates above all."""
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | changes)), seed=1).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return detector


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def taken(attention, x: Tensor, others: Tensor, level: int) -> Tensor:
    """What one token x [d] takes from others [m, d], head by head."""
    heads = []
    d = len(x) // attention.heads
    for channels in (slice(i * d, (i + 1) * d) for i in range(attention.heads)):
        asking, asked = (attention.asking @ x)[channels], (others @ attention.asked.T)[:, channels]
        a = (unit(asked) @ unit(asking) / attention.temperature).softmax(0)
        heads.append(a @ (others @ attention.value.T)[:, channels])
    return attention.gate[level] * (attention.out @ torch.cat(heads))


def convolved(adapter, unit_patches: Tensor, grid: tuple[int, int], row: int, column: int, level: int) -> Tensor:
    half, hidden = adapter.side // 2, 0
    for i in range(-half, half + 1):
        for j in range(-half, half + 1):
            if 0 <= row + i < grid[0] and 0 <= column + j < grid[1]:
                neighbour = unit_patches[(row + i) * grid[1] + column + j]
                hidden = hidden + adapter.kernel[:, half + i, half + j] * (adapter.down.weight @ neighbour)
    return adapter.gate[level] * (adapter.up.weight @ (hidden.relu() if adapter.relu else hidden))


def expected(detector: KAnoCLIP, shown: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
    """Margins of images and patches, image by image and patch by patch."""
    vision, config, grid = detector.backbone.vision, detector.config, (4, 5)
    out = vision(shown, detector.plan)
    states = detector.prompts(detector.backbone)[0]
    flat = states.flatten(0, 1)
    image_margins, maps = [], {tap: [] for tap in config.taps}
    for number in range(len(shown)):
        answers, patches = [], {}
        for level, tap in enumerate(config.taps):
            e = embedded(vision, out.tapped[tap][number])  # of unit length
            changed = e.clone()
            for n in range(len(e)):
                if detector.patches_conv is not None:
                    changed[n] += convolved(detector.patches_conv, e, grid, n // grid[1], n % grid[1], level)
                if detector.patches_ask is not None:
                    changed[n] += taken(detector.patches_ask, e[n], flat, level)
            patches[tap] = unit(changed)
            if detector.prompts_ask is not None:
                answers.append(torch.stack([taken(detector.prompts_ask, t, patches[tap], level) for t in flat]))
        said = unit(flat + sum(answers) / len(answers)).unflatten(0, (2, -1)) if answers else states
        cls = embedded(vision, out.cls[number])
        if detector.image_conv is not None:
            cls = unit(cls + convolved(detector.image_conv, cls[None], (1, 1), 0, 0, 0))
        if config.reduce == "mean":
            normal, abnormal = unit(said.mean(1))

            def margin(x: Tensor, normal=normal, abnormal=abnormal) -> Tensor:
                return (x @ abnormal - x @ normal) / config.temperature
        else:

            def margin(x: Tensor, said=said) -> Tensor:
                return ((x @ said[1].T).amax(-1) - (x @ said[0].T).amax(-1)) / config.temperature

        image_margins.append(margin(cls))
        for tap in config.taps:
            maps[tap].append(margin(patches[tap]))
    return torch.stack(image_margins), {tap: torch.stack(each) for tap, each in maps.items()}


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reduce": "max", "conv_act": "none"},
        {"cross": "patches", "conv": "image"},
        {"cross": "prompts", "conv": "patches", "local_start": -1},
    ],
)
def test_margins_are_their_formula(changes):
    detector, shown = trained(**changes), images(count=2)
    image, taps = expected(detector, shown)
    found = detector.margins(shown)
    close(found.image, image, 1e-11)
    for tap, margins in taps.items():
        close(found.taps[tap], margins, 1e-11)
    seen = detector._see(shown)  # what the loss reads
    close(seen.image, image, 1e-11)
    close(seen.taps[3].flatten(1), taps[3], 1e-11)


@torch.no_grad()
def test_shut_gates_and_no_knowledge_leave_the_plain_prompt_learner():
    plain = build(clip(), "anomalyclip", seed=5, **{name: SMALL[name] for name in [*SMALL][:5]})
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | {"prompt_count": 1, "alpha": 0.0})), seed=5)
    ours, theirs = detector(images()), plain(images())
    for name in ("anomaly_map", "image_score", "joint_score", "image_margin"):
        close(getattr(ours, name), getattr(theirs, name), 1e-12)


@torch.no_grad()
@pytest.mark.parametrize("reduce", ["mean", "max"])
@pytest.mark.parametrize(("act", "kernel"), [("relu", 1), ("relu", 3), ("none", 3)])
def test_parts_add_up_through_attention_that_is_held(reduce, act, kernel):
    detector, shown = trained(conv_kernel=kernel, conv_act=act, reduce=reduce), images(count=2)
    clean, margins = clean_forward(detector, shown), detector.margins(shown)
    close(image_parts(clean).total, margins.image)
    for tap, margin in margins.taps.items():
        close(tap_parts(clean, tap).total, margin)
    chosen = ["choice of prompts"] if reduce == "max" else []
    assert held(detector)[-2 - len(chosen) :] == ["adapted embeddings", "text of the image", *chosen]


@torch.no_grad()
def test_a_local_head_as_a_target_is_what_it_draws_through_kernels():
    detector, shown = trained(), images(count=2)
    clean = clean_forward(detector, shown)
    each = []
    for tap in (1, 3):
        parts = tap_parts(clean, tap)
        layers = parts.layers["local"]
        drawn = parts.heads["local"][..., layers.index(1), 2]  # (B, N)
        each.append(drawn.mean(1))
    close(target_of(detector, "L1H2/local")(shown), torch.stack(each).mean(0))


@torch.no_grad()
@pytest.mark.parametrize("side", [1, 3])
def test_what_is_pulled_through_a_tail_is_its_slope_with_attention_held(side):
    detector, shown = trained(conv_kernel=side), images(count=1)
    tail, (rows, columns) = detector.reading(shown).taps[1].tail, (4, 5)
    generator, width = torch.Generator().manual_seed(0), detector.backbone.vision.cfg.d_embed
    e, moved, u = (torch.randn(1, 20, width, dtype=torch.float64, generator=generator) for _ in range(3))
    length, conv, half = e.norm(dim=-1, keepdim=True), detector.patches_conv, side // 2
    constant = length * torch.stack([taken(detector.patches_ask, x, tail.prompts, 0) for x in (e / length)[0]])

    def hidden(x: Tensor) -> Tensor:
        maps = F.pad((x / length @ conv.down.weight.T).unflatten(1, (rows, columns)), (0, 0, half, half, half, half))
        each = [conv.kernel[:, i, j] * maps[:, i : i + rows, j : j + columns] for i in range(side) for j in range(side)]
        return sum(each).flatten(1, 2)

    signs = (hidden(e) > 0).double()

    def as_held(x: Tensor) -> Tensor:
        return x + length * conv.gate[0] * (hidden(x) * signs) @ conv.up.weight.T + constant

    close(as_held(e), tail(e), 1e-12)
    pulled, rest = tail.pull(e, u)
    assert len(pulled) == side**2
    for x in (e, moved):
        read = sum(((x if at is None else x[:, at]) * v).sum(-1) for at, v in pulled)
        close(read + rest, (as_held(x) * u).sum(-1), 1e-11)


@torch.no_grad()
def test_text_follows_what_is_ablated_as_in_the_hook_loop():
    detector, shown = CASES["kanoclip"](), images()
    clean, variants = clean_forward(detector, shown), few(detector)
    answers = {follow: respond(clean, variants, follow=follow) for follow in (False, True)}
    reading, vision = detector.reading(shown), detector.backbone.vision
    for row, variant in enumerate(variants):
        head = variant.heads[0]

        def zero(z, hook, number=head.head):
            z = z.clone()
            z[:, :, number] = 0
            return z

        with vision.hooks([(HOOKS[head.stream].format(head.layer), zero)]):
            features = reading.features(detector.see(shown, reading))
        follows = replace(reading, text=reading.follow(features))
        for follow, each in ((False, reading), (True, follows)):
            close(answers[follow].image[row], each.margins(features).image)
            close(answers[follow].taps[3][row], each.margins(features).taps[3])
    assert (answers[True].image - answers[False].image).abs().max() > 1e-3


def answers_of(shown: Tensor) -> Answers:
    masks = torch.zeros(len(shown), *shown.shape[2:], dtype=torch.bool)
    masks[0, 4:14, 6:20] = True
    return Answers(torch.tensor([1, 0, 0]), masks, torch.tensor([True, True, False]))


@pytest.mark.parametrize("changes", [{}, {"reduce": "max", "kd_distance": "euclidean", "kd_assign": "prompts"}])
def test_gradients_are_finite_differences(changes, tmp_path):
    knowledge.write(tmp_path / "base.jsonl", ROWS)
    detector = trained(kd_weight=0.5, base=str(tmp_path / "base.jsonl"), **changes)
    shown = images()
    (stage,) = detector.stages(TrainingConfig())
    kept = stage.keep(shown)

    def loss() -> Tensor:
        terms = stage.loss(stage.see_features(kept, ()), answers_of(shown))
        assert terms.keys() == {"global", "local", "knowledge"}
        return sum(stage.weights[name] * term for name, term in terms.items())

    loss().backward()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in detector.named_parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        ends = []
        for step in (-1e-6, 2e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
                ends.append(loss())
        with torch.no_grad():
            parameter.sub_(1e-6 * direction)
        slope = float(ends[1] - ends[0]) / 2e-6
        assert math.isclose(float((parameter.grad * direction).sum()), slope, rel_tol=1e-4, abs_tol=1e-6), name


def test_gates_that_are_shut_have_gradients_at_once():
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**SMALL), seed=1)
    (stage,) = detector.stages(TrainingConfig())
    shown = images()
    terms = stage.loss(stage.see(shown, ()), answers_of(shown))
    (terms["global"] + terms["local"]).backward()
    gates = [parameter for name, parameter in detector.named_parameters() if name.endswith("gate")]
    assert len(gates) == 4 and all((gate.grad != 0).all() for gate in gates)


def test_matrices_have_a_rate_of_their_own():
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | {"matrix_lr": 2e-5})))
    (stage,) = detector.stages(TrainingConfig(lr=0.01))
    rates = {id(parameter): group["lr"] for group in stage.groups for parameter in group["params"]}
    for name, parameter in detector.named_parameters():
        assert rates[id(parameter)] == (0.01 if name.startswith("prompts.") or name.endswith("gate") else 2e-5), name
    (stage,) = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | {"cross": "none", "conv": "none"}))).stages(TrainingConfig())
    assert [group["lr"] for group in stage.groups] == [1e-3]


def naive(prompts: Tensor, sentences: list[Tensor], distance: str, temperature: float, assign: str) -> float:
    def between(p: Tensor, s: Tensor) -> float:
        return math.dist(p.tolist(), s.tolist()) if distance == "euclidean" else 1 - float(p @ s)

    terms = []
    for state in range(2):
        by_prompt = [[between(p, s) for s in sentences[state]] for p in prompts[state]]
        by_sentence = [[between(p, s) for p in prompts[state]] for s in sentences[state]]
        ways = {"prompts": [by_prompt], "sentences": [by_sentence], "both": [by_prompt, by_sentence]}
        for some in ways[assign]:
            soft = [-temperature * math.log(sum(math.exp(-d / temperature) for d in row) / len(row)) for row in some]
            terms.append(sum(soft) / len(soft))
    return sum(terms) / len(terms)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("assign", ["prompts", "sentences", "both"])
def test_distillation_is_its_formula(distance, assign):
    generator = torch.Generator().manual_seed(0)
    prompts, *sentences = (
        unit(torch.randn(shape, dtype=torch.float64, generator=generator)) for shape in ((2, 3, 8), (4, 8), (6, 8))
    )
    for temperature in (0.05, 2.0):
        found = distillation(prompts, sentences, distance, temperature, assign)
        assert math.isclose(float(found), naive(prompts, sentences, distance, temperature, assign), rel_tol=1e-9)
    nearest = distillation(prompts[:, :1], [known[:1] for known in sentences], distance, 0.1, assign)
    away = [1 - float(prompts[i, 0] @ sentences[i][0]) for i in range(2)]
    away = [math.sqrt(2 * d) for d in away] if distance == "euclidean" else away
    assert math.isclose(float(nearest), sum(away) / 2, rel_tol=1e-9), "of one and one, the distance itself"


def test_prompts_come_near_their_sentences_when_nothing_else_moves_them(tmp_path):
    knowledge.write(tmp_path / "base.jsonl", ROWS)
    changes = {"kd_weight": 1.0, "global_weight": 0.0, "local_weight": 0.0, "base": str(tmp_path / "base.jsonl")}
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | changes)), seed=1)
    (stage,) = detector.stages(TrainingConfig())
    shown = images()
    kept, optimiser = stage.keep(shown), torch.optim.Adam(stage.groups, lr=0.01)
    losses = []
    for _ in range(20):
        losses.append(stage.loss(stage.see_features(kept, ()), answers_of(shown))["knowledge"])
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_scores_without_the_base_that_taught_it(tmp_path, monkeypatch):
    base = tmp_path / "base.jsonl"
    knowledge.write(base, ROWS)
    detector = KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | {"kd_weight": 1.0, "base": str(base)})), seed=1)
    dataset = data.open("procedural:industrial/aux", category="wood", per_category=4, size=32)
    card = train(detector, dataset, TrainingConfig(epochs=1, batch=4), tmp_path / "run", cpu=True)
    assert card["detector"]["base_sha256"] == knowledge.load(base).fingerprint
    base.unlink()

    def unreachable(*args: object) -> None:
        raise AssertionError("the base was asked")

    run, shown = load_run(tmp_path / "run", clip()), images((32, 32))
    with monkeypatch.context() as patched:
        for name in ("load", "shipped", "catalogued"):
            patched.setattr(f"headlens.detectors.parts.distillation.{name}", unreachable)
        again = load_run(tmp_path / "run", clip())
        assert torch.equal(again.detector(shown).joint_score, detector(shown).joint_score)
    assert "shipped" not in run.detector.facts["knowledge"]
    with pytest.raises(DataError, match="base"):
        build(clip(), run.detector.config, base=str(base)).stages(TrainingConfig())


def test_without_distillation_no_base_is_read(monkeypatch):
    monkeypatch.setattr("headlens.detectors.parts.distillation.shipped", lambda: 1 / 0)
    (stage,) = KAnoCLIP(clip(), KAnoCLIPConfig(**SMALL)).stages(TrainingConfig())
    assert stage.weights.keys() == {"global", "local"}


def test_a_base_is_refused_by_what_it_lacks(tmp_path):
    backbone, base = clip(), str(tmp_path / "base.jsonl")
    knowledge.write(base, ROWS[1:])
    with pytest.raises(DataError, match="no normal sentence for these prompts: tiny would have to read one"):
        taught(backbone, base)
    with pytest.raises(DataError, match="no domain 'medicin'; there are industrial, medical"):
        taught(backbone, domains=["medicin"])
    named = replace(backbone.provenance, name="mini-captions")
    backbone.provenance = named
    knowledge.write(base, ROWS)
    with pytest.raises(DataError, match=r"mini-captions has read the words of none of its 1"):
        taught(backbone, base)
    known = taught(backbone)
    assert len(known.normal) > 100 and len(known.anomalous) > 200
    assert "a photo of a damaged wood with a scratch" in known.anomalous
    assert len(knowledge_of(backbone).rows) > len(knowledge_of(clip()).rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt_count": 0}, "prompt_count is 0"),
        ({"conv_kernel": 2}, "conv_kernel is 2"),
        ({"kd_temperature": 0.0}, "kd_temperature is 0"),
        ({"cross": "all"}, "cross is 'all'; it can be both"),
        ({"taps": (3, 3)}, r"taps is \(3, 3\)"),
        ({"sigma": -1.0}, "sigma is -1"),
        ({"cross_heads": 7}, "cross_heads is 7: they share the"),
        ({"taps": (4,)}, "taps: block 4 does not exist"),
        ({"context": 40}, "context is 40, but the text tower"),
        ({"deep": 9}, "deep is 9"),
    ],
)
def test_values_that_make_no_detector_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        KAnoCLIP(clip(), KAnoCLIPConfig(**(SMALL | changes)))


def test_initial_values_follow_the_seed():
    one, again, other = (KAnoCLIP(clip(), KAnoCLIPConfig(**SMALL), seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    drawn = {name for name, value in one.items() if not torch.equal(value, other[name])}
    assert {"prompts.context", "patches_conv.up.weight", "image_conv.down.weight"} <= drawn
    assert not any("gate" in name or "kernel" in name or "ask" in name for name in drawn)
