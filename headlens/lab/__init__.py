"""For notebooks: images and maps; one head on one image, in every domain; an interactive view.

From a sheet of images to single heads:

    sheet(images)                                                                    some images
    show(run, images)                                                                the same with their anomaly maps
    HeadView({"industrial": run, "medical": run}, images).plot(0, "L18H7/local")     a figure
    explore({"industrial": run, "medical": run}, images)                             by mouse and keyboard
"""

from headlens.lab.explorer import Explorer, explore
from headlens.lab.gallery import sheet, show
from headlens.lab.view import HeadView

__all__ = ["Explorer", "HeadView", "explore", "sheet", "show"]


def __dir__() -> list[str]:
    return __all__
