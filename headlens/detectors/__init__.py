"""Detectors: methods on a frozen CLIP, and the parts that they are made of.

Two ways to make one:

    build(backbone, "headclip")              an untrained detector, of a preset
    HeadCLIP(backbone, HeadCLIPConfig())     the same by its class
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.detectors.clusters import ClusterPooled as ClusterPooled
    from headlens.detectors.detector import Detector as Detector
    from headlens.detectors.detector import MethodConfig as MethodConfig
    from headlens.detectors.methods.aa_clip import AACLIP as AACLIP
    from headlens.detectors.methods.aa_clip import AACLIPConfig as AACLIPConfig
    from headlens.detectors.methods.adaclip import AdaCLIP as AdaCLIP
    from headlens.detectors.methods.adaclip import AdaCLIPConfig as AdaCLIPConfig
    from headlens.detectors.methods.anoclip import AnoCLIP as AnoCLIP
    from headlens.detectors.methods.anoclip import AnoCLIPConfig as AnoCLIPConfig
    from headlens.detectors.methods.april_gan import APRILGAN as APRILGAN
    from headlens.detectors.methods.april_gan import APRILGANConfig as APRILGANConfig
    from headlens.detectors.methods.c2p import C2PCLIP as C2PCLIP
    from headlens.detectors.methods.c2p import C2PConfig as C2PConfig
    from headlens.detectors.methods.crane import Crane as Crane
    from headlens.detectors.methods.crane import CraneConfig as CraneConfig
    from headlens.detectors.methods.headclip import HeadCLIP as HeadCLIP
    from headlens.detectors.methods.headclip import HeadCLIPConfig as HeadCLIPConfig
    from headlens.detectors.methods.kanoclip import KAnoCLIP as KAnoCLIP
    from headlens.detectors.methods.kanoclip import KAnoCLIPConfig as KAnoCLIPConfig
    from headlens.detectors.methods.registry import METHODS as METHODS
    from headlens.detectors.methods.registry import PRESETS as PRESETS
    from headlens.detectors.methods.registry import build as build
    from headlens.detectors.methods.registry import preset as preset
    from headlens.detectors.methods.sc_clip import SCCLIP as SCCLIP
    from headlens.detectors.methods.sc_clip import SCCLIPConfig as SCCLIPConfig
    from headlens.detectors.methods.vadclip import VadCLIP as VadCLIP
    from headlens.detectors.methods.vadclip import VadCLIPConfig as VadCLIPConfig
    from headlens.detectors.methods.winclip import WinCLIP as WinCLIP
    from headlens.detectors.methods.winclip import WinCLIPConfig as WinCLIPConfig
    from headlens.detectors.pooling import CLSToken as CLSToken
    from headlens.detectors.pooling import PatchMean as PatchMean
    from headlens.detectors.pooling import Pooling as Pooling
    from headlens.detectors.pooling import ScorePooled as ScorePooled
    from headlens.detectors.reading import Reading as Reading
    from headlens.detectors.readout import Readout as Readout
    from headlens.detectors.scoring import Margins as Margins
    from headlens.detectors.scoring import Prediction as Prediction
    from headlens.detectors.scoring import Scorer as Scorer
    from headlens.detectors.scoring import Scoring as Scoring
    from headlens.detectors.stages import Answers as Answers
    from headlens.detectors.stages import Augment as Augment
    from headlens.detectors.stages import Schedule as Schedule
    from headlens.detectors.stages import Stage as Stage
    from headlens.detectors.stages import TrainingConfig as TrainingConfig
    from headlens.detectors.text import AbnormalAlone as AbnormalAlone
    from headlens.detectors.text import Contrast as Contrast
    from headlens.detectors.text import LinearHead as LinearHead
    from headlens.detectors.text import Pair as Pair
    from headlens.detectors.text import PromptSets as PromptSets

lazily(__name__)
