"""The section of images: those that are most wrong, under their maps, with what was decided and whether it is right."""

from __future__ import annotations

from headlens import html
from headlens.attribution import method_of
from headlens.printing import spelled
from headlens.report import page, pixels
from headlens.report.cases import TARGET, Case, Cases
from headlens.report.measuring import Measured
from headlens.units import with_unit


def images(measured: Measured, cases: Cases, against: Measured | None) -> str:
    """Images with their maps, and how to read them."""
    if not cases.groups:
        return ""
    method = method_of(cases.method)
    low, high = cases.limits
    scales = [f'anomaly map {low:.3g}<i style="background: {pixels.gradient(None)}"></i>{high:.3g}']
    about = "Right of the slider is the map. A mask is outlined."
    if not cases.refused:
        named, what = html.text(spelled(method.name)), method.quantity or "part of the joint margin"
        start, end = ("−end", "+end") if method.sign else ("0", "end")
        scales.append(f'{named} {start}<i style="background: {pixels.gradient(method.sign)}"></i>{end}')
        about += (
            f" {spelled(method.name)} shows which pixels the {spelled(TARGET)} comes from ({what} per "
            "pixel); its colours end at another value in every image."
        )
    outlines = any(case.pixels.mask is not None and bool(case.pixels.mask.any()) for case in cases.every)
    box = '<p class="controls"><label><input type="checkbox" id="outlines" checked> outline of masks</label></p>'
    groups = [
        f'<h3>{html.text(kind)}</h3><div class="cases">'
        + "".join(_case(case, measured, cases, against) for case in shown)
        + "</div>"
        for kind, shown in cases.groups.items()
    ]
    scale = f'<p class="scales"><span>{"</span><span>".join(scales)}</span></p>'
    return page.section("Images", page.said(about), scale, box if outlines else "", *groups)


def _case(case: Case, measured: Measured, cases: Cases, against: Measured | None) -> str:
    image = case.pixels.image.permute(1, 2, 0).numpy()
    mask = None if case.pixels.mask is None else case.pixels.mask.numpy()
    outline = "" if mask is None else pixels.outlined(mask, image.shape).replace("<img ", '<img class="outline" ', 1)
    views = {"image": pixels.photo(image, case.name)}
    views["anomaly map"] = pixels.overlaid(image, case.anomaly_map, f"anomaly map of {case.name}", cases.limits)
    if case.attribution is not None:
        method = method_of(cases.method)
        reach = case.reach(method.sign)
        limits, name = (-reach if method.sign else 0.0, reach), spelled(cases.method)
        views[name] = pixels.overlaid(image, case.attribution, f"{name} of {case.name}", limits, method.sign)
    shown = "".join(
        f'<figure class="view">{view}{outline}<figcaption>{html.text(name)}</figcaption></figure>'
        for name, view in views.items()
    )
    choices = "".join(f"<option>{html.text(name)}</option>" for name in [*views][1:])
    controls = (
        '<p class="controls"><input type="range" min="0" max="100" value="50" aria-label="image to map">'
        f'<select aria-label="map">{choices}</select></p>'
    )
    return (
        f'<article class="case"><h4>{html.text(case.name)}</h4><p>{_verdict(case, measured, against)}</p>'
        f'<div class="views">{shown}</div>{controls}</article>'
    )


def _verdict(case: Case, measured: Measured, against: Measured | None) -> str:
    """Its score, what follows from it, and whether that is right."""
    said = f"joint score {with_unit(f'{case.score:.3f}', measured.run.detector.scoring.unit)}"
    if (limit := measured.run.threshold) is not None:
        above = case.score > limit
        verdict = f"counts as {'anomalous' if above else 'normal'}"
        if case.anomalous is not None:
            right = above == case.anomalous
            verdict = f"{'true' if right else 'false'} {'positive' if above else 'negative'}"
            verdict = f'<span class="{"right" if right else "wrong"}">{verdict}</span>'
        said += f", threshold {limit:.3f}: {verdict}"
    if against is not None:
        other = against.evaluation.scores.set_index("name")["joint"].get(case.name)
        if other is not None:
            said += f"<br>{html.text(against.name)}: {with_unit(f'{other:.3f}', against.run.detector.scoring.unit)}"
    return said
