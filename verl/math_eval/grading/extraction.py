"""Finding the final answer in a model's text. Linear scans only: a text can be built to make a clever regex run for
hours.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from verl.math_eval.grading import prose
from verl.math_eval.grading.brackets import matching_braces
from verl.math_eval.grading.prose import MATH, SENTENCE_END

TAIL = 20_000  # characters of a text that are looked at, from its end
MAX_SPANS = 64  # boxes and markers that are looked at, from the end
MAX_NESTED_BOXES = 5
MAX_TAGGED = 4_000  # characters between answer tags
MAX_WHOLE = 80  # characters of a text that is nothing but an answer
MAX_GAP = 60  # characters between two boxes that can belong to one list

# The second form lost its backslash, the third had it read as an escape by somebody's JSON.
_BOX = re.compile(r"\\(?:[bB]oxed|fbox|framebox)(?![a-zA-Z])[ \t\n]{0,16}|(?<![a-zA-Z\\])boxed(?=\{)|\x08oxed(?=\{)")
_COMMENT = re.compile(r"(?<!\\)%[^\n]{0,200}\n")
_BARE_BOX = re.compile(r"-?(?:\\[a-zA-Z]{1,20}|[0-9A-Za-z.]{1,40})")
_GAP = re.compile(
    r"(?:[\s$,;&.，；、。和或与及]|\\(?:quad|qquad|,|;|:|!|\\|\[|\]|\(|\)| )|\\(?:text|mathrm|mbox)\{|\}|\b(?:and|or)\b"
    r"|[(（]?\d[)）]\s?|\d\.\s|[(（][a-z ]{2,16}[)）]"
    r"|\b[a-zA-Z](?:_\w)?\s{0,2}=){0,60}"
)
_MARKER = re.compile(
    r"(?:final\s{1,4}answer\s{1,4}is|answers?\s{1,4}(?:is|are|must\s{1,4}be|should\s{1,4}be|would\s{1,4}be|will\s{1,4}be)(?![a-z])"
    r"|(?<![a-z])(?:answer|antwort|respuesta|réponse|reponse|risposta|resposta|ответ|답|정답)\s{0,4}\**\s{0,4}[:：=]\**"
    r"|(?<![a-z])ans\s{0,2}[.:=]"
    r"|final\s{1,4}answer\**(?=\s{0,4}\n)|correct\s{1,4}(?:option|choice|answer)\s{0,4}(?:is|:)(?!\w)|####|答案\s{0,4}[是为：:选]|故选\s{0,4}[：:]?)",
    re.IGNORECASE,
)
_TAGS = (
    ("<answer>", "</answer>"),
    ("<solution>", "</solution>"),
    ("<final_answer>", "</final_answer>"),
    ("<|begin_of_box|>", "<|end_of_box|>"),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
)
# (start, end) of a chain of thought, as the models' own templates and papers write it.
THINKING = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel|>analysis", "<|channel|>final<|message|>"),
)
_END_OF_TURN = re.compile(
    r"</s>|<\|(?:im_end|im_start|endoftext|eot_id|eot|end_of_text|return|call|end|eom_id|endofturn|end_of_turn"
    r"|START_OF_TURN_TOKEN|END_OF_TURN_TOKEN)\|>|<end_of_turn>|<eos>|<｜end▁of▁sentence｜>"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_PROSE = re.compile(r"(?<!\\)[^\W\d_]{2,}\s+\S")


@dataclass(frozen=True)
class Extraction:
    """answer: "" when there is none, with the reason. method: box, boxes, marker, whole, math, number or none."""

    answer: str
    method: str
    reason: str = ""


def extract(
    text: str, mode: str = "lenient", first_marker: bool = False, end_of_thinking: Sequence[str] = ()
) -> Extraction:
    """The final answer of a model's text.

    The last closed \\boxed{} (or neighbouring boxes as one list), else what follows the last "answer is", "Answer:" or
    "####", else, only in ``lenient`` mode, a text or a last line that is nothing but an answer, the last chosen letter,
    the last formula, the result of the last sentence, or its last number. Where there is an <answer> tag or its like,
    only what is in the last one counts.

    first_marker: the text ends with the line of its first answer, for base models that go on with a next problem.
    end_of_thinking: marks that end a chain of thought, beside the known ones; a text without any of them is an
        unfinished thought.
    """
    body, unfinished = _cut(text, end_of_thinking)
    if unfinished:
        return Extraction("", "none", "unfinished thinking")
    if first_marker:
        body = _up_to_first_answer(body)
    tag = _answer_tag(body)
    body = tag or body
    boxes, unclosed = find_boxes(body)
    if boxes:
        return _join(body, boxes)
    if unclosed:
        return Extraction("", "none", "box never closed")
    body = prose.plain(body)
    answer = _after_marker(body)
    if answer is not None:
        return Extraction(answer, "marker", "" if answer else "a calculation or a denial after the marker, no result")
    if tag:
        return Extraction(_without_dollars(body), "marker")
    if mode == "lenient":
        return _without_marker(body)
    return Extraction("", "none", "no box and no marker")


def _without_marker(body: str) -> Extraction:
    """What a text says that announces no answer."""
    sentence = prose.last_sentence(body)
    if answer := prose.last_choice(sentence):
        return Extraction(answer, "choice")
    if answer := _whole(body) or _whole(_last_line(body)):
        return Extraction(answer, "whole")
    formula, end = _last_math(body)
    if formula and not _later_sentence_counts(body[end:]):
        return Extraction(formula, "math")
    if prose.denies(sentence):
        return Extraction("", "none", "the last sentence says what the answer is not")
    if answer := prose.last_result(body):
        return Extraction(answer, "result")
    if answer := _last_number(body):
        return Extraction(answer, "number")
    return Extraction("", "none", "no box, marker, formula or number")


def _up_to_first_answer(text: str) -> str:
    """The text to the end of the line of its first box or answered marker; all of it when there is none."""
    boxes, _ = find_boxes(text)
    ends = [boxes[0][3]] if boxes and boxes[0][0] == min(box[0] for box in boxes) else []
    for match in _MARKER.finditer(text):
        content = re.compile(r"[ \t*:：]{0,8}\n?[ \t*]{0,4}[^\s*:：]").match(text, match.end())
        if content:
            ends.append(content.end())
            break
    if not ends:
        return text
    line_end = text.find("\n", min(ends))
    return text if line_end < 0 else text[:line_end]


def _last_line(text: str) -> str:
    lines = text.rstrip().rsplit("\n", 1)
    return lines[-1].strip() if len(lines) > 1 else ""


def last_box(text: str) -> str | None:
    """The content of the last closed \\boxed or \\fbox of a solution, or None."""
    boxes, _ = find_boxes(text)
    return _unwrap(text[boxes[-1][1] : boxes[-1][2]]) if boxes else None


def find_boxes(text: str) -> tuple[list[tuple[int, int, int, int]], bool]:
    """([(start, content start, content end, end)] of the outermost boxes, whether one never closes)."""
    closes = matching_braces(text)
    boxes: list[tuple[int, int, int, int]] = []
    unclosed = False
    for match in _BOX.finditer(text):
        if boxes and match.start() < boxes[-1][3]:
            continue  # inside the box before it
        if match.end() < len(text) and text[match.end()] == "{":
            close = closes.get(match.end())
            if close is None:
                unclosed = True
            else:
                boxes.append((match.start(), match.end() + 1, close, close + 1))
        elif bare := _BARE_BOX.match(text, match.end()):
            boxes.append((match.start(), bare.start(), bare.end(), bare.end()))
    return boxes[-MAX_SPANS:], unclosed


def _cut(text: str, end_of_thinking: Sequence[str] = ()) -> tuple[str, bool]:
    """(the part after the reasoning block, whether that block never ended)."""
    ends = [*end_of_thinking, *(end for _, end in THINKING)]
    position, mark = max(((text.rfind(end), end) for end in ends), default=(-1, ""))
    if position >= 0:
        before, after = text[:position], text[position + len(mark) :]
        text = after if after.strip() else before
    elif end_of_thinking or any(start in text for start, _ in THINKING):
        return "", True
    turns = [turn for turn in _END_OF_TURN.split(text) if turn.strip()]
    return (turns[0] if turns else "")[-TAIL:], False


def _answer_tag(text: str) -> str:
    """What is in the last closed tag of those that hold an answer."""
    found = []
    for start, end in _TAGS:
        close = text.rfind(end)
        opened = text.rfind(start, 0, close) if close > 0 else -1
        if opened >= 0 and 0 < close - opened - len(start) <= MAX_TAGGED:
            found.append((close, text[opened + len(start) : close].strip()))
    return max(found)[1] if found else ""


def _whole(text: str) -> str:
    """A short text without prose: "B", "(1, 2)", "x = 5", "Yes"."""
    text = text.strip()
    if not 0 < len(text) <= MAX_WHOLE or "\n" in text or _PROSE.search(_COMMAND.sub(" ", text)) or not _balanced(text):
        return ""
    if re.search(r"\\\$|[:：]\s*(?![\d\s])|\d\.\s", text):  # money, a label, a numbered line
        return ""
    answer = _without_dollars(text.strip("*"))
    return answer if any(c.isalnum() for c in answer) else ""


def _balanced(text: str) -> bool:
    return text.count("$") % 2 == 0 and text.count("{") == text.count("}")


def _without_dollars(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if text[:1] == text[-1:] == "$" and text.count("$") == 2 else text


def _unwrap(content: str) -> str:
    """A box in a box counts once."""
    content = _COMMENT.sub("", content).strip()
    for _ in range(MAX_NESTED_BOXES):
        inner, _ = find_boxes(content) if "box" in content else ([], False)
        if len(inner) != 1 or inner[0][0] != 0 or inner[0][3] != len(content):
            break
        content = content[inner[0][1] : inner[0][2]].strip()
    return _BOX.sub("", content)


def _join(text: str, boxes: list[tuple[int, int, int, int]]) -> Extraction:
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        gap = text[box[3] : group[0][0]]
        if len(gap) > MAX_GAP or not _GAP.fullmatch(gap):
            break
        group.insert(0, box)
    answers = list(dict.fromkeys(_unwrap(text[start:end]) for _, start, end, _ in group))
    answers = [a for a in answers if a]
    if not answers:
        return Extraction("", "none", "empty box")
    return Extraction(", ".join(answers), "box" if len(answers) == 1 else "boxes")


def _after_marker(text: str) -> str | None:
    """What stands after the last marker: "" when that cannot be read as an answer; None without a marker."""
    markers = list(_MARKER.finditer(text))[-MAX_SPANS:]
    for match in reversed(markers):
        rest = text[match.end() : match.end() + 2000].split(". I hope")[0]
        lines = [line.strip(" \t*:：") for line in rest.split("\n") if line.strip()]
        content = next((line for line in lines[:3] if line.strip("$ \\[]()*.:")), "")
        if content:
            return prose.statement(content)
    return None


def _later_sentence_counts(rest: str) -> bool:
    """Whether a sentence of its own after the last formula has a number: that is the answer then."""
    end = re.match(r"\s*(?=[A-Z][a-z])", rest) or SENTENCE_END.search(rest)
    return end is not None and bool(_last_number(rest[end.end() :]))


def _last_math(text: str) -> tuple[str, int]:
    """(the last formula, or the last ones as a list where only "and" or a comma is between them; where it ends)."""
    spans = list(MATH.finditer(text))
    if not spans:
        return "", 0
    last = spans[-1:]
    for span in reversed(spans[:-1]):
        gap = text[span.end() : last[0].start()]
        if not 0 < len(gap.strip()) <= MAX_GAP or not _GAP.fullmatch(gap) or "." in gap or len(last) > MAX_SPANS:
            break
        last.insert(0, span)
    return ", ".join(next(group for group in span.groups() if group).strip() for span in last), last[-1].end()


def _last_number(text: str) -> str:
    return next(reversed(prose.numbers(text[-2000:])), "")
