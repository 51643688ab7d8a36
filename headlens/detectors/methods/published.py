"""Published prompts: the checkpoints of AnomalyCLIP (arXiv 2310.18961) and Crane (arXiv 2504.11055).

Both keep a state dict under ``prompt_learner``: ``ctx_pos`` and ``ctx_neg`` [1, 1, n, D], the context of the normal and
the abnormal prompt; ``compound_prompts_text.{i}`` [k, D], deep prompts of text block ``i + 1``; and embeddings of the
words around the context, which tell whether a CLIP is the one that they were learned on. Files of Crane+ have the same
tensors: nothing in them tells that they were learned with a second backbone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods.registry import build, preset
from headlens.errors import CheckpointError, RunError

CONTEXT = "ctx_"
"""What the names of learned contexts begin with."""
_DEEP = "compound_prompts_text."
_UNUSED = "compound_prompt_projections."  # only AnomalyCLIP still saves them, and its detector does not read them
_SENTENCES = {"pos": "object.", "neg": "damaged object."}
_KNOWN = re.compile(
    rf"(ctx|token_prefix|token_suffix|tokenized_prompts)_(pos|neg)|{re.escape(_DEEP)}\d+|{re.escape(_UNUSED)}.*"
)
_OF_TRAINING = {"epoch", "iteration", "optimizer", "scheduler", "lr_scheduler"}
_CRANE_PLUS = (
    "Crane+ saves its prompts in the same form as Crane: if these are of Crane+, its second backbone (DINOv2, D-Attn) "
    "is not taken, and they score here as Crane does"
)


@dataclass(frozen=True)
class PublishedPrompts:
    """What such a checkpoint holds."""

    preset: str  # how its authors score with it, anomalyclip-published or crane
    context: Tensor  # [2, n, D], normal and abnormal
    deep: tuple[Tensor, ...]  # [k, D] each, of text blocks 1, 2, ...
    words: dict[str, Tensor]  # {pos, neg: [m, D]}, embeddings of start-of-text and of what follows the context
    sha256: str  # of the file
    not_taken: str  # what may be missing from its authors' detector; empty where nothing is
    rules: ClassVar[Mapping[str, str]] = {"position_rule": "bilinear"}

    @property
    def contents(self) -> str:
        """What was read, for people."""
        return f"{self.context.shape[1]} tokens of context, deep prompts in {len(self.deep)} blocks"

    def on(self, backbone: Backbone) -> Detector:
        """As ``published_detector``."""
        return published_detector(self, backbone)


def read_prompts(path: str | Path) -> PublishedPrompts:
    """Reads a ``.pth`` file of prompts; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, something else, or more than these prompts.
    """
    file = read_checkpoint(path)
    more = [name for name in file.state if not _KNOWN.fullmatch(name)]
    more += [name for name in file.others if name not in _OF_TRAINING]
    state = {name: value.float() for name, value in file.state.items() if value.is_floating_point()}
    blocks = [f"{_DEEP}{i}" for i in range(sum(name.startswith(_DEEP) for name in state))]
    ends = [f"{what}_{side}" for what in ("ctx", "token_prefix", "token_suffix") for side in _SENTENCES]
    missing = [name for name in ends + blocks if name not in state]
    if missing:
        raise CheckpointError(
            f"{path} holds no prompts of AnomalyCLIP or Crane: expected ctx_pos and ctx_neg [1, 1, n, D], "
            f"token_prefix_…, token_suffix_… and {_DEEP}…; there is no {missing[0]}"
        )
    if more:
        raise CheckpointError(
            f"{path} holds {', '.join(more[:5])}{', …' if len(more) > 5 else ''}, which no detector of AnomalyCLIP or "
            "Crane has: it is another method's, such as Crane+ with a second backbone, and nothing was imported"
        )
    deep = [state[name] for name in blocks]
    if len({tuple(prompt.shape) for prompt in deep}) > 1 or any(prompt.ndim != 2 for prompt in deep):
        raise CheckpointError(f"{path}: its deep prompts differ in shape: {[tuple(p.shape) for p in deep]}")
    width, lengths = state["ctx_pos"].shape[-1:], {side: state[f"ctx_{side}"].shape for side in _SENTENCES}
    odd = [name for name in ends if state[name].ndim != 4 or state[name].shape[:2] != (1, 1)]
    odd += [name for name in ends + blocks if state[name].shape[-1:] != width]
    if odd or lengths["pos"] != lengths["neg"]:
        name = odd[0] if odd else "ctx_neg"
        raise CheckpointError(
            f"{path} holds no prompts of AnomalyCLIP or Crane: ctx_pos and ctx_neg are "
            f"{list(lengths['pos'])} and {list(lengths['neg'])}, expected [1, 1, n, D]; {name} is "
            f"{list(state[name].shape)}"
        )
    if broken := [name for name in ends + blocks if not state[name].isfinite().all()]:
        raise CheckpointError(f"{path}: {broken[0]} has NaN or infinity; nothing was imported")
    anomalyclip = any(name.startswith(_UNUSED) for name in file.state)
    return PublishedPrompts(
        preset="anomalyclip-published" if anomalyclip else "crane",
        context=torch.stack([state["ctx_pos"][0, 0], state["ctx_neg"][0, 0]]),
        deep=tuple(deep),
        words={s: torch.cat([state[f"token_prefix_{s}"], state[f"token_suffix_{s}"]], 2)[0, 0] for s in _SENTENCES},
        sha256=file.sha256,
        not_taken="" if anomalyclip else _CRANE_PLUS,
    )


def published_detector(prompts: PublishedPrompts, backbone: Backbone) -> Detector:
    """The detector that its authors evaluate, on ``backbone``.

    Raises:
        RunError: the prompts were learned on another CLIP.
        ConfigError: its text tower has too few blocks.
    """
    width = backbone.text.cfg.d_model
    if prompts.context.shape[2] != width:
        raise RunError(
            f"the prompts are {prompts.context.shape[2]} wide, {backbone.provenance.name} reads {width}: load the CLIP "
            "that they were learned on (ViT-L-14-336-quickgelu with weights openai)"
        )
    for side, sentence in _SENTENCES.items():
        tokens = backbone.tokenizer([sentence])[0].to(backbone.logit_scale.device)
        ours = backbone.text.token_embedding(tokens[: int(tokens.argmax()) + 1]).float().cpu()
        theirs = prompts.words[side][: len(ours)]
        if theirs.shape != ours.shape or not torch.allclose(ours, theirs, atol=1e-3 * float(ours.abs().max())):
            raise RunError(
                f"the prompts were learned on a CLIP with other embeddings of {sentence!r} than {backbone}: load the "
                "one that they were learned on (ViT-L-14-336-quickgelu with weights openai)"
            )
    sizes = {"context": prompts.context.shape[1], "deep": len(prompts.deep)}
    sizes |= {"deep_tokens": len(prompts.deep[0])} if prompts.deep else {}
    detector = build(backbone, preset(prompts.preset, **sizes))
    deep = {f"prompts.deep.{i}": prompt for i, prompt in enumerate(prompts.deep)}
    detector.load_state_dict({"prompts.context": prompts.context, **deep})
    return detector.requires_grad_(False).eval()
