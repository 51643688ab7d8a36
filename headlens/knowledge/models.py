"""Language models and models that see, from local folders in Hugging Face's layout, through transformers.

They answer greedily, so that the same weights give the same answer. Nothing is fetched, and no code of a folder is run.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headlens.errors import ConfigError
from headlens.files import sha256_of
from headlens.knowledge.building import Model
from headlens.knowledge.questions import To
from headlens.printing import brief

_CHAT = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
_KINDS: dict[To, tuple[str, str]] = {
    "text": ("AutoTokenizer", "AutoModelForCausalLM"),
    "image": ("AutoProcessor", "AutoModelForImageTextToText"),
}
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def model_of(to: To, folder: str | Path, device: str = "cpu", tokens: int = 256) -> Model:
    """A model in a local folder: with ``config.json``, a tokenizer or processor, and weights as safetensors.

    Args:
        to: ``text``, a language model, such as an instruction-tuned Llama; ``image``, a model that answers questions
            about an image in a chat, such as LLaVA.
        folder: where it is.
        device: where it runs.
        tokens: of the longest answer.

    Raises:
        ConfigError: transformers is not installed, no such folder, or it holds no such model.
    """
    transformers, path = _transformers(), _folder(folder)
    kinds = {
        "text": ("AutoTokenizer", "AutoModelForCausalLM"),
        "image": ("AutoProcessor", "AutoModelForImageTextToText"),
    }
    reader_kind, model_kind = (getattr(transformers, name) for name in kinds[to])
    reader = _loaded(path, reader_kind)
    template = getattr(reader, "chat_template", None)
    if to == "image" and template is None:
        raise ConfigError(f"{path}: has no chat template, so it is unknown where the image goes; name another model")
    model = _loaded(path, model_kind, use_safetensors=True, dtype="auto").to(device).eval()

    def answer(prompt: str, image: Tensor | None) -> str:
        if template is None:
            inputs = reader(prompt, return_tensors="pt")
        else:
            messages = [{"role": "user", "content": prompt if image is None else _shown(prompt, image)}]
            inputs = reader.apply_chat_template(messages, **_CHAT)
        return _generated(model, reader, inputs, tokens)

    return Model(path.name, revision_of(path), answer, tokens)


def revision_of(folder: Path) -> str:
    """The commit that a hub's snapshot folder is called after; of any other folder a SHA-256 of all of its files."""
    if re.fullmatch(r"[0-9a-f]{40}", folder.name):
        return folder.name
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listed = "".join(f"{sha256_of(path)}  {path.name}\n" for path in files)
    return f"sha256 {sha256(listed.encode()).hexdigest()[:16]}"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        what = f"transformers cannot be imported ({brief(error)})"
        raise ConfigError(f"{what}; it runs the models: pip install 'headlens[knowledge]'") from error
    return transformers


def _folder(folder: str | Path) -> Path:
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        what = "is a folder without config.json" if path.is_dir() else "is no folder"
        way = "models are read from local folders only: download it first with `hf download NAME --local-dir FOLDER`"
        raise ConfigError(f"{folder}: {what}; {way}")
    return path.resolve()


def _loaded(path: Path, kind: Any, **options: Any) -> Any:
    try:
        return kind.from_pretrained(str(path), **_LOCAL, **options)
    except Exception as error:  # of many kinds, of several packages
        raise ConfigError(f"{path}: cannot be loaded by transformers' {kind.__name__}: {brief(error, 400)}") from error


def _shown(prompt: str, image: Tensor) -> list[dict[str, Any]]:
    from PIL import Image

    return [
        {"type": "image", "image": Image.fromarray(image.permute(1, 2, 0).numpy())},
        {"type": "text", "text": prompt},
    ]


@torch.inference_mode()
def _generated(model: Any, reader: Any, inputs: Any, tokens: int) -> str:
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    written = model.generate(**inputs.to(model.device), **greedy, max_new_tokens=tokens)
    start = 0 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    return str(reader.decode(written[0, start:], skip_special_tokens=True))
