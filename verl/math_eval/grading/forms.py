"""What kind of thing a normalized answer is: a choice, words, a name in front of "="."""

import re
from dataclasses import dataclass
from fractions import Fraction

from verl.math_eval.grading.normalize import END, QUOTES, TEXT, names
from verl.math_eval.grading.structure import bracketed, split_relation
from verl.math_eval.grading.values.evaluate import symbols
from verl.math_eval.grading.values.expression import Unreadable, read

_LETTER = re.compile(
    rf"(?:[{TEXT}\s]*(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s)?[{END}{TEXT}(\[\s]*([A-J])[{END})\]\s]*(?:[.:][{END}\s]*)?"
)
_LETTER_AND_VALUE = re.compile(
    rf"{TEXT}?\s*(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?(?:\(\s*([A-J])\s*\)|([A-J])\s*{END}?\s*[.:)])\s*{END}?\s*(\S.*)",
    re.DOTALL,
)
_LETTERS = re.compile(r"[A-J]{2,10}")
_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        names(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        )
    )
} | {word: 10 * tens for tens, word in enumerate(names("thirty forty fifty sixty seventy eighty ninety"), 3)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9}
_PARTS = {
    word: parts for parts, word in enumerate(names("half third quarter fifth sixth seventh eighth ninth tenth"), 2)
} | {"halve": 2, "fourth": 4, "hundredth": 100}
_SYNONYMS = {"dne": "doe not exist", "not possible": "impossible"}  # as ``words`` spells them
_WORDS_FOR_SYMBOLS = {
    **dict.fromkeys(["no solution", "no real solution", "no solution exist", "empty set"], "\\emptyset"),
    **dict.fromkeys(["all real number", "all real"], "\\mathbb{R}"),
    **dict.fromkeys(["infinity", "infinite", "infinitely many", "infinitely many solution"], "\\infty"),
}
_BIG_OPERATOR = re.compile(r"\\(?:lim|sum|prod|int|iint|oint)(?![a-zA-Z])")
_NOT_WORDS = re.compile(r"[\\=<>^_{}+*/|\[\]]")
_WORDS = re.compile(r"[^\W\d_][\w\s.'’:,!?&()-]*")
_SYMBOL = rf"(?:\\?[a-zA-Z]+|\\(?:hat|bar|vec|overline|dot|widehat)\{{[^{{}}]*\}}|{TEXT}[^{END}]*{END})"
_NAME = re.compile(
    rf"(?:m\s*)?(?:\\(?:angle|triangle|Delta)\s*)?{_SYMBOL}(?:\s*(?:_\{{[^{{}}]*\}}|_\\[a-zA-Z]+|'|\^\{{'+\}}|[A-Z]|{TEXT}[^{END}]*{END}))*"
    r"\s*(?:\(\s*[a-zA-Z0-9,\s\\]*\))?|(?:[PE]|\\Pr)\s*[(\[][^()\[\]]*[)\]]|\|\s*[A-Z]{2}\s*\||\[[A-Z]{3,6}\]"
    r"|[A-Z]\s*\^\{(?:-1|T|\\top)\}|[a-zA-Z]\s*\^\{-1\}\s*\([a-z]\)"
)
_SEGMENTS = re.compile(r"\\frac\{\s*[A-Z]{2}\s*\}\{\s*[A-Z]{2}\s*\}|[A-Z]{2}\s*/\s*[A-Z]{2}|[A-Z]{2}\s*\^\{2\}")
_NAMES = re.compile(
    r"(?:[(\[]|\\\{|\\langle)?\s*(?:\\?[a-zA-Z]+(?:_\{\w+\})?)(?:\s*,\s*\\?[a-zA-Z]+(?:_\{\w+\})?)+\s*(?:[)\]]|\\\}|\\rangle)?"
)
_DOMAIN = re.compile(r"(.+?)\s*[,;(]\s*([a-zA-Z])\s*\\in\s*\\mathbb\{([A-Z])\}\s*\)?", re.DOTALL)
_FUNCTION = re.compile(r"\s*(\\?[a-zA-Z]+(?:_\{\w+\})?)\s*\(\s*([a-zA-Z])\s*\)\s*")


def choice_letters(text: str) -> str | None:
    """ "B" for B, (B), \\text{B.}; "ACD" for ACD or A, C and D; None for what is no choice."""
    if match := _LETTER.fullmatch(text):
        return match.group(1)
    found = bracketed(text)
    if found is not None and len(found.items) > 1:
        return None
    letters = re.sub(rf"[{TEXT}{END}\s,()]|\\text|\band\b", "", text)
    if _LETTERS.fullmatch(letters) and len(set(letters)) == len(letters):
        return "".join(sorted(letters))
    return None


def choice_with_value(text: str) -> tuple[str, str] | None:
    """(letter, value) of "(C) 12"."""
    match = _LETTER_AND_VALUE.fullmatch(text)
    if match is None:
        return None
    value = match.group(3).strip(TEXT + END + " ")
    if re.match(r"(?:and|or)\b|[,/&]?\s*\(?[A-J]\b", value):
        return None  # (A) or (B)
    return (match.group(1) or match.group(2), value) if value else None


def words(text: str) -> str | None:
    """A text answer in one spelling: lower case, no articles, no plural s, no punctuation, the parts of "a and b" in
    order; None for formulas.
    """
    plain = text.replace(TEXT, "").replace(END, "").strip(f" {QUOTES}")
    if _NOT_WORDS.search(plain) or not re.search(r"[^\W\d_]{2}", plain) or not _WORDS.fullmatch(plain):
        return None
    if TEXT not in text and ("," in plain or "(" in plain or any(c.isdigit() for c in plain)):
        return None
    parts = sorted(_plain_words(part) for part in re.split(r",?\s+and\s+|[,&]", plain.casefold()))
    spelling = ", ".join(part for part in parts if part)
    return _SYNONYMS.get(spelling, spelling)


def _plain_words(text: str) -> str:
    found = re.findall(r"\w+", text.replace("-", ""))
    found = [w for w in found if w not in ("the", "a", "an", "only")] or found
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found)


def number_word(text: str) -> Fraction | None:
    """5 of "five", 125 of "one hundred and twenty-five", 2/3 of "two thirds"; None for other words."""
    found = re.split(r"[\s-]+", text.replace(TEXT, "").replace(END, "").strip().casefold())
    if len(found) > 12:
        return None
    parts = _PARTS.get(found[-1]) or _PARTS.get(found[-1].removesuffix("s"))
    if parts is None:
        return _whole_number(found)
    if "and" in found:  # two and a half
        middle = found.index("and")
        whole, above = (
            _whole_number(found[:middle]),
            _whole_number([w.replace("a", "one") for w in found[middle + 1 : -1]]),
        )
        return whole + above / parts if whole is not None and above is not None else None
    above = _whole_number(found[:-1] or ["one"])
    return None if above is None else above / parts


def _whole_number(found: list[str]) -> Fraction | None:
    """Of words without a fraction; each must be smaller than the place that the one before it left open."""
    total, current, last = 0, 0, ""
    for word in found:
        value = 1 if word == "a" and not last else _NUMBER_WORDS.get(word)
        if value is not None:
            room = 10 if current % 100 >= 20 else 100
            if last and (value >= room or value == 0 or current % room):
                return None
            current += value
        elif word in _SCALES and current:
            current *= _SCALES[word]
            if _SCALES[word] >= 1000:
                total, current = total + current, 0
        elif word != "and" or last not in _SCALES:
            return None
        last = word
    return Fraction(total + current) if last not in ("", "and", "a") else None


def in_symbols(text: str) -> str:
    """The formula of words that stand for one (five, two thirds, no solution, all real numbers) and the number in "five
    apples"; other answers as they are.
    """
    plain = words(text)
    if plain is None:
        return text
    if plain in _WORDS_FOR_SYMBOLS:
        return _WORDS_FOR_SYMBOLS[plain]
    found = text.replace(TEXT, "").replace(END, "").split()
    for end in range(len(found), max(0, len(found) - 3), -1):
        if (value := number_word(" ".join(found[:end]))) is not None:
            rest = " ".join(found[end:])
            number = str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
            return f"{number}{TEXT}{rest}{END}" if rest else number
    return text


def is_name(text: str) -> bool:
    """x, x_1, f(x), m_{\\max}, \\angle ABC, (x, y): what may stand in front of "=" and be left out."""
    return text.strip() != "\\pi" and bool(_NAME.fullmatch(text) or _NAMES.fullmatch(text) or _is_symbol(text))


def _is_symbol(text: str) -> bool:
    try:
        return read(text)[0][0] == "sym"
    except Unreadable:
        return False


def is_asked_for(text: str) -> bool:
    """a + b, \\sin\\theta, \\sum_k k: what a problem can ask the value of, where that is no name.

    Not 2x or x^2: their values are steps on the way to x.
    """
    if _BIG_OPERATOR.match(text):
        return True
    try:
        tree, _ = read(text)
    except Unreadable:
        return False
    return len(symbols(tree)) > 1 or (tree[0] == "call" and tree[1] not in ("log", "ln", "exp") and bool(symbols(tree)))


def names_of(items: list[str]) -> set[str]:
    """The different names of "a = 2", "b = 3"; x_1 and x_2 count as one name, because their order is free."""
    heads = [item.split("=", 1)[0].strip() for item in items if "=" in item]
    return {re.sub(r"_\{?\d+\}?$", "", head) for head in heads if is_name(head)}


def sorted_by_name(items: list[str]) -> list[str]:
    """b = 3, a = 2 in the order of a tuple (a, b), where every item has a name of its own; other lists as they are."""
    return (
        sorted(items, key=lambda item: item.split("=", 1)[0].strip()) if len(names_of(items)) == len(items) else items
    )


def split_names(text: str) -> list[str] | None:
    """["x = 1", "y = 2"] for (x, y) = (1, 2)."""
    members, signs = split_relation(text)
    names, values = (bracketed(m) for m in (members[0], members[-1]))
    if signs != ["="] or names is None or values is None or len(names.items) != len(values.items):
        return None
    return [f"{name}={value}" for name, value in zip(names.items, values.items, strict=True) if is_name(name)]


@dataclass(frozen=True)
class Domain:
    """The clause "k \\in \\mathbb{Z}" about a parameter."""

    parameter: str
    numbers: str

    def rename(self, text: str, other: "Domain") -> str:
        """``text`` with the other's parameter in place of this one."""
        return re.sub(rf"(?<![a-zA-Z\\]){self.parameter}(?![a-zA-Z])", other.parameter, text)


def split_domain(text: str) -> tuple[str, Domain | None]:
    """("x = 2k\\pi", its domain) for "x = 2k\\pi, k \\in \\mathbb{Z}"."""
    match = _DOMAIN.fullmatch(text)
    return (match[1].strip(), Domain(match[2], match[3])) if match else (text, None)


def function_of(text: str) -> tuple[str, str] | None:
    """("f", "x") for f(x)."""
    match = _FUNCTION.fullmatch(text)
    return (match.group(1), match.group(2)) if match else None


def rename_argument(members: list[str], like: list[str]) -> str | None:
    """The right side of f(n) = ... with the variable of the other definition of f; None when it is not the same
    function.
    """
    mine, other = function_of(members[0]), function_of(like[0])
    if mine is None or other is None or mine[0] != other[0]:
        return None
    return re.sub(rf"(?<![a-zA-Z\\]){mine[1]}(?![a-zA-Z])", other[1], members[1])


def values_of(members: list[str], signs: list[str], asked_for: bool = False) -> list[str]:
    """What "x = 2 = 6/3 \\approx 2.00" says x is: all of it without the name and, where there is an exact value, the
    roundings. ``asked_for``: also without "a + b" in "a + b = 5"; AB/CD is no value in any case.
    """
    if not signs:
        return members
    without_value = [is_name(m) or _SEGMENTS.fullmatch(m) or (asked_for and is_asked_for(m)) for m in members]
    if len(without_value) == 2 and not without_value[0] and without_value[1]:
        return members[:1]  # 10 = x
    start = next((i for i, is_none in enumerate(without_value) if not is_none), min(1, len(members) - 1))
    exact_ones = [m for i, m in enumerate(members) if i >= start and (i == 0 or signs[i - 1] != "\\approx")]
    return exact_ones or members[start:]
