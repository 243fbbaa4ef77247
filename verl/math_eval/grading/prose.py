"""What a sentence says the answer is: amounts of money, bold type, units, calculations in words, choice letters.

Where a calculation stands, its result is read, or nothing: "40 dollars / 2 = 20 dollars" says 20, and "7 more than 5"
says no number at all. Linear scans only, like everything in ``extraction``.
"""

import re

from verl.math_eval.grading.rules.quantities import compound, known_unit
from verl.math_eval.grading.rules.words import number_word, spelt_operations

MAX_SENTENCE = 600  # characters of a sentence that are read

_AMOUNT = re.compile(r"\s?\d[\d,]{0,30}(?:\.\d{1,20})?")
_OPERATOR_END = re.compile(r"(?:^|[-+*/=(,:;−–×÷<>≈]|\s)$")
_FORMULA_OF_WORDS = re.compile(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}\b(?!\s*[({])")
_BOLD = re.compile(r"(?<![\w)*\\^}])(\*{2,3}|__)(?=[^\s*_])([^\n*]{1,400}?)(?<=[^\s*_])\1(?!\d)")
_HALF_BOLD = re.compile(r"(?:(?<=[\w)%°.!?:])|^)\*{2,3}(?![\w(*-])|(?<!\S)\*{2,3}(?=\S)")
_CODE = re.compile(r"`([^`\n]{1,200})`")

_ADVERBS = (
    r"clearly|therefore|simply|probably|likely|thus|then|just|indeed|exactly|given by|equal to|definitely|actually|"
    r"obviously|precisely|approximately|about|around|roughly|certainly|still|also|now|hence|only|option|choice|"
    r"found to be|therefore|surely|really|always|naturally|evidently"
)
_HEDGE = re.compile(rf"(?:(?:{_ADVERBS})[,:]?\s{{1,4}})+(?=[\d$\\(A-J-])", re.IGNORECASE)
_REASON = re.compile(r",?\s{1,4}(?:because|since)\s")
_COPULA = re.compile(r"(?=\w{2})(?:[^\n]{0,400}\s)?(?:is|are|equals)\s{1,4}((?:\$|\\[(\[$]|-?\d).*)")
_NO_END = r"(?<!\bRs)(?<!\bi\.e)(?<!\be\.g)(?<!\.e)(?<!\.g)(?<!\bapprox)(?<!\bsq)(?<!\bft)(?<!\bcu)(?<!\bno)(?<!\bvs)"
SENTENCE_END = re.compile(rf"{_NO_END}\.(?=\s|$)|[。\n]|[!?](?=\s+[A-Z]|$)")
_INSIDE = r"(?:[^$\\]|\\[^\n]){1,2000}"  # \$ does not end a formula
MATH = re.compile(
    rf"(?<!\\)\$\$({_INSIDE})\$\$|(?<!\\)\$({_INSIDE})\$|"
    r"\\\[([^\n]{1,2000}?)\\\]|\\\(([^\n]{1,2000}?)\\\)"
)
NUMBER = re.compile(r"(?<![a-zA-Z_])[-−]?(?:\d{1,3}(?:,\d{3})+|\d{1,400})?(?:\.\d{1,400})?(?:/\d{1,400})?%?")

_CURRENCY = r"(?:(?:US|C|A|HK|NT)?\\\$|[€£¥₹]|(?:USD|EUR|GBP|INR|Rs\.?)(?=\s*\d))"
_LEADING = re.compile(
    rf"(?:(?:the|a|an)\s+)?(?P<number>{_CURRENCY}?\s?[-−+]?\d[\d,]{{0,60}}(?:\.\d{{1,60}})?(?:\s\d{{1,9}}/\d{{1,9}}|/\d{{1,60}})?"
    r"(?:st|nd|rd|th)?(?![\w.]*\d))\s*(?P<sign>\\?%|°|\^\\circ)?"
)
_AND_THAT_IS = re.compile(
    r"\s*[,;(–—-]?\s*(?<![a-zA-Z])(?:i\.\s?e\.|that is|which (?:is|equals|makes|gives|comes to|means|amounts to)|"
    r"or equivalently|equivalently|giving|making|in other words|for a total of|(?<=,\s)so)(?![a-zA-Z])[,:]?\s*"
)
_EQUALS = re.compile(r"\s*(?:(?<![<>!:=])=(?!=)|\b(?:equals|is equal to)\b)\s*")
_OPERATOR = re.compile(r"\s[x×·*]\s*[\d$\\(]|[×÷*/+^!]|[-−–]\s*[\d$\\(]|\\(?:times|cdot|div|frac|sqrt|pi)")
_OPERATION = re.compile(
    r"\b(?:than|times|plus|minus|divided|multiplied|over|squared|cubed|factorial|choose|modulo|mod|power|of|less|"
    r"added|subtracted|pi|into|by|to|through|twice|double|half|triple|sum|product|difference|quotient|remainder)\b"
)
_NEGATION = re.compile(r"\b(?:not|cannot|never|neither|nor)\b|n['’]t\b", re.IGNORECASE)
_LISTED = re.compile(r"[^.\n]{0,60}?(?:\b(?:and|or|maybe|perhaps|possibly|could|might)\b|,)[^.\n]{0,40}\d")
_NOT_THAT = re.compile(r"(?<=\S)[,;]?\s+(?:and\s+)?(?:not|rather than|instead of|as opposed to)\s")
_POWER_OF_TEN = re.compile(r"x(?=\s*10\s*\^)")
_RATIO = re.compile(r"(?:out of|to|in|:)\s*\d[\d,]*(?:\.\d+)?\s*$")
_CIRCUMSTANCE = re.compile(
    r"[(]?[a-zA-Z][a-zA-Z'-]*(?:\s+[a-zA-Z'-]+){0,4}?,?\s+(?:for|in|within|after|per|every|each|from|at|on|when|if|among|with)\b"
)
_SCALE = re.compile(r"(?:and a (?:half|quarter|third)|hundred|thousand|million|billion|trillion|dozens?)\b")
_PERCENT = re.compile(r"(?:percent|per cent|percentage points?)\b")
_PART = re.compile(
    r"(?:halves|half|thirds?|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?)\b(?!\s+of)"
)
_LETTER = re.compile(
    r"(?:(?:option|choice|answer|选项)\s*)?(?:\((?P<a>[A-J])\)|(?P<b>[A-J])\)|\[(?P<c>[A-J])\]|(?P<d>[A-J])(?![\w'’({^_]))"
    r"(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_MORE_LETTERS = re.compile(r"\s*(?:,|and|or|&|/|、|和|或)?\s*(?:and|or)?\s*\(?[A-J]\)?(?![\w'’])")
_AFTER_LETTER = re.compile(r"\s*[.,:;–—)]\s*|\s+[-]\s+(?=[a-zA-Z$\\])|\s+(?=\()")
_LETTER_ENDS = re.compile(r"\s*(?:$|[.!。✅✓]|(?:because|since|as|is|and we|and so|by|from|which)\b)")
_BEFORE_LETTER = (
    r"\b(?:option|choice|alternative|statement|letter)\s{1,3}|选项?\s{0,3}|答案选\s{0,3}|应选\s{0,3}|故选\s{0,3}"
    r"|\b(?:must|should|would|has to|have to)\s(?:therefore\s)?be\s{1,3}(?:option\s|choice\s)?"
    r"|\b(?:choose|pick|selects?|choosing)\s{1,3}(?:option\s|choice\s)?"
    r"|\b(?:answer|option|choice)\s(?:is|was)\s{1,3}(?:therefore\s)?"
)
_AFTER_THE_LETTER = (
    r"\s{1,3}(?:is|was|must be|would be|seems|looks)\s{1,3}(?:the\s{1,3})?(?:only\s{1,3}|best\s{1,3})?"
    r"(?:correct|right|true|answer|valid|best|one)\b"
)
_CHOSEN = re.compile(
    rf"(?P<not>\bnot\s+|n['’]t\s+)?(?:(?:{_BEFORE_LETTER})[(（\[]?(?P<a>[A-J])[)）\]]?(?![\w'’])"
    rf"|(?<![\w(\[])[(\[]?(?P<b>[A-J])[)\]]?(?={_AFTER_THE_LETTER}))"
)
_REJECTED = re.compile(
    r"\s{0,3}(?:is|are|was|can|could|would|does|do|will|cannot|has been|seems|looks|and\s\w+\sare)?\s{0,3}"
    r"(?:not|n['’]t|cannot|wrong|incorrect|false|eliminated|excluded|ruled out|impossible|invalid|fails?|out\b)"
)
_NAMED_VALUES = re.compile(
    r"(?<![\w\\])(?:[a-zA-Z](?:_\{?\w\}?)?\s?=\s?[-−]?[\d./]+(?:\s*,?\s*(?:and|or|,)\s*)?){2,8}(?=[\s.]*$)"
)
_WORD = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]{2,}")
_MATH_WORDS = frozenset(
    [
        "and",
        "or",
        "in",
        "sin",
        "cos",
        "tan",
        "log",
        "ln",
        "exp",
        "sqrt",
        "pi",
        "mod",
        "min",
        "max",
        "gcd",
        "lcm",
        "cot",
        "sec",
        "csc",
        "cup",
        "cap",
        "infty",
    ]
)


def plain(text: str) -> str:
    """Without bold and code marks, and with \\$ for every dollar sign that is money and no mark of a formula."""
    text = _CODE.sub(r"\1", text) if "`" in text else text
    if "**" in text or "__" in text:
        text = _HALF_BOLD.sub("", _BOLD.sub(r"\2", text))
    return "\n".join(_with_money(line) for line in text.split("\n")) if "$" in text else text


def _with_money(line: str) -> str:
    """The dollar signs of a line from left to right: each opens a formula that reads as one, or stands before money."""
    out: list[str] = []
    position = 0
    while (start := line.find("$", position)) >= 0:
        out.append(line[position:start])
        if start and line[start - 1] == "\\":
            out.append("$")
            position = start + 1
            continue
        width = 2 if line.startswith("$$", start) else 1
        close = _closing(line, start + width)
        amount = _AMOUNT.match(line, start + 1)
        if width == 1 and amount and (close < 0 or not _is_formula(line, start + 1, close)):
            out.append("\\$")
            position = start + 1
        elif close < 0:
            out.append(line[start:])
            return "".join(out)
        else:
            out.append(line[start : close + width])
            position = close + width
    out.append(line[position:])
    return "".join(out)


def _closing(line: str, start: int) -> int:
    """Where the next dollar sign without a backslash is; -1 for none."""
    while (found := line.find("$", start)) > 0 and line[found - 1] == "\\":
        start = found + 1
    return found


def _is_formula(line: str, start: int, close: int) -> bool:
    """Whether what stands between two dollar signs, and begins with a number, is a formula and no prose about money."""
    inside = line[start:close]
    after = line[close + 1 : close + 2]
    return not (_OPERATOR_END.search(inside) or after.isdigit() or _FORMULA_OF_WORDS.search(inside))


def numbers(text: str) -> list[str]:
    """The numbers in a text, as they are written."""
    return [m.group() for m in NUMBER.finditer(text) if any(c.isdigit() for c in m.group())]


def is_bare(text: str) -> bool:
    """Whether there are only formulas in a text, no prose."""
    without = re.sub(r"\\(?:text|mathrm|operatorname|textbf)\s?\{[^{}]{0,80}\}|\\[a-zA-Z]+", " ", text)
    return all(word.casefold() in _MATH_WORDS for word in _WORD.findall(without))


def statement(line: str) -> str:
    """What a line says after "the answer is": its formula, its choice, or its first sentence without the words after a
    number. "" for a calculation without a result, and for what the answer is not.
    """
    line = _HEDGE.sub("", line, count=1)
    if (reason := _REASON.search(line)) and "$" not in line[reason.start() :].replace("\\$", ""):
        line = line[: reason.start()]
    if (copula := _COPULA.match(line)) and not _LEADING.match(line):  # Final Answer: The largest $n$ is 34.
        line = copula[1]
    spans = list(MATH.finditer(line))
    if len(spans) == 1:
        formula = next(group for group in spans[0].groups() if group)
        if not re.fullmatch(r"\s*[-\d.,]+\s*(?:\\?%)?\s*", formula):
            return formula.strip()
        line = line[: spans[0].start()] + formula.strip() + line[spans[0].end() :]
    elif spans:
        line = MATH.sub(lambda m: next(group for group in m.groups() if group), line)
        if is_bare(line) or not _LEADING.match(line):
            return line.rstrip(". ")
    if end := SENTENCE_END.search(line):
        line = line[: end.start()]
    return said(line[:MAX_SENTENCE])


def said(sentence: str) -> str:
    """The answer in a sentence without formulas that begins with it."""
    sentence = _NOT_THAT.split(sentence, maxsplit=1)[0].strip(" *.,;:!✅✓")
    if _NEGATION.match(sentence) and re.search(r"\d|\b[A-J]\b", sentence):
        return ""
    if letter := _choice(sentence):
        return letter
    parts = _AND_THAT_IS.split(sentence)
    for part in parts:
        if (found := _quantity(part)) is not None and found:
            return found
    if any(_quantity(part) is not None for part in parts):
        return ""
    found_numbers = numbers(sentence)
    if len(found_numbers) == 1 and len(sentence.split()) > 3 and _WORD.match(sentence):
        return "" if _OPERATION.search(sentence) or _NEGATION.search(sentence) else found_numbers[0]
    return sentence.strip(" *$")


def _choice(sentence: str) -> str:
    """B of "B.", "(B) 12 apples" with its text; "" for what is no choice, and for several letters."""
    match = _LETTER.match(sentence)
    letter = match and (match["a"] or match["b"] or match["c"] or match["d"])
    if match is None or letter is None or not letter.isupper() or _MORE_LETTERS.match(match["rest"]):
        return ""
    rest = match["rest"]
    bracketed = match["d"] is None
    if _LETTER_ENDS.match(rest):
        return f"({letter})" if match["a"] else letter
    after = _AFTER_LETTER.match(rest)
    if after or bracketed:
        text = rest[after.end() if after else 0 :].strip()
        return f"({letter}) {text}" if text else letter
    return ""


def _quantity(part: str) -> str | None:
    """The answer in a phrase that begins with a number or ends in the result of a calculation: "" when it is a
    calculation without a result; None when the phrase is of another kind.
    """
    part = part.strip(" *,;.)✅✓") if part.count("(") < part.count(")") else part.strip(" *,;.✅✓")
    part = _POWER_OF_TEN.sub("\\\\times", part)
    members = _EQUALS.split(part)
    if len(members) > 1 and any(c.isdigit() for c in members[0]):
        if is_bare(part) and "%" not in part and not re.search(r"\d\s+x\s+\d|\\\$", part):
            return part  # compare sees whether its sides agree
        return _quantity(members[-1]) or ""
    match = _LEADING.match(part)
    if match is None:
        return None
    number, sign, rest = match["number"].strip(), match["sign"] or "", part[match.end() :].strip()
    number = re.sub(r"(?:st|nd|rd|th)$", "", number) + sign
    if not any(c.isalnum() for c in rest) and not _OPERATOR.search(" " + rest):
        return number
    if is_bare(rest) and not _OPERATOR.search(" " + rest) and not re.match(r"[a-zA-Z(\[]|\\[a-zA-Z]", rest):
        return part  # 3, 4
    return _with_rest(part, number, rest)


def _with_rest(part: str, number: str, rest: str) -> str:
    """A number and what follows it: the number with a unit, a calculation, or several numbers."""
    spelt = spelt_operations(part)
    if spelt != part:
        return spelt if is_bare(spelt) else ""
    if is_bare(part) and not re.search(r"\s[xX]\s", part):
        return part  # a formula: 5x + 3
    if compound(part) is not None or _RATIO.match(rest):
        return part
    if _OPERATOR.search(" " + rest.split(" (")[0]) and not known_unit(rest):
        return ""
    if _SCALE.match(rest) or _PART.match(rest):
        return part if not any(c.isdigit() for c in rest) and " of " not in f"{rest} " else ""
    counted = [word for word in re.findall(r"[a-z]+", rest) if number_word(word) is not None]
    if any(c.isdigit() for c in rest) or counted:
        if re.match(r"\(|,?\s*\(", rest) and not re.search(r"\bor\b", rest):
            return number if re.fullmatch(r"\([^()]*\)", rest) else ""
        if _OPERATION.search(rest):
            return ""
        if _LISTED.match(rest):
            return part
        return number if _CIRCUMSTANCE.match(rest) else ""
    if _PERCENT.match(rest):
        return f"{number}%"
    return f"{number} {rest}" if known_unit(rest) else number


def last_choice(text: str) -> str:
    """The letter that the last sentences choose: "So option B is correct", "(B) must be right"; "" for none."""
    letter = ""
    for match in _CHOSEN.finditer(text[-500:]):
        rejected = match["not"] or (match["a"] and _REJECTED.match(text[-500:], match.end()))
        letter = "" if rejected else (match["a"] or match["b"])
    return letter


def last_result(text: str) -> str:
    """What the last sentence calculates: 9 of "180 / 20 per week = 9 weeks", x = 5 or x = -3; "" for none."""
    sentence = last_sentence(text)
    if values := _NAMED_VALUES.search(sentence):
        return values.group().strip()
    members = _EQUALS.split(sentence)
    return (_quantity(members[-1]) or "") if len(members) > 1 else ""


def last_sentence(text: str) -> str:
    """The last sentence with a letter or a digit, at most 600 characters of it."""
    text = text[-MAX_SENTENCE:].rstrip(" \n\t.!。*")
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[ends[-1] if ends else 0 :].strip()


def denies(sentence: str) -> bool:
    """Whether a sentence says what the answer is not: cannot be 5."""
    return bool(re.search(r"(?:\b(?:cannot|not|never)|n['’]t)\s+(?:\w+\s+){0,3}(?:be|equal|is)?\s*[-\d$\\]", sentence))
