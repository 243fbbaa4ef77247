"""Finding the final answer in a model's text. Linear scans only: a text can be built to make a clever regex run for
hours.
"""

import re
from dataclasses import dataclass

TAIL = 20_000  # characters of a text that are looked at, from its end
MAX_SPANS = 64  # boxes and markers that are looked at, from the end
MAX_NESTED_BOXES = 5
MAX_WHOLE = 80  # characters of a text that is nothing but an answer
MAX_GAP = 60  # characters between two boxes that can belong to one list

# The second form lost its backslash, the third had it read as an escape by somebody's JSON.
_BOX = re.compile(r"\\(?:[bB]oxed|fbox|framebox)(?![a-zA-Z])[ \t\n]{0,16}|(?<![a-zA-Z\\])boxed(?=\{)|\x08oxed(?=\{)")
_BARE_BOX = re.compile(r"-?(?:\\[a-zA-Z]{1,20}|[0-9A-Za-z.]{1,40})")
_GAP = re.compile(
    r"(?:[\s$,;&.]|\\(?:quad|qquad|,|;|:|!|\\|\[|\]|\(|\)| )|\\(?:text|mathrm|mbox)\{|\}|\b(?:and|or)\b"
    r"|\b[a-zA-Z](?:_\w)?\s{0,2}=){0,60}"
)
_MARKER = re.compile(
    r"(?:final\s{1,4}answer\s{1,4}is|answers?\s{1,4}(?:is|are)|(?<![a-z])answer\s{0,4}\**\s{0,4}[:：=]\**"
    r"|final\s{1,4}answer\**(?=\s{0,4}\n)|correct\s{1,4}(?:option|choice)\s{1,4}is|####|答案\s{0,4}[是为：:]|故选\s{0,4}[：:]?)",
    re.IGNORECASE,
)
_ANSWER_TAG = re.compile(r"<answer>((?:(?!</?answer>).){1,4000})</answer>", re.DOTALL)
_ADVERBS = r"clearly|therefore|simply|probably|likely|thus|then|just|indeed|exactly|given by|equal to"
_HEDGE = re.compile(rf"(?:(?:{_ADVERBS})\s{{1,4}})+(?=[\d$\\(-])")
_REASON = re.compile(r",?\s{1,4}(?:because|since)\s")
_COPULA = re.compile(r"(?=\w{2})(?:[^\n]{0,400}\s)?(?:is|are|equals)\s{1,4}((?:\$|\\[(\[]|-?\d).*)")
_END_OF_TURN = re.compile(r"</s>|<\|(?:im_end|im_start|endoftext|eot_id|end_of_text)\|>")
_PROSE = re.compile(r"(?<!\\)[^\W\d_]{2,}\s+\S")
_INSIDE = r"(?:[^$\\]|\\[^\n]){1,2000}"  # \$ does not end a formula
_MATH = re.compile(
    rf"(?<!\\)\$\$({_INSIDE})\$\$|(?<!\\)\$({_INSIDE})\$|"
    r"\\\[([^\n]{1,2000}?)\\\]|\\\(([^\n]{1,2000}?)\\\)"
)
_NUMBER = re.compile(r"(?<![a-zA-Z_])[-−]?(?:\d{1,3}(?:,\d{3})+|\d{1,400})?(?:\.\d{1,400})?(?:/\d{1,400})?%?")
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。\n]")
_NUMBER_THEN_WORDS = re.compile(
    r"(\\?\$?-?\d[\d,]{0,40}(?:\.\d{1,40})?(?:/\d{1,40})?\\?%?)\s+(?!and\b|or\b|x\s*10\b)[a-zA-Z(]"
)
# 5 hours and 30 minutes; 42 (or 43)
_TWO_NUMBERS = re.compile(r"-?\d[^.\n]{0,60}\b(?:and|or|maybe|perhaps|possibly|could|might)\b[^.\n]{0,40}\d")
_LETTER_THEN_WORDS = re.compile(r"\(?([A-J])\)?[.,:]?\s+(?:because|since|as)\b")


@dataclass(frozen=True)
class Extraction:
    """answer: "" when there is none, with the reason. method: box, boxes, marker, whole, math, number or none."""

    answer: str
    method: str
    reason: str = ""


def extract(text: str, mode: str = "lenient") -> Extraction:
    """The final answer of a model's text.

    The last closed \\boxed{} (or neighbouring boxes as one list), else what follows the last "answer is", "Answer:" or
    "####", else, only in ``lenient`` mode, a text that is nothing but an answer, the last formula, or the last number.
    Where there is an <answer> tag, only what is in the last one counts.
    """
    body, unfinished = _cut(text)
    if unfinished:
        return Extraction("", "none", "unfinished thinking")
    tag = _answer_tag(body)
    body = tag or body
    boxes, unclosed = find_boxes(body)
    if boxes:
        return _join(body, boxes)
    if unclosed:
        return Extraction("", "none", "box never closed")
    if answer := _after_marker(body):
        return Extraction(answer, "marker")
    if tag:
        return Extraction(_without_dollars(body), "marker")
    if mode == "lenient":
        if answer := _whole(body):
            return Extraction(answer, "whole")
        answer, end = _last_math(body)
        if answer and not _later_sentence_counts(body[end:]):
            return Extraction(answer, "math")
        if answer := _last_number(body):
            return Extraction(answer, "number")
    return Extraction("", "none", "no box and no marker" if mode == "strict" else "no box, marker, formula or number")


def last_box(text: str) -> str | None:
    """The content of the last closed \\boxed or \\fbox of a solution, or None."""
    boxes, _ = find_boxes(text)
    return _unwrap(text[boxes[-1][1] : boxes[-1][2]]) if boxes else None


def find_boxes(text: str) -> tuple[list[tuple[int, int, int, int]], bool]:
    """([(start, content start, content end, end)] of the outermost boxes, whether one never closes)."""
    closes = _matching_braces(text)
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


def _cut(text: str) -> tuple[str, bool]:
    """(the part after the reasoning block, whether that block never ended)."""
    before, mark, after = text.rpartition("</think>")
    if mark:
        text = after if after.strip() else before
    elif "<think>" in text:
        return "", True
    turns = [turn for turn in _END_OF_TURN.split(text) if turn.strip()]
    return (turns[0] if turns else "")[-TAIL:], False


def _answer_tag(text: str) -> str:
    found = _ANSWER_TAG.findall(text)
    return found[-1].strip() if found else ""


def _whole(text: str) -> str:
    """A short text without prose: "B", "(1, 2)", "x = 5", "Yes"."""
    text = text.strip()
    if not 0 < len(text) <= MAX_WHOLE or "\n" in text or _PROSE.search(text):
        return ""
    answer = _without_dollars(text.strip("*"))
    return answer if any(c.isalnum() for c in answer) else ""


def _without_dollars(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip() if text[:1] == text[-1:] == "$" and text.count("$") == 2 else text


def _matching_braces(text: str) -> dict[int, int]:
    """Position of each "{" -> position of its "}"; a backslash takes the next character with it."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            closes[stack.pop()] = match.start()
    return closes


def _unwrap(content: str) -> str:
    """A box in a box counts once."""
    content = content.strip()
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


def _after_marker(text: str) -> str:
    markers = list(_MARKER.finditer(text))[-MAX_SPANS:]
    for match in reversed(markers):
        rest = text[match.end() : match.end() + 2000].split(". I hope")[0]
        lines = [line.strip(" \t*:：") for line in rest.split("\n") if line.strip()]
        content = next((line for line in lines[:3] if line.strip("$ \\[]()")), "")
        if answer := _first_statement(content):
            return answer
    return ""


def _first_statement(line: str) -> str:
    """What a line says after "the answer is": its formula, or its first sentence without the words after a number."""
    line = _HEDGE.sub("", line, count=1)
    if (reason := _REASON.search(line)) and "$" not in line[reason.start() :]:
        line = line[: reason.start()]
    if copula := _COPULA.match(line):  # Final Answer: The largest $n$ is 34.
        line = copula[1]
    spans = [m.group().strip("$") for m in _MATH.finditer(line)]
    if len(spans) == 1:
        return spans[0].strip()
    if spans:
        return line.replace("$", "").rstrip(". ")
    if end := _SENTENCE_END.search(line):
        line = line[: end.start()]
    numbers = _numbers(line)
    if len(numbers) == 1 and len(line.split()) > 3 and _PROSE.match(line):
        return numbers[0]  # Jane started 3 hours ago
    if _TWO_NUMBERS.match(line):
        return line.strip(" *$.")
    if found := _NUMBER_THEN_WORDS.match(line) or _LETTER_THEN_WORDS.match(line):
        return found.group(1)
    return line.strip(" *$.")


def _later_sentence_counts(rest: str) -> bool:
    """Whether a sentence of its own after the last formula has a number: that is the answer then."""
    end = re.match(r"\s*(?=[A-Z][a-z])", rest) or _SENTENCE_END.search(rest)
    return end is not None and bool(_last_number(rest[end.end() :]))


def _last_math(text: str) -> tuple[str, int]:
    """(the last formula, or the last ones as a list where only "and" or a comma is between them; where it ends)."""
    spans = list(_MATH.finditer(text))
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
    return next(reversed(_numbers(text[-2000:])), "")


def _numbers(text: str) -> list[str]:
    return [m.group() for m in _NUMBER.finditer(text) if any(c.isdigit() for c in m.group())]
