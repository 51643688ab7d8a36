"""``headlens attribute``: which pixels a score comes from, by several methods, drawn over the picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from headlens.cli.common import (
    OUT,
    DeviceOption,
    Domain,
    OutOption,
    RunOption,
    SeedOption,
    WeightsOption,
    run_of,
    slug,
)
from headlens.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from headlens.attribution import Target

METHOD = ("integrated_gradients", "occlusion", "legrad")
"""A gradient's, an ablation's and an attention's answer."""


def attribute(
    pictures: Annotated[list[str], typer.Argument(help="Files, folders or patterns such as 'parts/*.png'.")],
    method: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Any number, or all; an unknown one lists them.", show_default=", ".join(METHOD)),
    ] = None,
    target: Annotated[
        str, typer.Option(help="joint_margin, joint_score, image_margin, map_margin, or a head such as L18H7.")
    ] = "joint_margin",
    mask: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="What to outline: a file for each picture, or a folder of files with the pictures' names."),
    ] = None,
    inside: Annotated[bool, typer.Option("--inside", help="Read the map inside the mask alone.")] = False,
    head: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Attention's maps of these heads alone, such as L18H7.", show_default="all"),
    ] = None,
    baseline: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What absent pixels look like: blur, mean, black.", show_default="blur"),
    ] = None,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Integrated gradients begin with; more where needed.", min=1, show_default="32"),
    ] = None,
    at_once: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Steps, samples or squares held together: bounds memory.", min=1, show_default="8"),
    ] = None,
    seed: SeedOption = 0,
    category: Annotated[str, typer.Option(help="What they show; only class-aware runs care.")] = "object",
    domain: Domain = "industrial",
    run: RunOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = None,
    out: OutOption = OUT,
) -> None:
    """Explain a score by the picture's pixels: signed maps, in the score's own unit, nothing rescaled.

    Each picture gets an overlay for each method and a file of the float maps. What cannot be read is named and left
    out, and the exit status is then 1.
    """
    from headlens.cli.pictures import found, unique, unique_names

    files = found(pictures, out)
    masks = masks_of(files, mask or [])
    if inside and not masks:
        raise ConfigError("--inside reads the map inside a mask: give it with --mask")
    if inside and not (target == "map_margin" or target.endswith("/local")):
        raise ConfigError(f"--inside reads a map, and {target} is none: take --target map_margin, or a local head")

    import pandas as pd
    from tqdm import tqdm

    from headlens import attribution
    from headlens.data import Pixels, Preprocess, read_image, read_mask
    from headlens.errors import DataError, ShapeError
    from headlens.heads import Head
    from headlens.heads.results import Result, write_figure

    loaded = run_of(domain, run, weights, device)
    whole = attribution.target_of(loaded.detector, target)
    given: dict[str, Any] = {"baseline": baseline, "steps": steps, "at_once": at_once, "seed": seed or None}
    given["heads"] = [Head.of(name) for name in head] if head else None
    options = options_of(methods_of(method or list(METHOD), whole), given)
    typer.echo(f"{loaded.detector.backbone}\n{loaded.folder.name}, {target.replace('_', ' ')}\n")

    frames, bad = [], []
    used: dict[str, Any] = {}  # of each method, all its options
    how_asked = ("inside" if inside else "", baseline or "", f"{steps} steps" if steps else "", *(head or []))
    names = [name.replace(".", "-") for name in unique_names(files)]
    stems = unique([slug("attribute", loaded.folder.name, name, target, *how_asked) for name in names])
    with tqdm(total=len(files) * len(options), unit="map", disable=None) as bar:
        for path, stem in zip(files, stems, strict=True):
            done, results = bar.n, []
            try:
                if inside and path not in masks:
                    raise DataError(f"{path}: no mask to read the map inside of")
                own = read_mask(masks[path]) if path in masks else None
                pixels = Pixels(read_image(path), own)
                outline = Preprocess(loaded.size)(pixels).mask
                for how, settings in options.items():
                    result = attribution.attribute(
                        loaded.detector,
                        pixels.image,
                        how,
                        target,
                        region=own if inside else None,
                        size=loaded.size,
                        thing=category,
                        **settings,
                    )
                    used[how] = result.provenance["options"]
                    result.save(out / f"{stem}-{how}.npz")
                    figure, _ = result.plot(mask=None if outline is None else outline.numpy())
                    write_figure(out / f"{stem}-{how}.png", figure)
                    results.append(result.frame.assign(image=str(path)))
                    bar.update()
            except (DataError, ShapeError) as error:
                known = f"{path}" + (f" with {masks[path]}" if path in masks else "")
                bad.append(str(error) if str(path) in str(error) else f"{known}: {error}")
                bar.update(len(options) - (bar.n - done))
                continue
            frames.append(pd.concat(results, ignore_index=True))
            bar.write(f"{path}\n{table(frames[-1])}\n  {out / stem}-METHOD.png, .npz\n")
    if frames:
        about = result.provenance | {"method": list(options), "options": used, "skipped": bad}
        every = Result(pd.concat(frames, ignore_index=True), about)
        saved = every.save(out / f"{slug('attribute', loaded.folder.name, target, *how_asked)}.parquet")
        typer.echo(f"{saved}: values, sums and residuals of {len(frames)} pictures")
    for reason in bad:
        typer.echo(f"left out: {reason}", err=True)
    if bad:
        raise typer.Exit(1)


def masks_of(files: list[Path], given: list[Path]) -> dict[Path, Path]:
    """The mask of each picture, as far as there is one: as many files as pictures, or a folder with files named alike.

    In a folder, ``a.png`` is the mask of ``a.jpg``, and so are ``a_mask.png`` and ``a_gt.png``.

    Raises:
        ConfigError: another number of files than pictures.
        DataError: a folder with no picture's mask, or with several for one.
    """
    from headlens.data.images import SUFFIXES
    from headlens.errors import DataError

    if len(given) == 1 and given[0].is_dir():
        own: dict[str, list[Path]] = {}
        pictures = {file.resolve() for file in files}
        for path in sorted(given[0].iterdir()):
            if path.suffix.lower() in SUFFIXES and path.resolve() not in pictures:
                own.setdefault(path.stem.removesuffix("_mask").removesuffix("_gt"), []).append(path)
        matched = {file: own[file.stem] for file in files if file.stem in own}
        if not matched:
            raise DataError(f"{given[0]}: no mask in it has the name of a picture, such as {files[0].stem}.png")
        if twice := [paths for paths in matched.values() if len(paths) > 1]:
            raise DataError(f"{twice[0][0]} and {twice[0][1]} are both masks of one picture; take one away")
        alike = [file for file in matched if sum(other.stem == file.stem for other in files) > 1]
        if alike:
            raise DataError(f"{alike[0]} is not the only picture of that name: give their masks one by one, in order")
        return {file: paths[0] for file, paths in matched.items()}
    if given and len(given) != len(files):
        raise ConfigError(f"{len(given)} masks for {len(files)} pictures; give one for each, in order, or one folder")
    return dict(zip(files, given, strict=False))


def methods_of(names: list[str], target: Target) -> list[str]:
    """Those of that name, each once; ``all`` are all that take the target but the control.

    Raises:
        ConfigError: an unknown one, or one that does not take the target.
    """
    from headlens.attribution import METHODS, method_of

    if "all" in names:
        return [name for name, method in METHODS.items() if method.takes(target) and not method.control]
    for name in names:
        if not method_of(name).takes(target):
            there = ", ".join(method_of(name).targets)
            raise ConfigError(f"--method {name} does not take --target {target.name}; it takes {there}")
    return list(dict.fromkeys(names))


def options_of(methods: list[str], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was given, to the methods that have such an option.

    Raises:
        ConfigError: an option that none of them has.

    >>> options_of(["legrad", "occlusion"], {"baseline": "mean", "steps": None})
    {'legrad': {}, 'occlusion': {'baseline': 'mean'}}
    """
    from headlens.attribution import method_of

    asked = {name: value for name, value in given.items() if value is not None}
    known = {method: method_of(method).options for method in methods}
    for name in asked:
        if not any(name in own for own in known.values()):
            flag = "head" if name == "heads" else name.replace("_", "-")
            raise ConfigError(
                f"--{flag} is no option of {', '.join(methods)}; leave it out, or add a --method that has it"
            )
    return {method: {name: value for name, value in asked.items() if name in own} for method, own in known.items()}


def table(frame: pd.DataFrame) -> str:
    """What the methods say of one picture: the target's value, and what their maps add up to."""
    import pandas as pd

    value = frame["value"].iloc[0]
    rows = []
    for row in frame.to_dict("records"):
        rows.append({"": row["kind"], "sum of map": f"{row['effect']:+.4f}"})
        if row.get("baseline") == row.get("baseline") and row.get("baseline") is not None:
            rows[-1]["to explain"] = f"{row['value'] - row['baseline']:+.4f}"
        if row.get("residual") == row.get("residual") and row.get("residual") is not None:
            rows[-1]["missed"] = f"{row['residual']:+.1e}"
    text = pd.DataFrame(rows).fillna("").to_string(index=False)
    return f"  {frame['metric'].iloc[0].replace('_', ' ')} {value:.4f}\n" + "\n".join(
        f"  {line}" for line in text.split("\n")
    )
