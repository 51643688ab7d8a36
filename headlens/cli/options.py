"""Options and arguments that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from headlens.files import MAX_PIXELS as MAX_PIXELS
from headlens.training.shipped import BACKBONE

Images = Annotated[
    list[str], Argument(help="Files, folders, listings, or patterns such as 'parts/*.png'.", metavar="IMAGES...")
]
Domain = Annotated[
    str | None,
    Option(
        help="Domain of the images: industrial, medical or any other. Where no run or data is named, those that ship "
        "for it.",
        show_default="industrial; for a data set, guessed from its folder names",
    ),
]
DataDomain = Annotated[
    str | None,
    Option(
        help="Domain of the images: industrial, medical or any other name.", show_default="guessed from folder names"
    ),
]
Run = Annotated[
    str | None, Option(help="A run folder, or the name of a shipped run.", show_default=f"{BACKBONE}-DOMAIN")
]
Data = Annotated[str | None, Option(help="A folder, a listing, or a procedural set.", show_default="procedural:DOMAIN")]
PerCategory = Annotated[int, Option(help="Images per category of a procedural set.", min=2)]
Category = Annotated[str, Option(help="What the images show; only class-aware runs use it.")]
Descriptions = Annotated[
    Path | None,
    Option(help="JSON or TOML file of category descriptions, for methods whose sentences use them.", dir_okay=False),
]
Heads = Annotated[list[int] | None, Option(help="Only these heads.", show_default="all")]
Rows = Annotated[int, Option(help="Rows of the printed table; the saved frame has all.", min=1)]
Batch = Annotated[int, Option(help="Images per batch.", min=1)]
FullBatch = Annotated[int | None, Option(help="Images per batch.", min=1, show_default="8, more on CUDA")]
MaxPixels = Annotated[int, Option(help="Refuse images with more pixels than this.", min=1)]
FollowLinks = Annotated[bool, Option("--follow-links", help="Follow links that lead out of the data set's folder.")]
Seed = Annotated[int, Option(help="Seed of everything that is drawn at random.", min=0)]
Weights = Annotated[str | None, Option("--weights", help="Weight file of the backbone.")]
ActFn = Annotated[
    str | None,
    Option(
        "--act-fn",
        help="gelu or quick_gelu. The default is what the weights were trained with; another one needs --because.",
    ),
]
Because = Annotated[
    str | None,
    Option(help="Reason for an activation that differs from the weights'; it is shown with the backbone."),
]
Device = Annotated[str | None, Option(help="cpu, cuda or mps; by default the best available.")]
Precision = Annotated[
    str | None,
    Option(help="float32, tf32, float16 or bfloat16.", show_default="chosen for the device"),
]
Out = Annotated[Path, Option(help="Folder for tables and figures.", file_okay=False)]
OUT = Path("lens")
Json = Annotated[bool, Option("--json", help="Print JSON.")]
