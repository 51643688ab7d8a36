"""What stands in for parts of AnoCLIP's and WinCLIP's code, and what is drawn for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peer_anoclip import KORNIA, Draws, cache_of_one, order_of
from peer_code import TINY_PLUS, masks_of_bytes, saved_weights
from peer_winclip import filled
from PIL import Image
from torchvision.transforms.functional import InterpolationMode, rotate

from headlens.backbone import architecture_from_config, assemble
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.methods.anoclip import OBJECTS
from headlens.detectors.parts.adaptation import adapt


def test_stand_ins_of_kornia() -> None:
    images = torch.rand(2, 3, 6, 6, dtype=torch.float64)
    for angle in (90, 180, 270):
        turned = KORNIA.geometry.transform.rotate(images, angle=torch.tensor(angle), padding_mode="reflection")
        torch.testing.assert_close(turned, rotate(images, angle, InterpolationMode.NEAREST))
    red, green, blue = images.unbind(1)
    expected = torch.stack([red * 0.299 + green * 0.587 + blue * 0.114], 1)
    torch.testing.assert_close(KORNIA.color.rgb_to_grayscale(images), expected)


def test_an_adaptation_is_drawn_as_headlens_draws_it() -> None:
    """One step from the same W, b and noise, written down with an adapter of torch's own."""
    generator = torch.Generator().manual_seed(3)
    x, pair, sentences = (torch.randn(n, 8, generator=generator) for n in (4, 2, 6))
    pair, sentences = F.normalize(pair, dim=-1), F.normalize(sentences, dim=-1)
    found = adapt(x[None], pair[None], steps=1, seed=0, sentences=sentences[None])
    order = [4, 0, 5, 1, 3, 2]
    draws, layer = Draws(order), torch.nn.Linear(8, 6)
    layer.apply(draws.reset)
    noise = draws.normal(0, 0.055, torch.Size([1, 2, 2, 8])).reshape(4, 8)
    optimiser = torch.optim.AdamW(layer.parameters(), 1e-3)

    def probabilities(tokens: torch.Tensor) -> torch.Tensor:
        adapted = tokens / 2 + layer(F.normalize(tokens, dim=-1)).tanh() @ sentences[order] / 2
        return (F.normalize(adapted, dim=-1) @ pair.T).softmax(-1)

    p, q = probabilities(x), probabilities(x + noise)
    (-(p * p.log()).sum(-1).mean() - 0.5 * (q[:, 1].log() + p[:, 0].log()).mean()).backward()
    optimiser.step()
    torch.testing.assert_close(layer.weight.detach(), found.weight[0][order], rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.bias.detach(), found.bias[0][order], rtol=0, atol=1e-6)


def test_both_tiles_of_a_square_image_are_given_the_same_noise() -> None:
    noise = Draws([]).normal(0.0, 1.0, torch.Size([2, 3, 3, 4]))
    assert torch.equal(noise[0], noise[1]) and noise.std() > 0.5


def test_sentences_are_found_whatever_their_order() -> None:
    """A function of prompts as theirs is called, that has the sentences of headlens backwards."""
    ours = [sentence for state in OBJECTS.sentences("bottle") for sentence in state]

    def prompts(model: Any, things: Any, tokenizer: Any, device: str) -> None:
        assert tuple(things) == ("bottle",)
        tokenizer(ours[:0:-1])
        tokenizer(ours[:1])

    assert order_of(prompts) == list(range(len(ours)))[::-1]


def test_prompts_are_made_once() -> None:
    calls: list[int] = []
    once = cache_of_one(lambda number: calls.append(number) or len(calls))
    assert (once(5), once(6), calls) == (1, 1, [5])


def test_masks_are_images_of_bytes() -> None:
    with masks_of_bytes():
        mask = Image.fromarray(np.zeros((2, 3)), mode="L")
    assert mask.mode == "L" and mask.size == (3, 2)


@pytest.mark.parametrize("double", [False, True])
def test_weights_in_open_clips_format_are_the_same_for_both(tmp_path, double) -> None:
    """A peer's tower is a fork of open_clip's, as the installed one stands here for it."""
    from open_clip.model import CLIP

    shallow = {tower: TINY_PLUS[tower] | {"layers": 1} for tower in ("vision_cfg", "text_cfg")}
    config = TINY_PLUS | shallow
    saved_weights(config, tmp_path / "weights.pt", openai=False)
    theirs = filled(CLIP(**config), tmp_path / "weights.pt", double)
    dtype = torch.float64 if double else torch.float32
    ours = assemble(architecture_from_config(config), read_checkpoint(tmp_path / "weights.pt").state, dtype=dtype)
    images = torch.randn(1, 3, 64, 64, dtype=dtype, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.vision(images).embedding, theirs.encode_image(images))
