"""Options are the same in every verb: defaults, help, examples, completion; and how much is said on standard error."""

from __future__ import annotations

import logging
import shlex
from collections import defaultdict

import pytest
import typer
from typer.testing import CliRunner

from headlens.cli import app, completion
from headlens.cli.common import data_of
from headlens.cli.examples import EXAMPLES
from headlens.cli.images import find_images
from headlens.cli.logs import LOGGER, heard
from headlens.cli.output import Output
from headlens.data.procedural import ALL_SPECS, CLIPS
from headlens.errors import ConfigError
from headlens.printing import unknown_name
from headlens.progress import bar


def verbs(command=None, names=()) -> dict[str, object]:
    """Commands by their names, such as ``data check``."""
    command = command or typer.main.get_command(app)
    inner = getattr(command, "commands", None)
    if inner is None:
        return {" ".join(names): command}
    return {name: verb for key, one in inner.items() for name, verb in verbs(one, (*names, key)).items()}


VERBS = verbs()
LENS = ("ablate", "importance", "contributions", "name", "weights", "transfer", "attribute")
OTHERS = {  # why an option is another one in these verbs
    ("--per-category", "name"): "phrases are fitted to rows of images, and to few rows anything fits",
    ("--per-category", "compare"): "of several runs each",
    ("--per-category", "eval"): "metrics take more images than effects do",
    ("--per-category", "train"): "as for metrics",
    ("--per-category", "demo"): "two minutes",
    ("--per-category", "data make"): "as for metrics; half of them normal",
    ("--per-category", "knowledge check"): "reads no image",
    ("--per-category", "figures"): "for ablation and gradients",
    ("--out", "score"): "one folder for each set of images",
    ("--out", "train"): "a run",
    ("--out", "import"): "a run",
    ("--out", "demo"): "images, too",
    ("--out", "figures"): "for a paper",
    ("--out", "data make"): "a data set",
    ("--out", "knowledge build"): "an earlier build goes on",
    ("--out", "report"): "one file",
    ("--out", "export"): "one file",
    ("--run", "export"): "required: it is written",
    ("--data", "export"): "of the threshold alone",
    ("--threshold", "export"): "is written, and decides later",
    ("--force", "export"): "one file and its card",
    ("--reference", "transfer"): "not of pairs",
    ("--run", "eval"): "several, and none by default: what is measured is named",
    ("--run", "score"): "required: it decides",
    ("--run", "doctor"): "nothing is looked at by default",
    ("--data", "eval"): "several, and required",
    ("--data", "train"): "several, and required",
    ("--data", "compare"): "of a group",
    ("--data", "weights"): "not needed",
    ("--data", "doctor"): "not needed",
    ("--data", "knowledge check"): "not needed",
    ("--data", "knowledge build"): "required",
    ("--domain", "eval"): "of images alone",
    ("--domain", "compare"): "of images alone",
    ("--domain", "train"): "of images alone",
    ("--domain", "knowledge check"): "of images alone",
    ("--domain", "knowledge build"): "of images alone",
    ("--domain", "knowledge show"): "a filter",
    ("--category", "data check"): "a filter",
    ("--category", "knowledge show"): "a filter",
    ("--weights", "train"): "a tag or a file, of a backbone that is named",
    ("--weights", "import"): "a tag or a file, of a backbone that is named",
    ("--weights", "verify"): "of an architecture that is named",
    ("--size", "train"): "the size that the others have from training",
    ("--size", "import"): "the size that the others have from training",
    ("--size", "data make"): "of images that are generated",
    ("--seed", "train"): "of training",
    ("--seed", "verify"): "of weights",
    ("--seed", "data make"): "of images",
    ("--batch", "train"): "as the method says",
    ("--batch", "attribute"): "steps of one image",
    ("--batch", "eval"): "more on a GPU",
    ("--batch", "importance"): "more on a GPU",
    ("--batch", "report"): "more on a GPU",
    ("--force", "report"): "one file",
    ("--method", "report"): "one",
    ("--rows", "name"): "counts heads",
    ("--rows", "score"): "the rest is in scores.csv",
    ("--layer", "name"): "the last quarter writes into the joint space",
    ("--layer", "report"): "the most important ones",
    ("--stream", "name"): "the published method is of the global stream",
    ("--stream", "compare"): "as far as weights were learned",
    ("--head", "attribute"): "of any layer",
    ("--metric", "importance"): "one, which has a gradient",
    ("--metric", "transfer"): "the last one decides",
    ("--group", "compare"): "runs of the same kind",
    ("--group", "figures"): "runs of a method, and without its parts",
    ("--data", "figures"): "of a group",
    ("--kind", "transfer"): "of the heads that are not among the best",
    ("--backbone", "import"): "the one of the literature",
    ("--rows", "knowledge show"): "all by default",
    ("--follow-links", "data check"): "of the folder that is checked",
    ("--split", "data check"): "all of them are looked at",
    ("--most", "knowledge check"): "errors and warnings alike",
    ("--industrial", "figures"): "runs with parts left out",
    ("--medical", "figures"): "runs with parts left out",
}


def test_the_same_option_has_one_default_and_one_help():
    meanings: dict[str, dict[tuple, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, verb in VERBS.items():
        for param in verb.params:
            for flag in param.opts:
                if flag.startswith("--") and not getattr(param, "hidden", False):
                    meaning = (repr(param.default), param.help, str(param.show_default))
                    meanings[flag][meaning].append(name)
    other, unused = [], set(OTHERS)
    for flag, by_meaning in meanings.items():
        usual = max(by_meaning.values(), key=len)
        for names in by_meaning.values():
            if names is not usual:
                other += [(flag, name) for name in names if (flag, name) not in OTHERS]
                unused -= {(flag, name) for name in names}
    assert not other and not unused


@pytest.mark.parametrize("verb", LENS)
def test_every_verb_of_the_lens_chooses_images_and_forms(verb):
    flags = {flag for param in VERBS[verb].params for flag in param.opts}
    assert flags >= {
        "--category",
        "--limit",
        "--size",
        "--csv",
        "--json",
        "--markdown",
        "--latex",
        "--quiet",
        "--verbose",
    }


def test_examples_are_commands_with_options_that_exist():
    assert set(EXAMPLES) == set(VERBS)
    for name, lines in EXAMPLES.items():
        for line in lines:
            words = shlex.split(line.partition(" > ")[0])
            group = name.split()
            assert words[: 1 + len(group)] == ["headlens", *group] and len(line) < 100
            VERBS[name].make_parser(typer.Context(VERBS[name])).parse_args(words[1 + len(group) :])
            flags = {flag for param in VERBS[name].params for flag in param.opts}
            assert {word for word in words if word.startswith("--")} <= flags
    shown = CliRunner().invoke(app, ["ablate", "--help"]).output
    assert shown.rstrip().endswith("\n".join(["  Example:", *(f"    {line}" for line in EXAMPLES["ablate"])]))


def test_completion(tmp_path, monkeypatch):
    assert {*completion.SETS} == {*ALL_SPECS, *CLIPS}
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "config.toml").touch()
    (tmp_path / "set" / "bolt").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert completion.runs("ru") == ["runs/mine"] and completion.runs("x") == []
    assert (
        "mini-industrial-2" in completion.runs("mini-industrial") and completion.runs("mini-i")[0] == "mini-industrial"
    )
    verb = VERBS["ablate"]

    def categories(incomplete: str, **given: object) -> list[str]:
        context = typer.Context(verb)
        context.params.update(given)
        return completion.categories(context, incomplete)

    assert categories("sc") == ["screw"] and categories("", data="set") == ["bolt"]
    assert "head_ct" in categories("", data="procedural:medical") and "head_ct" in categories("head", domain="medical")
    assert completion.presets("head") == ["headclip"]


def test_words_that_are_almost_right():
    for arguments, hint in ((["ablat"], "'ablate'"), (["ablate", "--layr", "3"], "--layer")):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2 and hint in done.output
    with pytest.raises(Exception, match="mini-captions-medicl: no such folder; did you mean mini-captions-medical"):
        CliRunner().invoke(app, ["weights", "--run", "mini-captions-medicl"], catch_exceptions=False)
    assert (
        unknown_name("kind", "zer", ["zero", "mean"]) == "unknown kind 'zer'; available: zero, mean; did you mean zero?"
    )


def test_a_limit_takes_normal_and_anomalous_images_of_every_category_in_turn(tmp_path):
    few = data_of("procedural:industrial", 4, 10**6, None, False, limit=5)
    kinds = [(record.category, record.anomalous) for record in few.records]
    assert len(few) == 5 and len(set(kinds)) == 5 and len({category for category, _ in kinds}) == 3
    assert len(data_of("procedural:industrial", 2, 10**6, None, False, category="screw", limit=99)) == 2
    for number in range(3):
        (tmp_path / f"{number}.png").touch()
    assert [path.name for path in find_images([str(tmp_path)], limit=2).files] == ["0.png", "1.png"]


def test_quiet_and_verbose(capsys, tmp_path):
    with heard(quiet=True, verbose=False):
        Output().say("beside it")
        assert bar(3).disable
        logging.getLogger("headlens.data").info("nothing")
    assert capsys.readouterr() == ("", "")
    with heard(quiet=False, verbose=True):
        data_of("procedural:industrial", 2, 10**6, None, False)
        logging.getLogger("headlens.x").debug("a\x1b[2Jb")
        Output(csv=None).say("beside it")
    out, err = capsys.readouterr()
    assert out == "beside it\n" and "read procedural:industrial: ProceduralSet(" in err
    assert "\x1b" not in err and "done after" in err and all(line.startswith("headlens: ") for line in err.splitlines())
    assert LOGGER.level == logging.NOTSET and LOGGER.propagate and not LOGGER.handlers
    with pytest.raises(ConfigError, match="choose one"), heard(True, True):
        pass


def test_a_pipe_gets_no_control_characters(capfd):
    with bar(3) as done:
        done.update(3)
    assert not set("\r\x1b") & set(capfd.readouterr().err)
