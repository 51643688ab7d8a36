"""For notebooks: pictures and maps; one head at one picture, in every domain; controls to walk through all of them.

show(pictures, run)                                                        some pictures and their anomaly maps
HeadView(pictures, industrial=run, medical=run).plot(0, "L18H7/local")     a figure
explore(pictures, industrial=run, medical=run)                             the same with ipywidgets
"""

from headlens.lab.explorer import Explorer, explore
from headlens.lab.gallery import show
from headlens.lab.view import HeadView

__all__ = ["Explorer", "HeadView", "explore", "show"]
