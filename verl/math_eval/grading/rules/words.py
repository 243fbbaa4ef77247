"""Answers in words: text, numbers that are spelt out, words that stand for a formula, "x if x > 0"."""

import re
from fractions import Fraction

from verl.math_eval.grading.judge import Comparison
from verl.math_eval.grading.normalize import END, QUOTES, TEXT, unmarked, word_list

_NUMBER_WORDS = {
    word: value
    for value, word in enumerate(
        word_list(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
            "seventeen eighteen nineteen twenty"
        )
    )
} | {word: 10 * tens for tens, word in enumerate(word_list("thirty forty fifty sixty seventy eighty ninety"), 3)}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9}
_PARTS = {
    word: parts for parts, word in enumerate(word_list("half third quarter fifth sixth seventh eighth ninth tenth"), 2)
} | {"halve": 2, "fourth": 4, "hundredth": 100}
_SYNONYMS = {
    "dne": "doe not exist",
    "not possible": "impossible",
    "limit doe not exist": "doe not exist",
} | dict.fromkeys(
    ("it doe not exist", "thi limit doe not exist", "undefined limit"), "doe not exist"
)  # as ``words`` spells them
_SIGNED_REALS = {
    "": "\\mathbb{R}",
    "positive ": "(0,\\infty)",
    "negative ": "(-\\infty,0)",
    "nonnegative ": "[0,\\infty)",
    "nonpositive ": "(-\\infty,0]",
    "nonzero ": "\\mathbb{R}\\setminus\\{0\\}",
}
_GENERIC = frozenset({"function", "quadrant", "number", "integer", "series", "sequence", "on", "in", "is", "are"})
_WORDS_FOR_SYMBOLS = {
    **dict.fromkeys(["no solution", "no real solution", "no solution exist", "empty set"], "\\emptyset"),
    **{
        f"{start}{sign}{kind}": region
        for start in ("", "all ", "set of all ", "set of ", "any ")
        for kind in ("real number", "real")
        for sign, region in _SIGNED_REALS.items()
        if start or sign or kind == "real number"
    },
    **{
        f"{start}{sign}{kind}": f"\\mathbb{{{letter}}}{mark}"
        for start in ("all ", "set of all ", "set of ", "any ")
        for kind, letter in (
            ("integer", "Z"),
            ("whole number", "Z"),
            ("rational number", "Q"),
            ("rational", "Q"),
            ("complex number", "C"),
        )
        for sign, mark in (("", ""), ("positive ", "^+"), ("negative ", "^-"))
        if letter != "C" or not sign
    },
    **dict.fromkeys([f"{start}natural number" for start in ("all ", "set of ", "set of all ")], "\\mathbb{N}"),
    **dict.fromkeys(["infinity", "infinite", "infinitely many", "infinitely many solution"], "\\infty"),
}
_NOT_WORDS = re.compile(r"[\\=<>^_{}+*/|\[\]]")
_WORDS = re.compile(r"[^\W\d_][\w\s.'’:,!?&()-]*")
_IF = re.compile(rf"{TEXT}\s*if\s*{END}")


def text(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """Words against words; against a formula only where one side is marked as text."""
    gold_words, answer_words = words(g), words(a)
    if gold_words is None and answer_words is None:
        return None
    if gold_words is None or answer_words is None:
        marked = TEXT in (a if gold_words is None else g)
        return comparison.say(False, "words against a formula") if marked else None
    if TEXT not in a + g and max(len(gold_words), len(answer_words)) <= 3 and not {"yes", "no"} & {gold_words}:
        return None  # perhaps products of variables
    return comparison.say(answer_words == gold_words or _essence(answer_words) == _essence(gold_words), "words")


def conditional(comparison: Comparison, a: str, g: str, depth: int) -> bool | None:
    """x if x > 0: the value and the condition."""
    parts_a, parts_g = _IF.split(a), _IF.split(g)
    if len(parts_a) != 2 or len(parts_g) != 2 or "," in a + g:
        return None
    return comparison.in_order(parts_a, parts_g, depth)


def words(text: str) -> str | None:
    """A text answer in one spelling: lower case, no articles, no plural s, no punctuation, the parts of "a and b" in
    order; None for formulas.
    """
    plain = unmarked(text).strip(f" {QUOTES}")
    if _NOT_WORDS.search(plain) or not re.search(r"[^\W\d_]{2}", plain) or not _WORDS.fullmatch(plain):
        return None
    if TEXT not in text and ("," in plain or "(" in plain or any(c.isdigit() for c in plain)):
        return None
    parts = sorted(_plain_words(part) for part in re.split(r",?\s+and\s+|[,&]", plain.casefold()))
    spelling = ", ".join(part for part in parts if part)
    return _SYNONYMS.get(spelling, spelling)


def _essence(spelling: str) -> str:
    """Without generic nouns and prepositions, where something else is left: odd function is odd; one-to-one is one to
    one.
    """
    found = spelling.split()
    kept = [word for word in found if word not in _GENERIC]
    if kept and len(found) <= 3:
        found = sorted(kept, key=len) if len(kept) == 2 and min(map(len, kept)) == 1 else kept
    return "".join(found)


def _plain_words(text: str) -> str:
    found = re.findall(r"\w+", text.replace("-", ""))
    found = [w for w in found if w not in ("the", "a", "an", "only")] or found
    return " ".join(w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found)


def number_word(text: str) -> Fraction | None:
    """5 of "five", 125 of "one hundred and twenty-five", 2/3 of "two thirds"; None for other words."""
    found = re.split(r"[\s-]+", unmarked(text).strip().casefold())
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
    found = unmarked(text).split()
    for end in range(len(found), max(0, len(found) - 3), -1):
        if (value := number_word(" ".join(found[:end]))) is not None:
            rest = " ".join(found[end:])
            if rest.startswith("to ") or rest == "to":
                return text  # one to one
            number = str(value) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
            return f"{number}{TEXT}{rest}{END}" if rest else number
    return text


_NUMERAL = r"(?:\d|\\pi|[a-z](?![a-z]))"


def _after(words: str, what: str = "") -> re.Pattern[str]:
    """Words after a number, typed or marked as text; with ``what`` behind them, where that is given."""
    return re.compile(
        rf"(?<=[\d}}])\s*{TEXT}?\s*(?<![a-zA-Z])(?:{words})(?![a-zA-Z])\s*{END}?" + (rf"\s*{what}" if what else "")
    )


_OPERATIONS = (
    (_after("squared"), "^{2}"),
    (_after("cubed"), "^{3}"),
    (_after("factorial"), "!"),
    (_after("pi"), r"\\pi "),
    (_after("to the power(?: of)?|raised to(?: the power(?: of)?)?", r"(\d+)"), r"^{\1}"),
    (_after("divided by|over", rf"(?={_NUMERAL})"), "/"),
    (_after("times|multiplied by", rf"(?={_NUMERAL})"), "*"),
    (_after("plus", rf"(?={_NUMERAL})"), "+"),
    (_after("minus", rf"(?={_NUMERAL})"), "-"),
    (re.compile(rf"(?<![\w.])(\d+)\s*{TEXT}?\s*choose\s*{END}?\s*(\d+)"), r"\\binom{\1}{\2}"),
    (
        re.compile(rf"(\d[\d.]*)\s*(?:%|{TEXT}?\s*percent)\s*{END}?\s*{TEXT}?\s*of\s*{END}?\s*(\d+)"),
        r"\\frac{\1*\2}{100}",
    ),
    (
        re.compile(rf"(?<![\w.])(\d+)\s*{TEXT}?\s*(?<![a-zA-Z])(?:out of|chances? in|in)\s*{END}?\s*(\d+)(?![\w.])"),
        r"\\frac{\1}{\2}",
    ),
)


def spelt_operations(text: str) -> str:
    """5^{2} of "5 squared", 5/6 of "5 divided by 6", \\frac{1}{6} of "1 out of 6"; other texts as they are."""
    if not any(c.isdigit() for c in text):
        return text
    for pattern, symbols in _OPERATIONS:
        text = pattern.sub(symbols, text)
    return text
