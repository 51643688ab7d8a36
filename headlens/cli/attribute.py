"""``headlens attribute``: which pixels a score comes from, by several methods, drawn over the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headlens.cli import options
from headlens.cli.common import Source, shown_by, with_options
from headlens.cli.output import OUTPUT, Output
from headlens.cli.results import free_name, of_image
from headlens.errors import ConfigError
from headlens.progress import bar
from headlens.tables import Table

if TYPE_CHECKING:
    import pandas as pd

    from headlens.attribution import Target
    from headlens.data import Pixels
    from headlens.data.mask_sources import MaskSource

METHOD = ("integrated_gradients", "occlusion", "legrad")
"""A gradient's, an ablation's and an attention's answer."""


@with_options
def attribute(
    images: options.Images,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="A method, or all; may be repeated. An unknown name lists them.", show_default=", ".join(METHOD)
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="joint_margin, joint_score, image_margin, map_margin, or a head such as L18H7.")
    ] = "joint_margin",
    mask: Annotated[
        list[Path] | None,
        typer.Option(help="Masks to outline: a file per image, or a folder of masks named like the images."),
    ] = None,
    inside: Annotated[bool, typer.Option("--inside", help="Read the map only inside the mask.")] = False,
    head: Annotated[
        list[str] | None,
        typer.Option(help="For attention methods: only these heads, such as L18H7.", show_default="all"),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="What replaces absent pixels: blur, mean or black.", show_default="blur")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help="Steps that integrated gradients start with; more where needed.", min=1, show_default="32"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Steps, samples or squares per batch; limits memory.", min=1, show_default="8"),
    ] = None,
    seed: options.Seed = 0,
    domain: options.Domain = None,
    run: options.Run = None,
    category: options.Category = None,
    limit: options.Limit = None,
    size: options.Size = None,
    max_pixels: options.MaxPixels = options.MAX_PIXELS,
    follow_links: options.FollowLinks = False,
    weights: options.Weights = None,
    device: options.Device = None,
    out: options.Out = options.OUT,
    output: Output = OUTPUT,
) -> None:
    """Explain a score by the pixels of the image: signed maps in the unit of the score, never rescaled.

    Writes an overlay per image and method, and a file of the float maps per image. An unreadable image is reported and
    left out, and the exit status is then 1.
    """
    from headlens.cli.images import find_images

    listed = find_images(images, follow_links, limit)
    masks = masks_of(listed.files, mask or [])
    if inside and not masks:
        raise ConfigError("--inside reads the map inside a mask: give it with --mask")
    if inside and not (target == "map_margin" or target.endswith("/local")):
        raise ConfigError(f"--inside reads a map, and {target} is not one: choose --target map_margin or a local head")

    import pandas as pd

    from headlens import attribution
    from headlens.cli.result_names import name_slug, result_names, slug
    from headlens.data import Preprocess
    from headlens.errors import DataError, ShapeError
    from headlens.heads import Head
    from headlens.printing import printable, unicode
    from headlens.results import save_frame

    loaded = Source(domain, run, size=size, weights=weights, device=device).load()
    whole = attribution.target_of(loaded.detector, target)
    given: dict[str, Any] = {"baseline": baseline, "steps": steps, "batch": batch, "seed": seed or None}
    given["heads"] = [Head.of(name) for name in head] if head else None
    settings_of = options_of(methods_of(method or list(METHOD), whole), given)
    output.say(f"{loaded.detector.backbone}\n{printable(loaded.folder.name)}, {target.replace('_', ' ')}\n")

    common: dict[str, Any] = {"size": loaded.size, "category": shown_by(loaded, category)}
    frames, done, tables = [], [], []
    used: dict[str, Any] = {}  # of each method, all its options
    how_asked = (target, "inside" if inside else "", baseline or "", f"{steps} steps" if steps else "", *(head or []))
    with bar(len(listed.files) * len(settings_of), unit="map") as maps_done:
        for path, name in zip(listed.files, result_names(listed.files, spell=name_slug), strict=True):
            before, results = maps_done.n, {}
            try:
                pixels = _pixels(path, masks.get(path), max_pixels, inside)
                outline, region = Preprocess(loaded.size)(pixels).mask, pixels.mask if inside else None
                for how, settings in settings_of.items():
                    results[how] = attribution.attribute(
                        loaded.detector, pixels.image, how, target, region=region, **common, **settings
                    )
                    maps_done.update()
            except (DataError, ShapeError) as error:
                known = f"{path}" + (f" with {masks[path]}" if path in masks else "")
                listed.leave_out(error if str(path) in str(error) else f"{known}: {error}")
                maps_done.update(len(settings_of) - (maps_done.n - before))
                continue
            results = {how: of_image(r, path, r.images, r.region) for how, r in results.items()}
            stem = slug("attribute", loaded.folder.name, name, *how_asked)
            stem = free_name(out, stem, {f"-{how}.npz": result.provenance for how, result in results.items()})
            for how, result in results.items():
                used[how] = result.provenance["options"]
                result.save(out / f"{stem}-{how}.npz")
                drawn = result.plot(mask=None if outline is None else outline.numpy())
                drawn.save(out / f"{stem}-{how}.png")
            rows = [result.frame.assign(image=unicode(str(path))) for result in results.values()]
            frames.append(pd.concat(rows, ignore_index=True))
            done.append(unicode(str(path)))
            tables.append(replace(table(frames[-1]), note=f"\n{out / stem}-METHOD.png, .npz\n"))
    if frames:
        output.show(*tables)
        about = result.provenance | {"method": list(settings_of), "options": used, "images": done}
        about |= {"skipped": listed.left_out}
        name = free_name(out, slug("attribute", loaded.folder.name, *how_asked), {".parquet": about})
        saved = save_frame(out / f"{name}.parquet", pd.concat(frames, ignore_index=True), about)
        output.say(f"{saved}: values, sums and residuals of {len(frames)} image{'s' * (len(frames) != 1)}")
    listed.finish(out / "attribute-left_out.txt", output.say)


def _pixels(path: Path, mask: Path | MaskSource | None, max_pixels: int, inside: bool) -> Pixels:
    """An image with its mask, if it has any, as data sets read them: upright, and the mask brought over the image."""
    from headlens.data import FileSet, Record
    from headlens.errors import DataError

    if inside and mask is None:
        raise DataError(f"{path}: no mask to read the map inside of")
    record = Record(path.name, "", None, image=path, mask=mask)
    pixels = FileSet("", "", [record], max_pixels=max_pixels).pixels(0)
    if mask is not None and pixels.mask is None:
        raise DataError(pixels.mask_note)
    return pixels


def masks_of(files: list[Path], given: list[Path]) -> dict[Path, Path | MaskSource]:
    """The mask of each image, as far as there is one: as many files as images, or a folder of masks.

    In a folder masks go by name, as in data sets: ``a.png`` is the mask of ``a.jpg``, and so is ``a_mask.png``.

    Raises:
        ConfigError: another number of files than images.
        DataError: a folder without a mask of any image, or with one that can be of several, or is one of several.
    """
    from headlens.data.mask_sources import files_of
    from headlens.data.readers import Root
    from headlens.data.readers.tree import pair, stem
    from headlens.errors import DataError

    if len(given) == 1 and given[0].is_dir():
        images = {file.resolve() for file in files}
        free = [path for path in Root(given[0]).images(given[0]) if path.resolve() not in images]
        masks = {file: mask for file, mask in zip(files, pair(files, free), strict=True) if mask is not None}
        taken = {path for mask in masks.values() for path in files_of(mask)}
        called = {file.stem.casefold(): file for file in files}
        for mask in free:
            if mask not in taken and (image := called.get(stem(mask).casefold())):
                why = f"either {image} is not the only image of that name, or this not its only mask"
                raise DataError(f"{mask}: {why}; take the others away, or give masks one by one, in order")
        if not masks:
            raise DataError(f"{given[0]}: no mask in it has the name of an image, such as {files[0].stem}.png")
        return masks
    if given and len(given) != len(files):
        raise ConfigError(f"{len(given)} masks for {len(files)} images; give one for each, in order, or one folder")
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
            targets = ", ".join(method_of(name).targets)
            raise ConfigError(f"--method {name} does not take --target {target.name}; it takes {targets}")
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
        if not any(name in options_of for options_of in known.values()):
            flag = "head" if name == "heads" else name.replace("_", "-")
            remedy = "leave it out, or add a --method that has it"
            raise ConfigError(f"--{flag} is not an option of {', '.join(methods)}; {remedy}")
    return {method: {name: value for name, value in asked.items() if name in of} for method, of in known.items()}


def table(frame: pd.DataFrame) -> Table:
    """What the methods say of one image: the target's value, and what their maps add up to."""
    from headlens.attribution.pixels import BASELINES
    from headlens.printing import printable

    first = frame.iloc[0]
    title = f"{printable(first['image'])}\n{first['metric'].replace('_', ' ')} {first['value']:.4f}"
    if "against" in frame:
        for row in frame.dropna(subset=["against"]).drop_duplicates("against").to_dict("records"):
            title += f", explained against {row['baseline']:.4f} of {BASELINES[row['against']]} ({row['against']})"
    rows = []
    for row in frame.to_dict("records"):
        known = {name: row.get(name) for name in ("baseline", "residual") if row.get(name) == row.get(name)}
        baseline, residual = known.get("baseline"), known.get("residual")
        explained = "-" if baseline is None else f"{row['value'] - baseline:+.4f}"
        left = "-" if residual is None else f"{residual:+.1e}"
        rows.append([row["kind"], f"{row['effect']:+.4f}", explained, left])
    header = ["method", "sum of map", "to explain", "residual"]
    return Table(header, rows, 3, "attributions", title, frame=frame)
