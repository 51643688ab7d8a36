"""Options and arguments that several verbs have."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from headlens.cli import completion
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
    str | None,
    Option(
        help="A run folder, or the name of a shipped run.",
        show_default=f"{BACKBONE}-DOMAIN",
        autocompletion=completion.runs,
    ),
]
Data = Annotated[
    str | None,
    Option(
        help="A folder, a listing, or a procedural set.",
        show_default="procedural:DOMAIN",
        autocompletion=completion.data_sets,
    ),
]
PerCategory = Annotated[int, Option(help="Images, or clips, per category of a procedural set.", min=2)]
PER_CATEGORY = 10
Every = Annotated[int, Option(help="Of clips, only every so many frames.", min=1)]
Category = Annotated[
    str | None,
    Option(
        help="Only this category of a data set; of single images, what they show, which only class-aware runs use.",
        show_default="all; of single images, object",
        autocompletion=completion.categories,
    ),
]
Limit = Annotated[
    int | None,
    Option(
        help="At most this many images; of a data set, normal and anomalous ones of each category in turn.",
        min=1,
        show_default="all",
    ),
]
Size = Annotated[int | None, Option(help="Image side in pixels.", min=1, show_default="as in training")]
Descriptions = Annotated[
    Path | None,
    Option(help="JSON or TOML file of category descriptions, for methods whose sentences use them.", dir_okay=False),
]
Layers = Annotated[
    list[str] | None,
    Option("--layer", help="A layer such as 18, a range such as 3-6, or all; may be repeated.", show_default="all"),
]
Heads = Annotated[
    list[int] | None, Option("--head", help="Only these heads of each layer, such as 7.", show_default="all")
]
Streams = Enum("Streams", {"GLOBAL": "global", "LOCAL": "local", "BOTH": "both"}, type=str)
Stream = Annotated[Streams, Option("--stream", help="Which stream's heads.")]
Rows = Annotated[int, Option(help="Rows of each printed table; the saved frame has all.", min=1)]
ROWS = 16
Batch = Annotated[int, Option(help="Images per batch.", min=1)]
BATCH = 8
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
Json = Annotated[bool, Option("--json", help="Print JSON instead, unrounded and with all rows.")]
Csv = Annotated[
    Path | None,
    Option("--csv", help="Also write the table to this file, unrounded and with all rows.", dir_okay=False),
]
Markdown = Annotated[bool, Option("--markdown", help="Print a Markdown table instead.")]
Latex = Annotated[bool, Option("--latex", help="Print a LaTeX table instead, for the package booktabs.")]


def streams_of(stream: Streams) -> tuple[str, ...]:
    """The streams that one value of ``--stream`` stands for.

    >>> streams_of(Streams.BOTH)
    ('global', 'local')
    """
    return ("global", "local") if stream is Streams.BOTH else (stream.value,)
