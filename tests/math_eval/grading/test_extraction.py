import time

import pytest

from verl.math_eval.grading.extraction import extract, last_box

# text, answer, method, why
CASES = [
    ("so $\\boxed{42}$.", "42", "box", "the plain case"),
    ("first $\\boxed{1}$, no: it must be $\\boxed{2}$", "2", "box", "prose between two boxes: the last one counts"),
    ("$\\boxed{1}$ and $\\boxed{2}$", "1, 2", "boxes", "neighbours joined by and are one list"),
    ("$\\boxed{1}, \\boxed{2}$", "1, 2", "boxes", "neighbours joined by a comma are one list"),
    ("$\\boxed{42}$\n\n$\\boxed{42}$", "42", "box", "the same box twice is one answer"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "box", "nested braces"),
    ("\\boxed{\\left\\{1,2\\right\\}}", "\\left\\{1,2\\right\\}", "box", "escaped braces do not count"),
    ("\\boxed{\\boxed{42}}", "42", "box", "a box in a box counts once"),
    ("\\fbox{42}", "42", "box", "fbox is a box"),
    ("\\boxed {42}", "42", "box", "a blank before the brace"),
    ("$\\boxed 42$", "42", "box", "a box without braces"),
    ("}}}\\boxed{3}}}", "3", "box", "stray braces around it"),
    ("the answer is 7, in full \\boxed{42}. The answer is 9", "42", "box", "a box wins over a marker"),
    ("it is \\boxed{42", "", "none", "cut inside the box: no answer, not the rest of the text"),
    ("The answer is \\boxed{42", "", "none", "nor what stands behind the marker"),
    ("\\boxed{} so 5", "", "none", "an empty box is no answer, and the 5 is none either"),
    ("boxed in by 3 walls", "3", "number", "the word boxed is no box"),
    ("<think>\\boxed{1}</think>It is \\boxed{2}", "2", "box", "after the thinking"),
    ("<think>\\boxed{1}</think>", "1", "box", "nothing after the thinking: then the thinking"),
    ("<think>so it is \\boxed{42}", "", "none", "thinking that never ended"),
    ("She makes 9 * 2 = 18 dollars.\n#### 18", "18", "marker", "the mark of GSM8K"),
    ("The final answer is $\\frac{3}{7}$. I hope it is correct.", "\\frac{3}{7}", "marker", "the phrase of Minerva"),
    ("So the answer is (B).", "(B)", "marker", "a letter behind a marker"),
    ("Answer: D", "D", "marker", "a label"),
    ("**Answer:** 12", "12", "marker", "a label in bold type"),
    ("**Final Answer**\n\n$x = 5$", "x = 5", "marker", "the answer on a later line"),
    ("The answer is 42 apples in all.", "42", "marker", "words behind the number are not the answer"),
    ("The answer is 3.5.", "3.5", "marker", "a decimal point does not end the sentence"),
    ("The answer is 3 and 4.", "3 and 4", "marker", "and is part of the answer"),
    ("所以答案是42", "42", "marker", "a marker in Chinese"),
    ("The answers are $1$ and $2$.", "1 and 2", "marker", "several answers behind a marker"),
    ("The answer is $\\$42$.", "\\$42", "marker", "a dollar sign inside a formula"),
    ("The answer is C because A and B fail.", "C", "marker", "a letter and its reason"),
    ("Hence $x=\\boxed{3}$ and $y=\\boxed{4}$.", "3, 4", "boxes", "names between neighbouring boxes"),
    ("We need $42$ and $43$.", "42, 43", "math", "lenient: neighbouring formulas are one list, not the last one alone"),
    ("Question answered: none of 5", "5", "number", "answered is no marker"),
    ("hence $x = 5$ and we are done", "x = 5", "math", "lenient: the last formula"),
    ("So 6 times 7 gives 42", "42", "number", "lenient: the last number"),
    ("about 1,234 in all", "1,234", "number", "with its thousands mark"),
    ("see AZYUK2A", "", "none", "a digit in a word is no number"),
    ("<answer>\\frac{1}{2}</answer>", "\\frac{1}{2}", "marker", "answer tags"),
    (
        "<think>\\boxed{1}</think><answer>It is \\boxed{2}.</answer> or \\boxed{3}",
        "2",
        "box",
        "only what is in the tag",
    ),
    ("<answer>The answer is 42</answer>", "42", "marker", "a marker in the tag"),
    ("The correct option is (B)", "(B)", "marker", "the correct option"),
    ("故选：B", "B", "marker", "a choice in Chinese"),
    ("The answer is clearly 5.", "5", "marker", "an adverb in front of the number"),
    ("The answer is yes, because 2>1.", "yes", "marker", "a word and its reason"),
    ("(1,2)", "(1,2)", "whole", "lenient: nothing but an answer"),
    ("**B**", "B", "whole", "lenient: nothing but a letter"),
    ("$-42$", "-42", "whole", "lenient: nothing but a formula"),
    ("so boxed{42}", "42", "box", "a box that lost its backslash"),
    ("so \boxed{42}", "42", "box", "a box whose backslash was read as an escape"),
    ("No idea.", "", "none", "nothing to find"),
    ("", "", "none", "nothing at all"),
]


@pytest.mark.parametrize(("text", "answer", "method", "why"), CASES, ids=[c[3] for c in CASES])
def test_final_answer_is_found(text, answer, method, why):
    found = extract(text)
    assert (found.answer, found.method) == (answer, method)
    assert bool(found.reason) == (method == "none")


@pytest.mark.parametrize("text", ["So 6 times 7 gives 42", "hence $x = 5$ and we are done", "42"])
def test_strict_mode_takes_boxes_and_markers_only(text):
    assert extract(text).answer
    assert extract(text, "strict").answer == ""
    assert extract("The answer is 42.", "strict").answer == "42"


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 30_000,
        "answer is " * 20_000,
        "answer: " * 20_000 + "$x$",
        "{" * 100_000 + "\\boxed{3}",
        "\\boxed{" + " " * 100_000 + "}",
        "= " * 50_000,
        "$" * 50_000,
        "\\[" * 30_000,
        "-" * 100_000 + "5",
        "1," * 50_000,
        "<answer>" * 20_000,
        "<answer>" + "x" * 100_000 + "</answer>",
        "so because " * 20_000,
    ],
    ids=lambda text: text[:8],
)
def test_hostile_texts_are_scanned_in_linear_time(text):
    start = time.monotonic()
    extract(text)
    assert time.monotonic() - start < 10


def test_last_box_reads_the_gold_of_a_solution():
    assert last_box("We get $x=\\boxed{1}$ and so $\\boxed{\\frac{a}{b}}$.") == "\\frac{a}{b}"
    assert last_box("no box") is None
