"""What stands at the end of each verb's ``--help``: commands that can be pasted."""

from __future__ import annotations

EXAMPLES = {
    "demo": ["headlens demo"],
    "train": ["headlens train --data procedural:industrial/aux --out runs/mine"],
    "eval": [
        "headlens eval --run mini-captions-medical --data procedural:medical",
        "headlens eval --run runs/a --run runs/b --data visa/ --latex > table.tex",
    ],
    "score": [
        "headlens score photos/ --run mini-captions-industrial",
        "headlens score photos/ --run mini-captions-industrial --scale set --csv scores.csv",
    ],
    "weights": ["headlens weights --run mini-captions-medical"],
    "ablate": [
        "headlens ablate --layer 18",
        "headlens ablate --layer 18 --category screw --limit 8 --csv heads.csv",
    ],
    "importance": ["headlens importance --screen 0 --rows 32"],
    "contributions": ["headlens contributions", "headlens contributions photo.png --top 3"],
    "attribute": ["headlens attribute photo.png --method legrad --method occlusion"],
    "compare": [
        "headlens compare",
        "headlens compare --group 'a=runs/a-*' --group 'b=runs/b-*'",
    ],
    "transfer": ["headlens transfer --from mini-captions-medical --to mini-captions-industrial"],
    "name": ["headlens name --layer 21 --rows 4"],
    "report": [
        "headlens report",
        "headlens report --run runs/mine --data visa/ --limit 200 --against runs/other --out visa.html",
    ],
    "export": [
        "headlens export --run mini-captions-industrial",
        "headlens export --run runs/mine --data parts/ --rate 0.01 --out mine.onnx",
    ],
    "figures": ["headlens figures", "headlens figures joint --out paper"],
    "methods": ["headlens methods", "headlens methods --results --latex > methods.tex"],
    "import": ["headlens import 9_12_4_multiscale/epoch_15.pth --trained-on visa --out runs/anomalyclip"],
    "verify": ["headlens verify", "headlens verify ViT-L-14-336-quickgelu --weights ViT-L-14-336px.pt"],
    "doctor": ["headlens doctor --data mvtec/ --run runs/mine"],
    "docs": ["headlens docs", "headlens docs heads"],
    "data list": ["headlens data list"],
    "data check": ["headlens data check mvtec/", "headlens data check mvtec/ --json > problems.json"],
    "data protocols": ["headlens data protocols --markdown"],
    "data make": ["headlens data make procedural:medical --out scans --per-category 20"],
    "knowledge check": ["headlens knowledge check sentences.jsonl --data mvtec/"],
    "knowledge show": ["headlens knowledge show --category screw"],
    "knowledge build": ["headlens knowledge build --data mvtec/ --text-model models/llm --out knowledge"],
    "knowledge explain": ["headlens knowledge explain photo.png --run mini-captions-industrial-kanoclip"],
}


def epilog(verb: str) -> str:
    """The end of a help text; the mark in front keeps its lines as they are."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in EXAMPLES[verb])
