"""The knowledge that prompts can be learned from: sentences about normal and anomalous states, with their sources.

>>> from headlens import knowledge
>>> knowledge.shipped().sentences("anomalous", "industrial", "screw")[-1]
'The slot of the screw is stripped.'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.knowledge.base import Knowledge as Knowledge
    from headlens.knowledge.base import load as load
    from headlens.knowledge.base import shipped as shipped
    from headlens.knowledge.matching import against as against
    from headlens.knowledge.matching import coverage as coverage
    from headlens.knowledge.matching import image_of as image_of
    from headlens.knowledge.reading import Fault as Fault
    from headlens.knowledge.reading import Placed as Placed
    from headlens.knowledge.reading import examine as examine
    from headlens.knowledge.reading import read as read
    from headlens.knowledge.reading import write as write
    from headlens.knowledge.rows import ANY as ANY
    from headlens.knowledge.rows import Row as Row
    from headlens.knowledge.worlds import captions as captions
    from headlens.knowledge.worlds import catalogued as catalogued

lazily(__name__)
