"""``headlens doctor``: is everything here that is needed, and does it work? Never asks the network."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from headlens.cli.common import with_options
from headlens.cli.output import OUTPUT, Output
from headlens.printing import printable
from headlens.tables import Table

_GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is, and the figure or the remedy."""

    what: str
    status: Literal["ok", "warning", "problem"]
    detail: str


@with_options
def doctor(
    data: Annotated[str | None, typer.Option(help="A data set to open: a folder, or a procedural set.")] = None,
    run: Annotated[str | None, typer.Option(help="A run to load: a folder, or a shipped one.")] = None,
    output: Output = OUTPUT,
) -> None:
    """Check the installation, devices, weights and runs, and what --data and --run name. Takes seconds, no network.

    Exits with 1 if there is a problem. Warnings concern what headlens can do without.
    """
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "packages": _packages,
        "devices": _devices,
        "embedded backbones": _embedded,
        "shipped runs": _shipped,
        "published weights": _published,
    }
    if run is not None:
        looks["run"] = lambda: _run(run)
    if data is not None:
        looks["data"] = lambda: _data(data)
    findings = []
    for finding in (finding for what, look in looks.items() for finding in _guarded(what, look)):
        findings.append(finding)
        if output.for_people:  # as they come: some take a second
            typer.echo(f"{finding.status:8} {finding.what}: {printable(finding.detail)}")
    document = [vars(finding) for finding in findings]
    cells = [[finding.what, finding.status, printable(finding.detail)] for finding in findings]
    output.show(Table(["what", "status", "detail"], cells, name="findings"), document=document, text="")
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


def _guarded(what: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A doctor does not faint: whatever goes wrong in one look is its finding, and the next one follows."""
    try:
        yield from look()
    except Exception as error:
        yield Finding(what, "problem", f"{type(error).__name__}: {error}")


def _packages() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    from headlens.version import __version__

    yield Finding("headlens", "ok", f"{__version__}, in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()} ({sys.executable})")
    try:
        needed = [Requirement(text) for text in requires("headlens") or []]
    except PackageNotFoundError:
        unknown = "headlens is not installed, so its requirements are unknown: pip install -e ."
        yield Finding("packages", "warning", unknown)
        return
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, "problem", f"is missing: pip install '{requirement}'")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Finding(requirement.name, "ok", installed)
        else:
            yield Finding(requirement.name, "problem", f"{installed} is not supported: pip install '{requirement}'")


def _devices() -> Iterator[Finding]:
    import torch

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / _GIB:.1f} GiB of memory"
    yield Finding("cpu", "ok", f"{torch.get_num_threads()} threads{memory}")
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = (size / _GIB for size in torch.cuda.mem_get_info(i))
            name = torch.cuda.get_device_name(i)
            yield _computes(f"cuda:{i}", f"{name}, {free:.1f} of {total:.1f} GiB free, CUDA {torch.version.cuda}")
    else:
        yield Finding("cuda", "ok", "none" + ("" if torch.version.cuda else "; this torch is built without it"))
    if torch.backends.mps.is_available():
        yield _computes("mps", "Apple's GPU")
    else:
        yield Finding("mps", "ok", "none")


def _computes(device: str, about: str) -> Finding:
    """A device can be listed and yet be of no use: too old for this torch, or in use by another process."""
    import torch

    try:
        ones = torch.ones(16, 16, device=device)
        right = bool((ones @ ones == 16).all())
    except RuntimeError as error:
        return Finding(device, "problem", f"{about}, but computing on it failed: {str(error).splitlines()[0]}")
    return Finding(device, "ok" if right else "problem", about if right else f"{about}, but it computes wrongly")


def _embedded() -> Iterator[Finding]:
    """Each is loaded and shown one generated image and one sentence."""
    import torch
    from PIL import Image

    from headlens.backbone import embedded, load
    from headlens.data.procedural import World

    for name in embedded.NAMES:
        backbone = load(name)
        sample = World("procedural:industrial", 2, 56)[1]
        pixels = sample.image.permute(1, 2, 0).numpy()
        with torch.no_grad():
            image = backbone.encode_image(backbone.preprocess(Image.fromarray(pixels))[None])
            text = backbone.encode_text(backbone.tokenizer([sample.caption]))
        finite = bool(image.isfinite().all() and text.isfinite().all())
        sha256 = backbone.provenance.sha256
        detail = f"SHA-256 {sha256}, {image.shape[-1]} numbers for an image and for a sentence"
        yield Finding(name, "ok" if finite else "problem", detail + ("" if finite else ", not all of them finite"))


def _shipped() -> Iterator[Finding]:
    """Each is loaded, which checks its hashes; one scores an image."""
    import torch

    from headlens.training.run import load_runs
    from headlens.training.shipped import METHODS, folders

    runs = load_runs(*METHODS)
    finite = bool(runs[0].predict(torch.zeros(3, 56, 56)).joint_score.isfinite().all())
    each = ", ".join(f"{name} ({len(folders(name))})" for name in METHODS)
    yield Finding("shipped runs", "ok" if finite else "problem", f"{len(runs)}: {each}")


def _run(name: str) -> Iterator[Finding]:
    from headlens.training.run import load_run

    loaded = load_run(name)
    card = loaded.card
    trained = f"trained on {card.get('trained_on', 'unknown')}, seed {card.get('seed', 'unknown')}"
    detail = f"{card.get('preset', 'a detector')} on {loaded.detector.backbone}, {trained}"
    yield Finding("run", "ok", f"{detail}, threshold {loaded.threshold}, {loaded.size} px")
    about = loaded.detector.backbone.provenance
    if not about.act_fn_known:
        unknown = f"it is unknown which one {about.weights} was trained with"
        yield Finding("activation", "warning", f"{unknown}; {about.name} computes {about.act_fn}")


def _published() -> Iterator[Finding]:
    """Whether the weights of the literature are here, and if not, from where and to where they would be fetched."""
    from huggingface_hub import constants

    from headlens.backbone.weights import cached, sought

    name, tag = "ViT-L-14-336-quickgelu", "openai"  # what the literature uses
    if file := cached(name, tag):
        yield Finding(f"{name} {tag}", "ok", f"{file}, {file.stat().st_size / _GIB:.2f} GiB")
        return
    repository, files = sought(name, tag)
    missing = f"no {' or '.join(files)} of {repository} in {constants.HF_HUB_CACHE} (HF_HOME moves it)"
    remedy = "fetched from the hub when first used; without a network: load(name, pretrained=path of a file)"
    yield Finding(f"{name} {tag}", "warning", f"{missing}; {remedy}")


def _data(spec: str) -> Iterator[Finding]:
    """Opens it and reads one image; `headlens data check` reads them all."""
    from headlens.data import open
    from headlens.errors import DataError

    refused: list[DataError] = []
    dataset = open(spec, refuse=refused.append)
    image = dataset.pixels(0).image
    size = f"the first is {image.shape[-1]}x{image.shape[-2]} pixels"
    measured = f"can be measured by {', '.join(dataset.metrics) or 'nothing'}"
    yield Finding("data", "ok", f"{dataset!r}, {measured}; {size}; `headlens data check` reads them all")
    for line in getattr(dataset, "notes", ()):
        yield Finding("data", "warning", line)
    if refused:
        yield Finding("data", "problem", f"the reader refuses {len(refused)}, such as: {refused[0]}")
