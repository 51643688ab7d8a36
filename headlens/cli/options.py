"""Options and arguments that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from headlens.files import MAX_PIXELS as MAX_PIXELS

Images = Annotated[
    list[str], Argument(help="Files, folders, listings, or patterns such as 'parts/*.png'.", metavar="IMAGES...")
]
Domain = Annotated[
    str | None,
    Option(
        help="industrial or medical: what the images are, and whose run and images are meant where none are named.",
        show_default="industrial; of a data set, by the names of its folders",
    ),
]
DataDomain = Annotated[
    str | None, Option(help="industrial or medical: what the images are.", show_default="by the names of folders")
]
Run = Annotated[str | None, Option(help="A run folder, or a shipped run.", show_default="mini-DOMAIN")]
Data = Annotated[str | None, Option(help="A folder, a listing, or a procedural set.", show_default="procedural:DOMAIN")]
PerCategory = Annotated[int, Option(help="Images of each category of a procedural set.", min=2)]
Category = Annotated[str, Option(help="What they show; only class-aware runs care.")]
Descriptions = Annotated[
    Path | None,
    Option(help="JSON or TOML: what categories are called in sentences; of methods that read it.", dir_okay=False),
]
Heads = Annotated[list[int] | None, Option(help="Only these heads.", show_default="all")]
Rows = Annotated[int, Option(help="Of the table that is printed; the frame has all.", min=1)]
Batch = Annotated[int, Option(help="Images at once.", min=1)]
FullBatch = Annotated[int | None, Option(help="Images at once.", min=1, show_default="8, and more on CUDA")]
MaxPixels = Annotated[int, Option(help="Images with more pixels are not decoded.", min=1)]
FollowLinks = Annotated[bool, Option("--follow-links", help="Links may lead out of a data set's folder.")]
Seed = Annotated[int, Option(help="Of everything that is drawn.", min=0)]
Weights = Annotated[str | None, Option("--weights", help="The backbone's weight file.")]
ActFn = Annotated[
    str | None,
    Option("--act-fn", help="gelu or quick_gelu: of the weights, or whatever they were trained with and --because."),
]
Because = Annotated[
    str | None,
    Option(help="Why another activation than the weights' is computed; what shows the backbone says it."),
]
Device = Annotated[str | None, Option(help="cpu, cuda, mps; the best available.")]
Precision = Annotated[
    str | None, Option(help="float32, tf32, float16, bfloat16.", show_default="the fastest that serves, by device")
]
Out = Annotated[Path, Option(help="A folder for tables and figures.", file_okay=False)]
OUT = Path("lens")
Json = Annotated[bool, Option("--json", help="For machines.")]
