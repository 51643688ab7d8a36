"""What several verbs have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from headlens.cli import options
from headlens.cli.result_names import other_than
from headlens.clips import runs
from headlens.errors import ConfigError
from headlens.files import read_text
from headlens.launch import launched, place
from headlens.printing import printable
from headlens.progress import bar

if TYPE_CHECKING:
    import torch

    from headlens.data import DataSet
    from headlens.detectors import MethodConfig
    from headlens.training.run import Run


def data_of(
    data: str,
    per_category: int,
    max_pixels: int,
    domain: str | None,
    follow_links: bool,
    seed: int = 0,
    split: str = "test",
    category: str | None = None,
    limit: int | None = None,
    every: int = 1,
) -> DataSet:
    """The data set of that name; ``domain`` where the names of its folders do not tell it, or tell another.

    With ``limit`` only so many of its images: of each category a normal and an anomalous one, and so on in turn. Clips
    are whole; there is one at least.
    """
    import headlens.data

    world: dict[str, Any] = {"per_category": per_category, "seed": seed} if data.startswith("procedural:") else {}
    about: dict[str, Any] = {"max_pixels": max_pixels, "follow_links": follow_links, "category": category}
    about["every"] = every
    images = headlens.data.open(data, domain=domain, split=split, **about, **world)
    if limit is None or limit >= len(images):
        return images
    groups: dict[tuple[str, bool], list[range]] = {}
    for clip in runs([record.clip for record in images.records]):
        anomalous = any(images.records[i].anomalous for i in clip)
        groups.setdefault((images.records[clip[0]].category, anomalous), []).append(clip)
    chosen: set[str] = set()
    for clip in (clip for clips in zip_longest(*groups.values()) for clip in clips if clip is not None):
        if chosen and len(chosen) + len(clip) > limit:
            break
        chosen |= {images.records[i].name for i in clip}
    return images.where(lambda record: record.name in chosen)


@dataclass(frozen=True)
class Source:
    """Which run a verb looks into, and at which images, as its options say."""

    domain: options.Domain = None
    run: options.Run = None
    data: options.Data = None
    category: options.Category = None
    limit: options.Limit = None
    size: options.Size = None
    per_category: options.PerCategory = options.PER_CATEGORY
    every: options.Every = 1
    weights: options.Weights = None
    device: options.Device = None
    max_pixels: options.MaxPixels = options.MAX_PIXELS
    follow_links: options.FollowLinks = False

    def load(self) -> Run:
        """The run; where none is named, the one that ships for the domain; raises ConfigError where none does."""
        from headlens.detectors.detector import check_size
        from headlens.training.run import load_run
        from headlens.training.shipped import default

        run = default(self.domain or "industrial") if self.run is None else self.run
        loaded = load_run(run, weights=self.weights, device=device_of(self.device))
        if self.size is not None:
            check_size(self.size, loaded.detector.backbone.vision.cfg)
            loaded.detector.size = self.size
        return loaded

    def data_set(self, name: str) -> DataSet:
        """Another set than ``data``, opened in the same way."""
        about = (self.per_category, self.max_pixels, self.domain, self.follow_links)
        return data_of(name, *about, category=self.category, limit=self.limit, every=self.every)

    def open(self, precision: str | None, say: Callable[[str], None] = typer.echo) -> tuple[Run, DataSet]:
        """The run and the images, if there is such a precision; says which backbone and which images they are."""
        from headlens.precision import check_precision

        check_precision(precision)
        run, images = self.load(), self.data_set(self.data or f"procedural:{self.domain or 'industrial'}")
        say(f"{run.detector.backbone}\n{run.folder.name}, on {images}\n")
        return run, images

    def parts(self, usual: Source) -> list[str]:
        """What differs from the usual choice of images, as parts of the name of a result's file."""
        differing = {"category": "{}", "limit": "{}-images", "size": "{}px", "per_category": "{}-each"}
        differing |= {"every": "every-{}"}
        return [other_than(getattr(self, name), getattr(usual, name), text) for name, text in differing.items()]


SOURCE = Source()


def with_options(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb with parameters that are sets of options, such as ``source: Source = SOURCE``.

    At the shell each field of a set is an option, with its default. A field that is a parameter of the verb, too, is
    the option that the verb declares.
    """
    signature = inspect.signature(verb, eval_str=True)
    sets: dict[str, Any] = {p.name: p.default for p in signature.parameters.values() if is_dataclass(p.default)}
    hints = {name: _hints(default) for name, default in sets.items()}
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name not in sets:
            parameters.append(parameter)
            continue
        parameters += [
            parameter.replace(name=name, default=getattr(parameter.default, name), annotation=hint)
            for name, hint in hints[parameter.name].items()
            if name not in signature.parameters
        ]

    @functools.wraps(verb)
    def run(**given: Any) -> None:
        filled = {
            of: dataclasses.replace(default, **{name: given[name] for name in hints[of]})
            for of, default in sets.items()
        }
        verb(**filled, **{name: value for name, value in given.items() if name in signature.parameters})

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


@functools.cache  # to evaluate them takes longer than all else here, and nine verbs ask
def _hints(options_set: Any) -> dict[str, Any]:
    return get_type_hints(type(options_set), include_extras=True)


@contextlib.contextmanager
def measuring(
    run: Run, images: DataSet, description: str | None = None, *, precision: str | None, gradients: bool = False
) -> Iterator[dict[str, Any]]:
    """Options of a computation over ``images``: its precision, the device's default where None, and its progress."""
    from headlens.precision import default_precision

    precision = precision or default_precision(run.detector.device, gradients=gradients)
    with bar(len(images), description) as done:
        yield {"precision": precision, "progress": done.update}


def tables(path: Path | None) -> dict[str, dict[str, Any]]:
    """The tables ``detector`` and ``training`` of a TOML file; empty where there is no file.

    Raises:
        ConfigError: not TOML, or another table.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    given: dict[str, Any] = {}
    if path is not None:
        try:
            given = tomllib.loads(read_text(path))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; expected TOML with tables [detector] and [training]") from error
    known = ("detector", "training")
    if unknown := [name for name in given if name not in (*known, "backbone") or not isinstance(given[name], dict)]:
        raise ConfigError(f"{path}: unknown table {unknown[0]!r}; expected [detector] and [training]")
    return {name: given.get(name, {}) for name in known}


def phrased(config: MethodConfig, descriptions: Path | None) -> dict[str, Any]:
    """What ``--descriptions`` changes in a method's settings.

    Raises:
        ConfigError: a method that reads no phrases, or a file that has none.
    """
    from headlens.detectors.methods.registry import PRESETS, method_of
    from headlens.detectors.parts.descriptions import read_descriptions

    if descriptions is None:
        return {}
    if not hasattr(config, "phrases"):
        reading = [name for name, preset in PRESETS.items() if hasattr(preset, "phrases")]
        raise ConfigError(
            f"--descriptions {descriptions}: {method_of(config)} does not read what categories are called; "
            f"{', '.join(reading)} do"
        )
    return {"phrases": read_descriptions(descriptions)}


def refuse_options(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Raises ConfigError for the first of these options that was given, whatever its value: it would have no effect."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')} {why}")


def shown_by(run: Run, category: str | None) -> str:
    """What images show; where that is not said, ``object``, and a remark if the run wants to know."""
    if category is None and run.detector.reads_categories:
        typer.echo(
            f"headlens: the sentences of {printable(run.folder.name)} name the category of an image. None was given, "
            "so 'object' is used; give one, such as --category screw",
            err=True,
        )
    return category or "object"


def layers_of(given: list[str] | None) -> list[int] | None:
    """Layers as they are typed: ``["3", "5-7"]``; None for all.

    >>> layers_of(["3", "5-7,L9"])
    [3, 5, 6, 7, 9]
    """
    layers: list[int] = []
    for part in (part for one in given or [] for part in one.split(",")):
        if part.strip() == "all":
            return None
        first, dash, last = part.strip().replace("L", "").partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise ConfigError(f"--layer {part!r}: expected a number, a range such as 3-6, or all")
        if int(last or first) < int(first):
            raise ConfigError(f"--layer {part!r}: a range goes upwards, such as {last}-{first}")
        layers += range(int(first), int(last or first) + 1)
    return list(dict.fromkeys(layers)) or None


def at_once(given: int | None, device: torch.device, on_cuda: int) -> int:
    """Images of a batch: 8 keep a CPU busy; a GPU is done with so few before the next is launched.

    At full size ``importance`` takes 9 GiB for 8 images and 16 for 16: a small GPU is asked for no more than 8.
    """
    if given or device.type != "cuda":
        return given or 8
    import torch

    return on_cuda if torch.cuda.get_device_properties(device).total_memory > 20 * 2**30 else 8


def device_of(given: str | None) -> str:
    """The device that an option names, the best there is if none; of several GPUs the one that is this process's.

    Raises:
        ConfigError: no such device on this machine, or more processes than GPUs.
    """
    from headlens import devices, parallel

    device = str(devices.device_of(given or devices.best_device()))
    if device == "meta":
        raise ConfigError(f"device meta stores no values; choose {devices.best_device()}")
    here = place() if device == "cuda" and parallel.current().size > 1 else None
    if here is None or here.local is None:
        return device
    import torch

    count = torch.cuda.device_count()
    if here.local >= count:
        raise ConfigError(
            f"there is no GPU for process {here.local}: this machine has {count}; start as many processes"
        )
    torch.cuda.set_device(here.local)
    return f"cuda:{here.local}"


def shared(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb that several processes do together, each a share of it, when ``torchrun`` has started them.

    The main one alone prints. Results are the same on all: what is written is the verb's own care.
    """

    @functools.wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        if not launched():  # nothing is imported for it
            verb(*args, **kwargs)
            return
        from headlens import parallel

        with parallel.ranks() as ranks, contextlib.ExitStack() as stack:
            if not ranks.main:
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
            verb(*args, **kwargs)

    return run
