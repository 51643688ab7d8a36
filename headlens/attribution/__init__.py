"""Attribution maps for a target score, and how faithful they are.

In one image, and over a data set:

    attribute(detector, image, "integrated_gradients", "joint_margin")    a signed map at the image's size
    faithfulness(detector, data)                                          methods by measures, with intervals
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.attribution.attribute import Attribution as Attribution
    from headlens.attribution.attribute import attribute as attribute
    from headlens.attribution.faithfulness import MEASURES as MEASURES
    from headlens.attribution.faithfulness import Faithfulness as Faithfulness
    from headlens.attribution.faithfulness import faithfulness as faithfulness
    from headlens.attribution.methods import METHODS as METHODS
    from headlens.attribution.methods import Method as Method
    from headlens.attribution.methods import method_of as method_of
    from headlens.attribution.targets import SCORES as SCORES
    from headlens.attribution.targets import Target as Target
    from headlens.attribution.targets import target_of as target_of

lazily(__name__)
