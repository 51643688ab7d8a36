"""Questions, answers and the rows made of them, with functions in place of models."""

from __future__ import annotations

import pytest

from headlens import data
from headlens.errors import ConfigError, DataError, RunError
from headlens.knowledge import Placed, against
from headlens.knowledge.answers import Answers, Asked
from headlens.knowledge.building import Built, Model, build, plan
from headlens.knowledge.questions import Question, read_questions, sentences_of
from headlens.knowledge.reading import clashes

QUESTIONS = (
    Question("text", "anomalous", "What can be wrong with {domain} things?"),
    Question("text", "anomalous", "What can be wrong with a {category}?"),
    Question("image", "anomalous", "What is wrong with this {category}?"),
    Question("image", "normal", "Describe this {category}."),
)


@pytest.fixture(scope="module")
def nuts() -> data.DataSet:
    return data.open("procedural:industrial/aux", category="nut", per_category=4, size=28)


class Asking:
    """Answers by the first words of a prompt, and remembers what it was asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.asked = answers, []

    def __call__(self, prompt: str, image: object) -> str:
        self.asked.append((prompt, None if image is None else tuple(image.shape)))
        return next(answer for start, answer in self.answers.items() if prompt.startswith(start))


SAID = {
    "What can be wrong with industrial": "- There are cracks.\n- Parts are missing.",
    "What can be wrong with a nut": "The thread is stripped. It is rusty.",
    "What is wrong": "It is bent on the left.",
    "Describe": "It is clean and round.",
}


def built(nuts, path, said=SAID, **settings) -> tuple[Built, Asking]:
    asking = Asking(said)
    models = {to: Model(f"{to} parrot", "7", asking) for to in ("text", "image")}
    return build(nuts, plan(nuts, QUESTIONS, models), models, Answers(path), **settings), asking


def test_rows_say_who_said_them_of_what(nuts, tmp_path):
    result, asking = built(nuts, tmp_path / "answers.jsonl")
    assert asking.asked[:2] == [
        ("What can be wrong with industrial things?", None),
        ("What can be wrong with a nut?", None),
    ]
    assert [shape for _, shape in asking.asked[2:]] == [(3, 28, 28)] * 4
    general = [(row.category, row.state, row.sentence) for row in result.rows if not row.image]
    assert general == [
        ("*", "anomalous", "There are cracks."),
        ("*", "anomalous", "Parts are missing."),
        ("nut", "anomalous", "The thread is stripped."),
        ("nut", "anomalous", "It is rusty."),
    ]
    assert result.rows[2].source == "text parrot, revision 7: What can be wrong with a nut?"
    assert [(row.image[:9], row.state) for row in result.rows[4:]] == [("nut/test/", "normal")] * 2 + [
        ("nut/test/", "anomalous")
    ] * 2
    placed = [Placed(number, row) for number, row in enumerate(result.rows)]
    assert not against(placed, [nuts]) and not [*clashes(placed)] and result.left_out == result.unread == ()


def test_an_interrupted_build_goes_on_and_ends_the_same(nuts, tmp_path):
    whole, _ = built(nuts, tmp_path / "whole.jsonl")

    asking = Asking(SAID)

    def three(prompt, image):
        if len(asking.asked) == 3:
            raise KeyboardInterrupt
        return asking(prompt, image)

    models = {to: Model(f"{to} parrot", "7", three) for to in ("text", "image")}
    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        build(nuts, plan(nuts, QUESTIONS, models), models, Answers(path))
    path.write_bytes(path.read_bytes() + b'{"model": "text par')  # killed in the middle of a line
    again, rest = built(nuts, path)
    assert again == whole and len(rest.asked) == 3
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert built(nuts, path)[1].asked == []


def test_another_model_revision_or_length_is_asked_again(tmp_path):
    asked = Asked("m", "1", 20, "Why?")
    answers = Answers(tmp_path / "answers.jsonl")
    answers.add(asked, "So.")
    others = [Asked("n", "1", 20, "Why?"), Asked("m", "2", 20, "Why?"), Asked("m", "1", 9, "Why?")]
    others += [Asked("m", "1", 20, "Who?"), Asked("m", "1", 20, "Why?", "an image")]
    assert asked in answers.known and not [other for other in others if other in answers.known]


@pytest.mark.parametrize("line", ["{", "[]", '{"answer": 1}', '{"model": "m", "answer": "a"}', "\x80"])
def test_a_damaged_answer_is_named_with_its_line(line, tmp_path):
    path = tmp_path / "answers.jsonl"
    Answers(path).add(Asked("m", "1", 20, "Why?"), "So.")
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(RunError, match=r"answers\.jsonl: line 2: is not an answer of a model"):
        Answers(path)


def test_what_cannot_be_a_row_is_left_out_with_its_reason(nuts, tmp_path):
    long = " ".join(["nut"] * 80)
    said = SAID | {
        "What can be wrong with industrial": f"Это трещина в металле.\n{long}\nIt is clean and round.",
        "What is wrong": "It is rusty. It is clean and round.",
    }
    result, _ = built(nuts, tmp_path / "answers.jsonl", said)
    reasons = "\n".join(result.left_out)
    assert "cyrillic" in reasons and "82 tokens" in reasons
    assert "'It is clean and round.': given for both normal and anomalous nut" in reasons
    assert "It is clean and round." not in [row.sentence for row in result.rows]
    assert len([row for row in result.rows if row.image]) == 2, "It is rusty, of two images"


def test_what_is_repeated_stands_once(nuts, tmp_path):
    result, _ = built(nuts, tmp_path / "a.jsonl", SAID | {"What can be wrong with a nut": "It is rusty. It is  Rusty."})
    assert [row.sentence for row in result.rows if row.category == "nut" and not row.image] == ["It is rusty."]
    assert result.left_out == ()


def test_an_image_that_cannot_be_read_is_left_out(nuts, tmp_path, monkeypatch):
    def pixels(i):
        raise DataError(f"image {i}: cut short")

    monkeypatch.setattr(nuts, "pixels", pixels)
    result, asking = built(nuts, tmp_path / "answers.jsonl")
    assert result.unread == tuple(f"image {i}: cut short" for i in range(4))
    assert len(asking.asked) == 2 and not [row for row in result.rows if row.image]


def test_a_plan_asks_what_there_are_models_for(nuts):
    assert [item.number for item in plan(nuts, QUESTIONS, ["image"])] == [0, 1, 2, 3]
    assert [item.number for item in plan(nuts, QUESTIONS, ["image"], images=1)] == [0, 2]
    assert [item.category for item in plan(nuts, QUESTIONS, ["text"])] == ["*", "nut"]
    with pytest.raises(ConfigError, match="no question to text"):
        plan(nuts, QUESTIONS[2:], ["text"])
    unlabelled = data.FileSet("mine", "any", [data.Record("a", "nut", None)])
    with pytest.raises(ConfigError, match="or no labels"):
        plan(unlabelled, QUESTIONS, ["image"])
    with pytest.raises(ConfigError, match="mine does not say which domain"):
        plan(data.FileSet("mine", "", [data.Record("a", "nut", True)]), QUESTIONS, ["text"])


GOOD = '[[question]]\nto = "text"\nstate = "normal"\nask = "What is a good {category} like?"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = ", "expected TOML"),
        ("", r"expected tables \[\[question\]\]"),
        (GOOD + "\n[other]\n", r"expected tables \[\[question\]\]"),
        ("question = [1]", "question 1: is not a table"),
        (GOOD + GOOD.replace("state", "sate"), "question 2: has no field 'sate'; did you mean state?"),
        (GOOD + '[[question]]\nto = "text"\n', "question 2: needs state"),
        (GOOD.replace('"text"', '"sound"'), "to is 'sound'; it can be text or image"),
        (GOOD.replace('"normal"', "1"), "state is 1; it can be normal or anomalous"),
        (GOOD.replace("{category}", "{colour}"), r"ask has \{colour\}; there are \{domain\} and \{category\}"),
        (GOOD.replace("{category}", "{category.name}"), r"ask has \{category\.name\}"),
        (GOOD.replace("{category}", "{category:>9}"), r"ask has \{category\}"),
        (GOOD.replace("{category}", "{category"), "a brace that is not closed"),
        (GOOD.replace("What", "\\nWhat"), "it is one line of text"),
    ],
)
def test_questions_that_are_wrong_are_named(text, message, tmp_path):
    path = tmp_path / "questions.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_questions(path)
    path.write_text(GOOD, encoding="utf-8")
    assert read_questions(path)[0].filled("any", "metal_nut") == "What is a good metal nut like?"


def test_the_built_in_questions_ask_for_both_states_of_domains_categories_and_images():
    asked = {(one.to, one.of_domain, one.state) for one in read_questions()}
    kinds = [("text", True), ("text", False), ("image", False)]
    assert asked == {(*kind, state) for kind in kinds for state in ("normal", "anomalous")}


def test_sentences_of_an_answer():
    answer = 'Sure!\n\n1) "The rim is chipped."\n(2) Rust. It is dented!\n• a  crack in it\n'
    answer += "The defects are:\n2.5 mm are gone"
    expected = ["The rim is chipped.", "It is dented!", "a crack in it", "2.5 mm are gone"]
    assert sentences_of(answer) == expected
