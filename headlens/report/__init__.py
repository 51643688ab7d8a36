"""One HTML file about a run that opens without anything installed.

For colleagues:

    report(run, images).save("report.html")    metrics, the images it gets most wrong, its heads, where it came from
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.report.report import Report as Report
    from headlens.report.report import report as report

lazily(__name__)
