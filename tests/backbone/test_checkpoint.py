"""Weight files: three formats read, everything else refused, and nothing in a file ever run."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from headlens.backbone.archive import ITSELF, RefusedError, Storage, TensorRecord
from headlens.backbone.checkpoint import OPENAI_SCALARS, read_checkpoint, sha256_of
from headlens.errors import CheckpointError
from tests.backbone.models import random_clip, tiny_config


def openai_archive(model: nn.Module, path: Path, half: bool = True) -> None:
    """What OpenAI published: the traced model, fp16, with three scalars beside the weights."""
    model = copy.deepcopy(model).float()
    for name in OPENAI_SCALARS:
        vars(model).pop(name, None)
        model.register_buffer(name, torch.tensor(77))
    image, text = torch.ones(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long)
    inputs = {"forward": (image, text), "encode_image": (image,), "encode_text": (text,)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what tracing thinks of open_clip's code is not our concern
        traced = torch.jit.trace_module(model, inputs, check_trace=False)
    (traced.half() if half else traced).save(path)


@pytest.fixture(scope="module")
def model():
    return random_clip(tiny_config(), torch.float32)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    state = model.state_dict()
    save_file(state, folder / "a.safetensors")
    torch.save(state, folder / "b.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "c.bin")
    torch.save(state, folder / "d.pt", _use_new_zipfile_serialization=False)
    openai_archive(model, folder / "e.pt", half=False)
    save_file({f"text.{k}" if not k.startswith(("visual", "logit")) else k: v for k, v in state.items()}, folder / "f")
    return {path.name[0]: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    "which, kind",
    [
        ("a", "safetensors"),
        ("b", "pytorch"),
        ("c", "pytorch"),
        ("d", "pytorch"),
        ("e", "torchscript"),
        ("f", "safetensors"),
    ],
)
def test_every_format_gives_the_same_tensors(files, model, which, kind):
    checkpoint = read_checkpoint(files[which])
    assert checkpoint.format == kind
    assert checkpoint.sha256 == sha256_of(files[which])
    assert len(checkpoint.sha256) == 64
    expected = model.state_dict()
    assert set(checkpoint.state) == set(expected)
    assert checkpoint.openai == (which == "e")
    assert all(torch.equal(checkpoint.state[name], value) for name, value in expected.items())


def test_the_archive_reader_agrees_with_torch(model, tmp_path):
    """Oracle: torch.jit.load, which runs what the file says; ours does not."""
    openai_archive(model, tmp_path / "ViT.pt")
    ours, theirs = read_checkpoint(tmp_path / "ViT.pt").state, torch.jit.load(tmp_path / "ViT.pt").state_dict()
    assert set(theirs) - OPENAI_SCALARS - {"attn_mask"} == set(ours)
    for name, value in theirs.items():
        if name in ours:
            assert ours[name].dtype == value.dtype
            assert torch.equal(ours[name], value), name


@pytest.mark.parametrize("which", list("abde"))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_file_is_refused_wherever_it_was_cut(files, which, data, tmp_path):
    whole = files[which].read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    (tmp_path / "cut").write_bytes(whole[:cut])
    with pytest.raises(CheckpointError, match="cut"):
        read_checkpoint(tmp_path / "cut")


@pytest.mark.parametrize("which", list("abe"))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_never_escape_as_another_error(files, which, data, tmp_path):
    raw = bytearray(files[which].read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "flipped").write_bytes(raw)
    with contextlib.suppress(CheckpointError):
        read_checkpoint(tmp_path / "flipped")


class Bomb:
    """Runs a command when unpickled by a reader that trusts its input."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.mkdir, (str(self.witness),)


def test_a_bomb_is_one(tmp_path):
    """The negative control of the next tests."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "boom")))
    assert (tmp_path / "boom").exists()


def rezip(source: Path, target: Path, replace: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """A copy of an archive with some members replaced (by the end of their name)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            body = next((body for end, body in replace.items() if name.endswith(end)), old.read(name))
            new.writestr(name, body)


@pytest.mark.parametrize("how", ["bare", "bare_old", "torch", "torch_old", "in_state_dict", "data.pkl", "archive"])
def test_nothing_in_a_pickle_bomb_is_run(files, tmp_path, how):
    bomb, path = Bomb(tmp_path / "boom"), tmp_path / "weights.pt"
    if how.startswith("bare"):
        path.write_bytes(pickle.dumps(bomb, protocol=0 if how == "bare_old" else 4))
    elif how == "torch":
        torch.save(bomb, path)
    elif how == "torch_old":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    elif how == "in_state_dict":
        torch.save({"state_dict": {"visual.proj": torch.zeros(3)}, "optimizer": bomb}, path)
    else:
        rezip(files["b" if how == "data.pkl" else "e"], path, {"data.pkl": pickle.dumps(bomb, protocol=2)})
    with pytest.raises(CheckpointError):
        read_checkpoint(path)
    assert not (tmp_path / "boom").exists()


def test_code_in_an_archive_is_not_run(files, tmp_path):
    """TorchScript keeps source beside the tensors; ours never opens it."""
    path = tmp_path / "e.pt"
    rezip(files["e"], path, {".py": b"this is not a program", ".debug_pkl": b"nor is this a pickle"})
    assert read_checkpoint(path).state["visual.proj"].shape == (32, 20)
    with pytest.raises(Exception, match=r"(?s).+"):
        torch.jit.load(path)


@pytest.mark.parametrize("which", list("be"))
def test_a_zip_bomb_is_refused_before_it_is_read(files, tmp_path, which):
    rezip(files[which], tmp_path / "x.pt", {"/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        read_checkpoint(tmp_path / "x.pt")


def test_storages_must_be_what_they_claim(files, tmp_path):
    rezip(files["e"], tmp_path / "x.pt", {"/data/0": bytes(8)})
    with pytest.raises(CheckpointError, match="claims"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("what", ["function", "storage", "tensor"])
def test_a_file_cannot_change_what_the_reader_hands_out(files, tmp_path, what):
    """BUILD calls __setstate__, or sets attributes, on whatever lies on the stack."""
    function = b"ctorch.jit._pickle\nbuild_intlist\n"
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI1\ntQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I1\nt(I1\ntI00\nNtR"
    body = {"function": function, "storage": storage, "tensor": tensor}[what] + b"(dS'call'\nI7\nsb."
    rezip(files["e"], tmp_path / "x.pt", {"data.pkl": body, "/data/0": bytes(4)})
    with pytest.raises(CheckpointError, match="asks to change"):
        read_checkpoint(tmp_path / "x.pt")
    assert ITSELF([1]) == [1]


def test_shared_modules_are_not_walked_again_and_again(files, tmp_path):
    """Twenty modules, each twice in the one above: a million names in a kilobyte."""
    level = b"c__torch__\nM\n)\x81}b"
    for _ in range(20):
        level = b"c__torch__\nM\n)\x81}(S'a'\n" + level + b"q\x00S'b'\nh\x00ub"
    rezip(files["e"], tmp_path / "x.pt", {"data.pkl": b"\x80\x02" + level + b"."})
    with pytest.raises(CheckpointError, match="one module has several names"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(
    "state", [{1: torch.zeros(2)}, {"a": torch.zeros(2, device="meta")}, {"a": torch.eye(2).to_sparse()}]
)
def test_state_dicts_of_something_else(tmp_path, state):
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


def test_one_weight_under_two_names(model, tmp_path):
    save_file({**model.state_dict(), "text.text_projection": torch.zeros(24, 20)}, tmp_path / "x")
    with pytest.raises(CheckpointError, match="two names"):
        read_checkpoint(tmp_path / "x")


def test_a_tensor_that_claims_to_be_huge_is_refused():
    """Strides of 0 make a view of any size out of one number; a copy would cost what it claims."""
    storage = Storage(torch.float32, 1)
    storage.fill(bytes(4), "0")
    with pytest.raises(RefusedError, match="claims the shape"):
        TensorRecord(storage, 0, (1 << 20, 1 << 20), (0, 0), False, None).tensor()


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"<html>not found</html>", b"GIF89a" + bytes(100), b"\x89PNG\r\n\x1a\n", b"PK\x03\x04"]
)
def test_what_is_no_weight_file(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [{}, [torch.zeros(2)], {"a": 1}, torch.zeros(3), {"state_dict": None}])
def test_what_is_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no state dict of tensors"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="no weight file at"):
            read_checkpoint(path)


def bombs() -> dict[str, dict]:
    huge = torch.zeros(1).expand(1 << 33)  # 32 GiB out of 4 bytes
    shared = torch.zeros(1 << 10)
    return {
        "stride 0": {"visual.proj": huge},
        "the right shape": {"visual.proj": torch.zeros(1).expand(32, 20)},
        "one storage many times": {f"blocks.{i}": shared for i in range(100)},
    }


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("which", list(bombs()))
def test_no_file_is_given_more_memory_than_it_has_bytes(which, old, tmp_path):
    torch.save(bombs()[which], tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    assert (tmp_path / "x.pt").stat().st_size < 30_000
    with pytest.raises(CheckpointError, match="claim"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("which", list("bde"))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_storage_is_larger_than_its_record(files, which, data, tmp_path):
    """A pickle that claims more numbers than there are: nothing is allocated for it, and nothing read past its end."""
    pickled = pickled_in(files[which])
    claimed = data.draw(st.integers(641, 2**31 - 1))
    body = pickled.replace(b"M\x80\x02", b"J" + claimed.to_bytes(4, "little"))  # of visual.proj, 32 x 20
    assert body != pickled
    if which == "d":
        (tmp_path / "x.pt").write_bytes(files[which].read_bytes().replace(pickled, body))
    else:
        rezip(files[which], tmp_path / "x.pt", {"data.pkl": body})
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        read_checkpoint(tmp_path / "x.pt")


def pickled_in(path: Path) -> bytes:
    """The pickle that describes the tensors."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return path.read_bytes()


@pytest.mark.parametrize("which", list("bce"))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_in_weights_that_are_zipped_is_noticed(files, which, data, tmp_path):
    """Anywhere in a record that is read: its checksum does not fit."""
    raw = bytearray(files[which].read_bytes())
    with zipfile.ZipFile(files[which]) as archive:
        records = [info for info in archive.infolist() if "/data" in info.filename and info.file_size]
    record = data.draw(st.sampled_from(records))
    at = record.header_offset  # of the record's own header: 30 bytes, its name, and what is padded
    start = at + 30 + sum(int.from_bytes(raw[at + i : at + i + 2], "little") for i in (26, 28))
    raw[start + data.draw(st.integers(0, record.file_size - 1))] ^= data.draw(st.integers(1, 255))
    (tmp_path / "flipped.pt").write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"flipped\.pt"):
        read_checkpoint(tmp_path / "flipped.pt")


def test_a_file_that_was_written_without_checksums_is_read(model, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model.state_dict(), tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    state = read_checkpoint(tmp_path / "x.pt").state
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("old", [False, True])
def test_views_parameters_and_every_precision(dtype, old, tmp_path):
    """Oracle: torch.load."""
    base = torch.randn(6, 8).to(dtype)
    state = {"a": nn.Parameter(base), "b": base[1:3, ::2], "c": base.T[2], "d": torch.tensor(3).to(dtype)}
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {name: value.clone() if name == "d" else value for name, value in state.items()}}, path)
    torch.save({"pad": torch.zeros(999), **state}, path, _use_new_zipfile_serialization=not old)
    theirs = torch.load(path, weights_only=True)
    for name, value in read_checkpoint(path).state.items():
        assert value.dtype == theirs[name].dtype
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    "body, message",
    [
        (b"\x80\x02r\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".", "bytearray|damaged"),
        (b"\x80\x02(" * 5 + b".", "damaged"),
    ],
)
def test_pickles_that_ask_for_memory_before_they_have_it(files, tmp_path, body, message):
    for which in "be":
        rezip(files[which], tmp_path / "x.pt", {"data.pkl": body})
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(tmp_path / "x.pt")
    (tmp_path / "x.pt").write_bytes(body)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "x.pt")


STORAGE = b"Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x04"
NESTED = b"Vx\n" + b"2\x86" * 60
"""A pair of a pair of a pair: 2**60 letters, for whoever hashes or prints it."""


def pickled(name: bytes = b"Va\n", storage: bytes = STORAGE, size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85"):
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQK\x00" + size + stride + b"\x89)tR"
    return b"\x80\x02}(" + name + tensor + b"u."


@pytest.mark.parametrize(
    "body, message",
    [
        (pickled(name=NESTED), "keys that are neither names nor numbers"),
        (pickled().replace(b"}(", b"(").replace(b"u.", b"d.").replace(b"Va\n", NESTED), "keys that are neither"),
        (b"\x80\x02}" + NESTED + b"Ns.", "keys that are neither"),
        (b"\x80\x02ccollections\nOrderedDict\n]" + NESTED + b"N\x86a\x85R.", "keys that are neither"),
        (b"\x80\x04\x8f(" + NESTED + b"\x90.", "sets"),
        (pickled(storage=STORAGE.replace(b"V0\n", NESTED)), "a storage has no name"),
        (pickled(storage=STORAGE.replace(b"K\x04", NESTED)), "no number of elements"),
        (pickled(storage=STORAGE.replace(b"Vstorage\n", NESTED)), "refers to more than tensors"),
        (pickled(size=NESTED), "not made of whole numbers"),
        (pickled(stride=NESTED), "not made of whole numbers"),
        (pickled(size=b"Vx\nJ\xff\xff\xff\x7f\x86"), "not made of whole numbers"),  # 'x' times 2**31
    ],
)
def test_nested_tuples_are_neither_hashed_nor_printed(tmp_path, body, message):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", body)
        archive.writestr("x/data/0", bytes(16))
    with pytest.raises(CheckpointError, match=message) as error:
        read_checkpoint(tmp_path / "x.pt")
    assert len(str(error.value)) < 400


def test_the_pickle_that_those_are_made_of_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", pickled())
        archive.writestr("x/data/0", bytes(16))
    assert torch.equal(read_checkpoint(tmp_path / "x.pt").state["a"], torch.zeros(4))


def test_a_refusal_is_one_whole_line_without_advice_to_run_the_file(tmp_path):
    for how in (True, False):
        torch.save({"state_dict": Bomb(tmp_path / "boom")}, tmp_path / "x.pt", _use_new_zipfile_serialization=how)
        with pytest.raises(CheckpointError) as error:
            read_checkpoint(tmp_path / "x.pt")
        said = str(error.value)
        assert "asks to call posix.mkdir" in said or "asks to call nt.mkdir" in said
        assert "weights_only" not in said
        assert "\n" not in said
        assert said.endswith("nothing was run and nothing was loaded")


@pytest.mark.parametrize("change", ["end", "shape", "overlap", "header"])
def test_safetensors_whose_header_is_not_of_its_bytes(files, change, tmp_path):
    raw = files["a"].read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    name = "visual.proj"
    if change == "end":
        header[name]["data_offsets"][1] += 4
    elif change == "shape":
        header[name]["shape"] = [1 << 20, 1 << 13]
    elif change == "overlap":
        header[name]["data_offsets"] = header["text_projection"]["data_offsets"]
    new = json.dumps(header).encode()
    size = (1 << 62) if change == "header" else len(new)
    (tmp_path / "x.safetensors").write_bytes(size.to_bytes(8, "little") + new + raw[8 + length :])
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        read_checkpoint(tmp_path / "x.safetensors")
