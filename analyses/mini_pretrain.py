"""Pre-trains an embedded backbone on the procedural worlds alone: no photograph, no foreign weights.

    torchrun --nproc-per-node 2 analyses/mini_pretrain.py --recipe dense --seconds 1050 --piece 560 --out runs/mini

(or plain ``python``, on one device.) The learning rate follows the share of ``--seconds`` that has passed, so a run
takes as long as it is told to. After ``--piece`` seconds it saves and stops; the same command goes on from there. At
the end ``open_clip_model.safetensors`` (half precision) and ``training.json`` lie in ``--out``.

Loss: CLIP's, with every image that a sentence is true of as its positive; plus the local stream's margins against the
mask (dense), and the class token's and the map's peak against the label (state) and the normal twin's (rank).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from ahead import Ahead
from mini_stream import STATE, Batch, Captions, Stream, sent
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from headlens.backbone import Backbone, LocalStream, VisionPlan, architecture, assemble
from headlens.backbone.embedded import config
from headlens.backbone.loading import open_clip_name
from headlens.detectors.text import Pair

TAPS = (5, 11, 17, 23)
LOCAL = LocalStream(start=5)


@dataclass(frozen=True)
class Recipe:
    """What a run does; every field is in its card."""

    dense: float = 1.0  # weight of the dense term: margins of local patches against the mask
    dense_from: float = 0.0  # share of the time after which it begins
    taps: tuple[int, ...] = TAPS  # taps that get it
    state: float = 1.0  # weight of the state term: margins of the class token, and of the map's peak, against the label
    rank: float = 0.5  # weight of the twin term: the same two margins, flawed above normal for the same scene
    head_dropout: float = 0.0  # share of heads, in both streams, silenced for an image
    batch: int = 512  # on each device
    sizes: tuple[int, int] = (140, 224)  # pixels along a side of images: small ones, and the others
    small_until: float = 0.35  # share of the time spent on small images, in batches of twice the size
    easy_until: float = 0.5  # share of the time until flaws of every severity are shown; at first only 0.6 to 1
    pool: int = 32_000
    fresh: int = 192  # new pictures a call
    every: int = 4  # steps between calls
    muon: float = 2e-3
    adam: float = 1e-3
    decay: float = 0.05
    warmup: int = 300  # steps


RECIPES = {
    "dense": Recipe(),
    "light": Recipe(dense=0.25),
    "late-taps": Recipe(taps=(17, 23)),
    "finish": Recipe(dense_from=0.75),
    "dropout": Recipe(head_dropout=0.15),
    "contrastive": Recipe(dense=0.0),
    # Further cycles on weights that exist (--init): full size, every severity, fresher pictures.
    "polish": Recipe(small_until=0.0, easy_until=0.0, pool=24_000, muon=1.2e-3, adam=6e-4, warmup=100),
    "longer": Recipe(small_until=0.0, easy_until=0.0, warmup=100),
}


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Jordan et al. 2024), for the blocks' matrices; equal shapes are stacked.

    torch.optim.Muon takes matrices one by one: thousands of launches a step in a model this thin.
    """

    def __init__(self, parameters: list[nn.Parameter], lr: float, decay: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients at hand."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                grads = torch.stack([p.grad for p in parameters])
                for parameter in parameters:
                    if "momentum" not in self.state[parameter]:
                        self.state[parameter]["momentum"] = torch.zeros_like(parameter)
                held = [self.state[p]["momentum"] for p in parameters]
                torch._foreach_lerp_(held, [p.grad for p in parameters], 1 - group["momentum"])
                update = grads.lerp(torch.stack(held), group["momentum"])  # Nesterov
                # Q, K and V are three matrices in one.
                parts = update.unflatten(1, (-1, shape[1])) if shape[0] == 3 * shape[1] else update[:, None]
                step = orthogonal(parts.flatten(0, 1)).view_as(update) * (0.2 * math.sqrt(max(parts.shape[2:])))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["decay"])
                torch._foreach_add_(parameters, list(step.to(parameters[0].dtype)), alpha=-group["lr"])


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices [n, a, b] with singular values near 1: five Newton-Schulz iterations."""
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """KL from the even distribution over all positives [B, B] (sentence, image) to the softmax, both ways."""
    with torch.autocast(images.device.type, enabled=False):  # half precision would round logits of 30 by 0.1
        logits = scale.exp().clamp(max=100) * texts.float() @ images.float().T
    total = logits.new_zeros(())
    for scores, match in ((logits, positive), (logits.T, positive.T)):
        target = match.float() / match.sum(1, keepdim=True)
        total = total + F.kl_div(scores.log_softmax(1), target, reduction="batchmean") / 2
    return total


def normalised(images: Tensor) -> Tensor:
    """Images [B, 3, S, S] in 0..1 as the backbone's preprocessing leaves them."""
    mean, std = statistics(images.device)
    return (images - mean) / std


@cache
def statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] of the preprocessing."""
    about = config("mini")["preprocess_cfg"]
    mean, std = (torch.tensor(about[key], device=device).view(3, 1, 1) for key in ("mean", "std"))
    return mean, std


def dense_loss(logits: Tensor, patches: Tensor) -> Tensor:
    """Margins [B, N] against flawed fractions [B, N]: weighted cross-entropy and half of Dice's loss."""
    entropy = F.binary_cross_entropy_with_logits(logits, patches, 1 + 4 * patches)
    p = logits.sigmoid()
    dice = 1 - (2 * (p * patches).sum(1) + 1) / (p.sum(1) + patches.sum(1) + 1)
    return entropy + 0.5 * dice.mean()


@dataclass(frozen=True)
class Said:
    """What is said of a batch: token ids [sentences, n], which attributes the first B of them state, and all of them.

    ``stated`` [B, columns] and ``attributes`` [B, columns] are on the device.
    """

    tokens: Tensor
    stated: Tensor
    attributes: Tensor


def say(batch: Batch, captions: Captions, dense_on: bool) -> Said:
    """A sentence for each image; a quarter of the images is asked about by name, the others as an object."""
    device, named = batch.images.device, len(batch.images) // 4
    said, stated = captions.sentences(batch.attributes)
    asked = captions.pairs(batch.attributes[:named]) + captions.objects(32)
    return Said(captions.tokens(said + asked, device), sent(stated, device), sent(batch.attributes, device))


def losses(model: Backbone, batch: Batch, said: Said, recipe: Recipe, dense_on: bool) -> dict[str, Tensor]:
    """The terms of one step, unweighted."""
    device, named = batch.images.device, len(batch.images) // 4
    stated, attributes = said.stated, said.attributes
    images, gates = normalised(batch.images), None
    if recipe.head_dropout:
        on = torch.rand(2, len(images), model.vision.cfg.n_layers, model.vision.cfg.n_heads, device=device)
        gates = dict(
            zip(("global", "local"), (on > recipe.head_dropout).float() / (1 - recipe.head_dropout), strict=True)
        )
    plan = VisionPlan(recipe.taps, LOCAL) if dense_on else VisionPlan()
    out = model.vision(images, plan, gates=gates if dense_on else None, hooked=False)
    embedding = F.normalize(out.embedding.float(), dim=-1)

    texts = F.normalize(model.text(said.tokens, hooked=False).float(), dim=-1)
    said_text, own, any_ = texts.split([len(images), 2 * named, 64])
    own = own.unflatten(0, (2, named)).transpose(0, 1)  # (named, 2, d)
    any_ = F.normalize(any_.unflatten(0, (2, 32)).mean(1), dim=-1)  # (2, d)
    pair = torch.cat([own, any_.expand(len(images) - named, -1, -1)])

    agree = (attributes[:, None] == attributes[None]) | ~stated[:, None]  # (sentence, image, attribute)
    terms = {"clip": contrastive_loss(embedding, said_text, model.logit_scale, agree.all(2))}
    scores = [Pair(pair).margin(embedding)]
    if dense_on:
        patches = batch.patches.flatten(1)
        margins = [Pair(pair).margin(tokens.float()) for tokens in out.patches.values()]
        terms["dense"] = torch.stack([dense_loss(logits, patches) for logits in margins]).mean()
        scores.append(torch.stack(margins).mean(0).topk(4, 1).values.mean(1))  # the map's peak
    label = attributes[:, STATE].float()
    terms["state"] = torch.stack([F.binary_cross_entropy_with_logits(score, label) for score in scores]).mean()
    terms["rank"] = torch.stack([F.softplus(score[::2] - score[1::2]).mean() for score in scores]).mean()  # of twins
    return terms


@dataclass(frozen=True)
class Task:
    """Where a run's batches and sentences come from, and its loss; by default twins and the masks of their flaws."""

    stream: Callable[[Recipe, int, int, torch.device], Any] = lambda recipe, size, seed, device: Stream(
        size, recipe.pool, recipe.fresh, seed, device
    )
    captions: Callable[[Recipe, Any, int], Captions] = lambda recipe, tokenizer, seed: Captions(tokenizer, seed)
    say: Callable[[Any, Any, bool], Said] = say
    losses: Callable[[Backbone, Any, Any, Any, bool], dict[str, Tensor]] = losses


class Source:
    """Batches of a run and what is said of them, one after the other.

    Args:
        recipe, task: of the run.
        captions: of ``task``.
        seed: of the images.
        device: where they are.
    """

    def __init__(self, recipe: Recipe, task: Task, captions: Captions, seed: int, device: torch.device) -> None:
        self.recipe, self.task, self.captions, self.seed, self.device = recipe, task, captions, seed, device
        self.stream: Any = None
        self.made = 0  # images painted

    def next(self, share: float, step: int) -> tuple[Any, Said, bool]:
        """After ``share`` of the time: a batch, what is said of it, and whether the dense term is on."""
        recipe = self.recipe
        small = share < recipe.small_until
        size = recipe.sizes[0 if small else 1]
        ease = 0.6 * (1 - share / recipe.easy_until) if share < recipe.easy_until else 0.0
        if self.stream is None or self.stream.size != size:
            self.stream = None  # the old pool goes before the new one comes
            self.stream = self.task.stream(recipe, size, self.seed ^ size, self.device)
            self.stream.fill(ease)
            self.made += self.stream.made
        if step % recipe.every == 0:
            self.stream.refresh(ease)
            self.made += recipe.fresh
        dense_on = recipe.dense > 0 and share >= recipe.dense_from
        batch = self.stream.batch(recipe.batch * (2 if small else 1))
        return batch, self.task.say(batch, self.captions, dense_on), dense_on


def optimisers(model: Backbone, recipe: Recipe) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the matrices of the blocks, AdamW for everything else."""
    named = dict(model.named_parameters())
    matrices = [p for name, p in named.items() if ".blocks." in name and p.ndim == 2]
    known = set(map(id, matrices))
    others = [p for p in named.values() if id(p) not in known]
    plain = [p for p in others if p.ndim < 2]
    groups = [{"params": [p for p in others if p.ndim >= 2]}, {"params": plain, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, recipe.adam, (0.9, 0.98), 1e-6, recipe.decay, fused=matrices[0].is_cuda)
    return Muon(matrices, recipe.muon, recipe.decay), adam


def save_run(out: Path, model: Backbone, optimizers: tuple[torch.optim.Optimizer, ...], log: dict) -> None:
    """Everything a later piece needs, as safetensors of at most 15 MB; momenta in half precision."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                value = value.bfloat16() if key == "momentum" else torch.as_tensor(value)
                tensors[f"optimizer/{number}/{index}/{key}"] = value
    shards: list[dict[str, Tensor]] = [{}]
    room = 15_000_000
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        if size > room:
            shards.append({})
            room = 15_000_000
        shards[-1][name] = value.detach().cpu().contiguous()
        room -= size
    for number, shard in enumerate(shards):
        save_file(shard, out / f"state-{number}.safetensors")
    (out / "state.json").write_text(json.dumps(log | {"shards": len(shards)}, indent=1))


def resume_run(out: Path, model: Backbone, optimizers: tuple[torch.optim.Optimizer, ...]) -> dict:
    """What ``save_run`` wrote, back in place; its log."""
    log = json.loads((out / "state.json").read_text())
    tensors: dict[str, Tensor] = {}
    for number in range(log["shards"]):
        tensors |= load_file(out / f"state-{number}.safetensors")
    model.load_state_dict({name.removeprefix("model/"): v for name, v in tensors.items() if name.startswith("model/")})
    for number, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer/{number}/"):
                index, key = name.split("/")[2:]
                states.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return log


def export(model: Backbone, path: Path) -> None:
    """The weights under open_clip's names, in half precision."""
    state = model.state_dict()
    save_file({open_clip_name(ours): value.half().cpu().contiguous() for ours, value in state.items()}, path)


def shared(parameters: list[nn.Parameter], elapsed: float) -> Tensor:
    """Makes gradients the mean over all processes, in one message; returns the mean of ``elapsed`` as well.

    With it every process follows the same schedule and stops at the same step.
    """
    flat = torch.cat([p.grad.flatten() for p in parameters] + [parameters[0].grad.new_full((1,), elapsed)])
    if dist.is_initialized():
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        means = flat[:-1].split([p.numel() for p in parameters])
        torch._foreach_copy_(
            [p.grad for p in parameters], [m.view_as(p) for m, p in zip(means, parameters, strict=True)]
        )
    return flat[-1]


def train(
    recipe: Recipe,
    seconds: float,
    piece: float,
    seed: int,
    out: Path,
    device: torch.device,
    init: Path | None = None,
    compiled: bool = False,
    task: Task = Task(),
) -> Backbone:
    """One piece of a run: from the beginning (random, or the weights ``init``), or from what lies in ``out``."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    out.mkdir(parents=True, exist_ok=True)
    weights = None if init is None else load_file(init)
    model = assemble(architecture("mini"), weights, seed=seed, device=device).requires_grad_(True).train()
    if compiled:  # block by block: four graphs serve them all
        for block in model.vision.blocks:
            block.compile()
    optimizers = optimisers(model, recipe)
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    log = {"elapsed": 0.0, "steps": 0, "images": 0, "made": 0, "pieces": 0, "history": []}
    same = {"recipe": asdict(recipe), "seed": seed, "seconds": seconds, "init": init and init.name}
    log |= same
    if (out / "state.json").exists():
        log = resume_run(out, model, optimizers)
        if changed := [key for key, value in same.items() if json.dumps(log[key]) != json.dumps(value)]:
            raise SystemExit(f"{out} holds a run with another {', '.join(changed)}: go on as it began, or name another")
    own_seed = zlib.crc32(f"{seed}/{rank}/{log['pieces']}/{init}".encode())  # no two pieces see the same pictures
    captions = task.captions(recipe, model.tokenizer, own_seed)
    parameters = list(model.parameters())
    source, made = Source(recipe, task, captions, own_seed, device), log["made"]
    start, before, shown = time.monotonic(), log["elapsed"], 0.0
    clock = deque([torch.tensor(before)])
    ahead = Ahead(source.next, device)
    ahead.begin(before / seconds, log["steps"])
    while log["elapsed"] < seconds and log["elapsed"] - before < piece:
        share = log["elapsed"] / seconds
        batch, said, dense_on = ahead.take()
        warm = min(1.0, (log["steps"] + 1) / recipe.warmup)
        factor = warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0))))
        for optimizer, own in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, own, strict=True):
                group["lr"] = rate * factor
        ahead.begin(share, log["steps"] + 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            terms = task.losses(model, batch, said, recipe, dense_on)
        weights = {"clip": 1.0, "state": recipe.state, "dense": recipe.dense, "rank": recipe.rank}
        sum(weights[name] * term for name, term in terms.items()).backward()
        clock.append(shared(parameters, before + time.monotonic() - start))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        log["steps"] += 1
        log["images"] += len(batch.images) * world
        log["elapsed"] = float(clock.popleft())  # of the step before: nobody waits for this one to finish
        if log["elapsed"] - shown > 15 and rank == 0:
            shown = log["elapsed"]
            row = {
                "seconds": round(shown, 1),
                "step": log["steps"],
                "images": log["images"],
                "size": batch.images.shape[-1],
            }
            row |= {name: round(float(term.detach()), 4) for name, term in terms.items()}
            row |= {"scale": round(float(model.logit_scale.detach().exp()), 2)}
            log["history"].append(row)
            print(json.dumps(row), flush=True)
            export(model, out / "open_clip_model.safetensors")  # a run that is killed leaves what it has
    ahead.end()
    log["pieces"] += 1
    log["made"] = made + source.made * world
    model.requires_grad_(False).eval()
    if rank:
        return model
    save_run(out, model, optimizers, log)
    export(model, out / "open_clip_model.safetensors")
    about = {**log, "torch": torch.__version__}
    about["device"] = f"{world} x {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "CPU"
    (out / "training.json").write_text(json.dumps(about, indent=1))
    return model


def main(recipes: Mapping[str, Recipe] = RECIPES, task: Task = Task(), about: str = __doc__ or "") -> None:
    """One run of one of ``recipes``; by default, of this file's."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--recipe", choices=recipes, default=next(iter(recipes)))
    parser.add_argument("--seconds", type=float, default=1200, help="of training, all pieces together")
    parser.add_argument("--piece", type=float, default=570, help="seconds after which to save and stop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="weights to begin with, as open_clip_model.safetensors")
    parser.add_argument("--batch", type=int, help="images a step; a quarter gets the dense term")
    parser.add_argument("--pool", type=int, help="pictures kept for drawing batches from")
    parser.add_argument("--compile", action="store_true", help="the image tower's blocks, by torch.compile")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    recipe = recipes[args.recipe]
    if args.batch:
        recipe = replace(recipe, batch=args.batch)
    if args.pool:
        recipe = replace(recipe, pool=args.pool, fresh=min(recipe.fresh, args.pool))
    device = torch.device(args.device)
    # Masks are looked at on the CPU. Several runs on one machine would otherwise wait for each other's threads.
    torch.set_num_threads(min(4, torch.get_num_threads()))
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
    train(recipe, args.seconds, args.piece, args.seed, args.out, device, args.init, args.compile, task)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
