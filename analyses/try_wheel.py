"""Builds a wheel, installs it into an empty environment, and runs it outside the repository: ``make wheel``.

    python analyses/try_wheel.py
    python analyses/try_wheel.py --python python3.12 --tests

The wheel is built from the source distribution, so that this has all that it needs. The environment takes about 6.5 GB
in a temporary folder, and some minutes. ``--tests`` runs a small part of the source distribution's tests there, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST = 45 * 2**20
"""Bytes of a wheel, nearly all of them weights."""
COMMANDS = {
    "--version": "headlens 0",
    "doctor": "ok       headlens",
    "methods": "kanoclip",
    "docs": "**What does a head do?**",
    "docs heads": "# Heads",
    "demo --per-category 4": "Layer 18",
}
"""What is run, and what it prints."""
TESTS = ("tests/test_import.py", "tests/test_cli_doctor.py", "tests/test_packaging.py", "tests/heads/test_hooks.py")


def build(out: Path) -> tuple[Path, Path]:
    """A source distribution, and the wheel that is built from it."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, ROOT], check=True)
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return source, wheel


def lacking(source: Path, wheel: Path) -> list[str]:
    """What the two files should have and do not, or the other way round."""
    with tarfile.open(source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        installed = set(archive.namelist())
    tracked = subprocess.run(["git", "-C", ROOT, "ls-files"], check=True, capture_output=True, text=True).stdout
    files = {name for name in tracked.splitlines() if not name.startswith((".ci/", ".git"))}
    others = inside - files - {"PKG-INFO", ".gitignore"}
    package = {name for name in files if name.startswith("headlens/")}
    package |= {f"headlens/{name}" for name in files if name.startswith("docs/") and name.endswith(".md")}
    return [
        *(f"{source.name} lacks {name}" for name in sorted(files - inside)),
        *(f"{source.name} has {name}, which is not committed" for name in sorted(others)),
        *(f"{wheel.name} lacks {name}" for name in sorted(package - installed)),
        *(f"{wheel.name} has {name}" for name in sorted(installed - package) if ".dist-info/" not in name),
        *([f"{wheel.name} has {wheel.stat().st_size:,} bytes"] if wheel.stat().st_size > MOST else []),
    ]


def failing(headlens: Path, folder: Path) -> list[str]:
    """Commands that do not print what they should, in a folder that is not the repository."""
    wrong = []
    for words, expected in COMMANDS.items():
        print(f"headlens {words}", flush=True)
        done = subprocess.run([headlens, *words.split()], cwd=folder, env=clean(), capture_output=True, text=True)
        if done.returncode or expected not in done.stdout:
            wrong.append(f"headlens {words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return wrong


def clean() -> dict[str, str]:
    """This environment without what leads Python to the repository."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the empty environment")
    parser.add_argument("--tests", action="store_true", help="also run some tests, with what they need")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        source, wheel = build(ROOT / "dist")
        wrong = lacking(source, wheel)
        subprocess.run([args.python, "-m", "venv", f"{work}/venv"], check=True, env=clean())
        bin_ = Path(work, "venv", "Scripts" if os.name == "nt" else "bin")
        what = f"{wheel}[dev,docs]" if args.tests else wheel
        subprocess.run([bin_ / "python", "-m", "pip", "install", "--quiet", what], check=True, env=clean())
        (elsewhere := Path(work, "elsewhere")).mkdir()
        wrong += failing(bin_ / "headlens", elsewhere)
        if args.tests:
            with tarfile.open(source) as archive:
                archive.extractall(work, filter="data")
            tree = Path(work, source.name.removesuffix(".tar.gz"))
            done = subprocess.run([bin_ / "python", "-m", "pytest", "-q", *TESTS], cwd=tree, env=clean())
            wrong += [f"tests: {done.returncode}"] if done.returncode else []
    print(*wrong, f"{len(wrong) or 'nothing'} to mend: {wheel.name}, {source.name}", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
