"""Tiny models with random weights, made and saved here, through transformers; sockets are closed."""

from __future__ import annotations

import builtins
import json
import socket
from pathlib import Path

import pytest
import torch

from headlens.errors import ConfigError
from headlens.knowledge.models import model_of, revision_of

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = [*SPECIAL, "there", "is", "a", "crack", "in", "the", "nut", "it", "good", "bad", "what", "wrong", "with"]
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TEMPLATE = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image> {% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A Llama and a LLaVA of two blocks."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, **special, additional_special_tokens=["<image>"]
    )
    text = transformers.LlamaConfig(**SMALL, vocab_size=len(WORDS), pad_token_id=0, bos_token_id=1, eos_token_id=2)
    sight = transformers.CLIPVisionConfig(**SMALL, image_size=28, patch_size=14)
    both = transformers.LlavaConfig(vision_config=sight, text_config=text, image_token_id=WORDS.index("<image>"))
    crop = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**crop),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    models = {"text": transformers.LlamaForCausalLM(text), "image": transformers.LlavaForConditionalGeneration(both)}
    for name, reader in (("text", tokenizer), ("image", processor)):
        model = models[name].requires_grad_(False)
        for parameter in model.parameters():
            parameter.mul_(10)  # so that answers depend on what is asked and shown
        model.lm_head.weight[: len(SPECIAL)] = 0  # words alone
        model.save_pretrained(folder / name)
        reader.save_pretrained(folder / name)
    return {name: folder / name for name in ("text", "image")}


def greedy(model: torch.nn.Module, ids: list[int], count: int, **inputs: torch.Tensor) -> str:
    """One word after the other, each the likeliest, the whole text read anew each time."""
    start = len(ids)
    for _ in range(count):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), **inputs).logits[0, -1]
        ids = [*ids, int(logits.argmax())]
    return " ".join(WORDS[i] for i in ids[start:])


def test_a_language_model_answers_greedily(folders):
    import transformers

    model = model_of("text", folders["text"], tokens=6)
    prompt = "what is wrong with the nut"
    plain = transformers.LlamaForCausalLM.from_pretrained(folders["text"]).eval()
    expected = greedy(plain, [WORDS.index(word) for word in prompt.split()], 6)
    assert model.answer(prompt, None) == model.answer(prompt, None) == expected
    assert (model.name, model.revision, model.tokens) == ("text", revision_of(folders["text"]), 6)


def test_a_model_that_sees_answers_of_the_image(folders):
    import transformers
    from PIL import Image

    model = model_of("image", folders["image"], tokens=6)
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain = transformers.LlavaForConditionalGeneration.from_pretrained(folders["image"]).eval()
    reader = transformers.CLIPImageProcessor.from_pretrained(folders["image"])
    pixels = reader(Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")["pixel_values"]
    ids = [WORDS.index("<image>")] * 4 + [WORDS.index("what"), WORDS.index("is")]
    assert model.answer("what is", image) == greedy(plain, ids, 6, pixel_values=pixels)
    assert model.answer("what is", image) != model.answer("what is", 255 - image)


def test_a_revision_is_of_all_files_or_the_commit_of_a_snapshot(folders, tmp_path):
    before = revision_of(folders["text"])
    (tmp_path / "config.json").write_bytes((folders["text"] / "config.json").read_bytes())
    assert before.startswith("sha256 ") and revision_of(tmp_path) != before == revision_of(folders["text"])
    snapshot = tmp_path / ("0123456789" * 4)
    snapshot.mkdir()
    assert revision_of(snapshot) == "0123456789" * 4


def test_what_is_no_local_model_is_refused(folders, tmp_path):
    with pytest.raises(ConfigError, match="meta-llama/Llama: is no folder; models are read from local folders only"):
        model_of("text", "meta-llama/Llama")
    with pytest.raises(ConfigError, match=r"is a folder without config\.json"):
        model_of("text", tmp_path)
    with pytest.raises(ConfigError, match="has no chat template"):
        model_of("image", folders["text"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}), encoding="utf-8")
    with pytest.raises(ConfigError, match="cannot be loaded by transformers' Auto"):
        model_of("text", tmp_path)


def test_weights_in_a_pickle_are_not_loaded(folders, tmp_path):
    for path in folders["text"].iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="AutoModelForCausalLM"):
        model_of("text", tmp_path)


def test_without_transformers_it_says_what_to_install(monkeypatch, tmp_path):
    imported = builtins.__import__

    def without(name: str, *rest: object, **options: object) -> object:
        if name == "transformers":
            raise ModuleNotFoundError("No module named 'transformers'")
        return imported(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'headlens\[knowledge\]'"):
        model_of("text", tmp_path)
