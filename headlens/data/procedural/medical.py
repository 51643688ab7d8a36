"""The medical categories: what is scanned, what can be wrong with it, and what captions call it."""

from __future__ import annotations

from headlens.data.procedural.clinical import blood_smear, camera, colonoscopy, dermoscopy, fundus, histology
from headlens.data.procedural.scans import bone_xray, brain_mri, chest_xray, film, head_ct, liver_ct, speckle
from headlens.data.procedural.scene import Category, Finish, ScenePainter
from headlens.data.procedural.sections import breast_ultrasound, knee_mri, mammography, oct, phantom, thyroid_ultrasound


def _of(paint: ScenePainter, finish: Finish, words: tuple[str, ...], *flaws: str, texture: bool = False) -> Category:
    return Category(paint.__name__, "medical", words, paint, flaws, finish, texture)


# fmt: off
MEDICAL: tuple[Category, ...] = (
    _of(brain_mri, film, ("brain MRI", "MRI scan of the brain", "axial MRI of the head"),
        "mass", "oedema", "haemorrhage", "atrophy", "nodule", "infiltrate"),
    _of(head_ct, film, ("head CT", "CT scan of the head", "brain CT"),
        "haemorrhage", "mass", "infiltrate", "calcification", "oedema"),
    _of(liver_ct, film, ("liver CT", "CT scan of the abdomen", "abdominal CT"),
        "mass", "nodule", "cyst", "infiltrate", "calcification"),
    _of(chest_xray, film, ("chest X-ray", "radiograph of the chest", "X-ray image of the lungs"),
        "infiltrate", "mass", "nodule", "effusion", "calcification"),
    _of(bone_xray, film, ("bone X-ray", "X-ray image of a bone", "radiograph of a limb"),
        "fracture", "mass", "cyst", "atrophy"),
    _of(mammography, film, ("mammogram", "X-ray image of the breast"),
        "mass", "calcification", "nodule", "infiltrate"),
    _of(breast_ultrasound, speckle, ("breast ultrasound", "ultrasound image of the breast"),
        "mass", "cyst", "nodule", "calcification"),
    _of(thyroid_ultrasound, speckle, ("thyroid ultrasound", "ultrasound image of the thyroid", "neck ultrasound"),
        "nodule", "mass", "cyst", "calcification"),
    _of(oct, speckle, ("retinal OCT", "OCT scan of the retina", "optical coherence tomography image"),
        "drusen", "cyst", "oedema", "atrophy", "effusion"),
    _of(knee_mri, film, ("knee MRI", "MRI scan of the knee"),
        "fracture", "atrophy", "oedema", "effusion", "cyst", "mass"),
    _of(fundus, camera, ("fundus photograph", "retinal photograph", "picture of the retina"),
        "exudate", "haemorrhage", "atrophy", "oedema"),
    _of(dermoscopy, camera, ("dermoscopy image", "photograph of skin", "skin"),
        "melanoma", "nodule", "inflammation", "ulcer", "haemorrhage", texture=True),
    _of(colonoscopy, camera, ("colonoscopy image", "endoscopy image of the colon", "colon"),
        "polyp", "ulcer", "inflammation", "haemorrhage"),
    _of(histology, camera, ("histology slide", "H&E stained tissue", "microscope image of tissue"),
        "crowding", "haemorrhage", "inflammation", texture=True),
    _of(blood_smear, camera, ("blood smear", "microscope image of blood"),
        "parasite", "blast", texture=True),
    _of(phantom, film, ("phantom scan", "scan of a test phantom"),
        "mass", "cyst", "nodule", "infiltrate", "oedema", "haemorrhage", "effusion", "inflammation"),
)
# fmt: on
