"""What two answers are meant to say, where their letters leave a choice: the pairs of normalized answers to compare."""

import re
from collections.abc import Iterator
from fractions import Fraction

from verl.math_eval.grading.names import names_of, sorted_by_name
from verl.math_eval.grading.normalize import END, TEXT, normalize
from verl.math_eval.grading.renaming import renamed
from verl.math_eval.grading.rules.quantities import split_unit
from verl.math_eval.grading.rules.regions import may_be_union, without_member
from verl.math_eval.grading.rules.words import in_symbols, spelt_operations
from verl.math_eval.grading.structure import AND_OR, expand_determinants, split_list, split_top, steps
from verl.math_eval.grading.values.decimals import number

ROUNDED = Fraction(1, 10)  # relative: a remark that is further away is another answer
_LEAD_WORDS = r"(?:the answer is|answer|approximately|approx\.?|about|roughly|exactly|only)\s*:?"
_LEAD = re.compile(rf"(?:^|{TEXT}\s*){_LEAD_WORDS}\s*{END}?\s*=?\s*(?=\S)", re.IGNORECASE)
_SENTENCE = re.compile(rf"^{TEXT}(?:(?!\bnot\b)[^{END}])*\b(?:is|are|equals)\s*:?\s*{END}\s*(?=\S)", re.IGNORECASE)
_SPELT_OUT = re.compile(rf"{TEXT}\s*(?:{_LEAD_WORDS})?\s*([-(]?[\d.][^{TEXT}{END}]*){END}", re.IGNORECASE)
_YES_OR_NO = re.compile(rf"{TEXT}?\s*(yes|no)\s*[,.;:](.*)", re.IGNORECASE | re.DOTALL)
_BECAUSE = re.compile(rf"(?<=\S){TEXT}\s*[,(]?\s*(?:since|because)\b.*", re.DOTALL)
_IS_ANSWER = re.compile(rf"{TEXT}\s*is the (?:only |final )?(?:answer|solution|value)\s*\.?\s*{END}$")
_ALL_BUT = re.compile(
    rf"{TEXT}?\s*all real(?: numbers)?(?: x)? except(?: for)?\s*{END}?\s*(?:x\s*=\s*)?([^{TEXT}{END}]+){END}?",
    re.IGNORECASE,
)
_AND_ANOTHER_IS = re.compile(rf"{TEXT}\s*,?\s*and (?:the )?[a-z]+(?: [a-z]+)? (?:is|are)\s*{END}")
_ALL_THAT_ARE = re.compile(
    rf"{TEXT}?\s*all (?:real numbers?|reals)(?: x)?(?: that are)?\s+"
    r"((?:strictly )?(?:greater|less|larger|smaller|more) than|(?:greater|less) than or equal to|at least|at most)"
    rf"\s*{END}?\s*([^{TEXT}{END}]+){END}?",
    re.IGNORECASE,
)
_ABOUT_WORDS = r"(?:about|approximately|approx\.?|roughly|nearly|around|i\.e\.)(?![a-z])"
_ABOUT = rf"(?:\\approx|\\sim|{TEXT}?\s*(?:or\s+)?{_ABOUT_WORDS}\s*{END}?\s*(?:\\approx)?)"
_APPROXIMATION = re.compile(
    rf"(?P<exact>.*\S)\s*(?:{TEXT}?\s*[(\[]\s*{END}?\s*{_ABOUT}\s*(?P<in>[^()]*)\){END}?|{TEXT}\s*,?\s*or\s+"
    rf"{_ABOUT_WORDS}\s*{END}\s*(?P<or>.*))",
    re.DOTALL,
)
_REMARK_WORDS = (
    r"since|because|as|for|where|if needed|exact(?:ly)?(?: value)?|rounded|correct to|simplified|in lowest terms|answer"
    r"|final|by|from|using|note|see|QED|after|when rounded"
)
_REMARK = re.compile(
    rf"(?<=\S)\s*(?:{TEXT}\s*)?\(\s*{TEXT}?\s*(?:{_REMARK_WORDS})(?![a-zA-Z])(?:[^()]|\([^()]*\))*\)\s*{END}?$"
)
_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_BRACKET = re.compile(r"[(\[]|\\\{|\\langle")
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_COUNTED_BY = {"hundred": "100", "dozen": "12", "dozens": "12"}
_WORD = rf"({'|'.join((*_POWERS, *_COUNTED_BY))})\b"
_SCALE = re.compile(rf"(.*\d)\s*(?:{TEXT}\s*{_WORD}([^{END}]*){END}|{_WORD})(.*)", re.DOTALL)
_THEREFORE = re.compile(r"\\Rightarrow(?![a-zA-Z])")
_ENTRY = r"(?:\{\s*(\w+)\s*\}|(\w))"
_CHOOSE = rf"{TEXT}?\s*(C|P|nCr|nPr)\s*{END}?"
_COUNTS = (
    re.compile(rf"(?<![a-zA-Z\\_^]){_CHOOSE}\s*\(\s*()(\w+)\s*,\s*()(\w+)\s*\)"),  # C(10, 3)
    re.compile(rf"(?<![a-zA-Z\\])([CPA])\s*_{_ENTRY}\s*\^{_ENTRY}"),  # C_{10}^3
    re.compile(rf"(?:\{{\s*\}})?\s*[_^]{_ENTRY}\s*{_CHOOSE}\s*_{_ENTRY}"),  # {}^{10}C_3
    re.compile(r"(?<![\w.])(\d+)\s*([CP])\s*(\d+)(?!\w)"),  # 10C3
    re.compile(rf"(?<![\w.])(\d+)\s*{TEXT}?\s*(choose)\s*{END}?\s*(\d+)"),
)
_RAISED_FIRST = re.compile(rf"(?<![a-zA-Z\\])C\s*\^{_ENTRY}\s*_{_ENTRY}")
_MIXED = re.compile(rf"(\d+)\s*(?:{TEXT}\s*and\s*{END}|and)\s*(\\frac\{{\d+\}}\{{\d+\}}|\d+\s*/\s*\d+)")
_PERIOD = re.compile(r"(\d*\.\d*)\((\d{1,60})\)")
_OR = re.compile(AND_OR.pattern.replace("and|or", "or"))
_LETTERS = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z](?![a-zA-Z])")
_ANY_CONSTANT = re.compile(r"(\+\s*)[cC]$")


def readings(answer: str, gold: str) -> Iterator[tuple[str, str]]:
    """Every pair once, the likeliest first; most answers have one reading."""
    answers, golds = _alternatives(_bare(answer)), _alternatives(_bare(gold))
    for a in answers:
        for g in golds:
            yield from _together(a, g)


def _bare(answer: str) -> str:
    """Normalized, without "the answer is" and "x \\in" in front; words that stand for a formula as that formula."""
    text = normalize(answer)
    spelt_out = _SPELT_OUT.fullmatch(text)
    text = spelt_out[1] if spelt_out else _SENTENCE.sub("", _LEAD.sub("", text, count=1), count=1)
    if (said := _YES_OR_NO.fullmatch(text)) and not re.search(r"\b(?:yes|no)\b", said[2], re.IGNORECASE):
        return said[1].casefold()
    text = _IS_ANSWER.sub("", _BECAUSE.sub("", without_remark(text)))
    text = _AND_ANOTHER_IS.sub(rf"{TEXT} and {END}", text)
    text = _ALL_THAT_ARE.sub(_all_that_are, text)
    text = _ALL_BUT.sub(r"\\mathbb{R}\\setminus\\{\1\\}", text)
    text = _THEREFORE.split(text)[-1].strip() or text
    return in_symbols(spelt_operations(without_member(expand_determinants(text.strip()))))


def without_remark(text: str) -> str:
    """\\sqrt{2} of "\\sqrt{2} (\\approx 1.414)", 5 of "5 (\\text{since } x > 0)"; other answers as they are. What is no
    rounding of the answer stays.
    """
    if match := _APPROXIMATION.fullmatch(text):
        rounded = number(split_unit((match["in"] or match["or"] or "").strip()).value)
        exact = number(split_unit(match["exact"].strip()).value)
        if rounded is not None and exact is not None and abs(rounded - exact) > ROUNDED * abs(exact):
            return text
        return match["exact"].strip()
    return _REMARK.sub("", text)


def _all_that_are(match: re.Match[str]) -> str:
    """(3, \\infty) for "all real numbers greater than 3"."""
    words, end = match[1].casefold(), match[2].strip()
    closed = "equal" in words or "at" in words.split()
    if "greater" in words or "larger" in words or "more" in words or "least" in words:
        return f"{'[' if closed else '('}{end},\\infty)"
    return f"(-\\infty,{end}{']' if closed else ')'}"


def _alternatives(text: str) -> list[str]:
    """What one answer can mean on its own."""
    texts = [text]
    for rewrite in (_grouped, _counted, _mixed, _periodic, _as_tuples):
        texts = [new for t in texts if (new := rewrite(t)) != t] + texts
    return texts


def _together(a: str, g: str) -> Iterator[tuple[str, str]]:
    """What two answers can mean beside each other."""
    (scaled_a, unscaled_a), (scaled_g, unscaled_g) = _scaled(a), _scaled(g)
    yield scaled_a, scaled_g
    if unscaled_a != scaled_a and unscaled_g == scaled_g:  # 5 million is also 5, where the other has no such word
        yield unscaled_a, g
    if unscaled_g != scaled_g and unscaled_a == scaled_a:
        yield a, unscaled_g
    yield from renamed(a, g)
    if may_be_union(a) != may_be_union(g):  # (0, 1), (2, 3) beside a union
        yield _united(a), _united(g)
    if _ANY_CONSTANT.search(a) and _ANY_CONSTANT.search(g):
        yield _ANY_CONSTANT.sub(r"\1C", a), _ANY_CONSTANT.sub(r"\1C", g)
    if [{"i"}, {"j"}] == sorted((set(_LETTERS.findall(t)) for t in (a, g)), key=str):
        yield a.replace("j", "i"), g.replace("j", "i")  # 2 + 3j, where j is the only letter


def _scaled(text: str) -> tuple[str, str]:
    """("5*10^{6}", "5") for "5 million", with whatever follows the word; other answers twice."""
    match = _SCALE.fullmatch(text)
    if match is None:
        return text, text
    amount, marked, unit, typed, rest = match.groups()
    rest = (f"{TEXT}{unit}{END}" if (unit or "").strip() else "") + rest
    rest = f"{TEXT}{rest}{END}" if re.fullmatch(r"\s*[a-zA-Z]{3,20}\s*", rest) else rest
    word = marked or typed
    factor = _COUNTED_BY.get(word) or f"10^{{{_POWERS[word]}}}"
    scaled = f"{amount}*{factor}{rest}"
    return scaled, scaled if word == "hundred" else amount + rest


def _grouped(text: str) -> str:
    """1,234 is one number; but (1,234) is a pair, unless another comma in it has a blank: (1,234, 5), or a group begins
    with a zero: (1,000).
    """
    if not _GROUPED.search(text):
        return text
    inside = {position for token, position, depth in steps(text) if depth > 0} if _BRACKET.search(text) else set()
    keep = inside if ", " not in text else set()
    return _GROUPED.sub(
        lambda m: m.group() if m.start() in keep and ",0" not in m.group() else m.group().replace(",", ""), text
    )


def _counted(text: str) -> str:
    """C(10, 3), {}^{10}C_3 and others as \\binom{10}{3}; P(10, 3) in factorials."""
    text = _RAISED_FIRST.sub(lambda m: f"\\binom{{{m[3] or m[4]}}}{{{m[1] or m[2]}}}", text)
    for pattern in _COUNTS:
        text = pattern.sub(_count, text)
    return text


def _count(match: re.Match[str]) -> str:
    parts = [part for part in match.groups() if part]
    kind = next(p for p in parts if p in ("C", "P", "A", "nCr", "nPr", "choose"))
    parts.remove(kind)
    n, k = parts
    return f"\\binom{{{n}}}{{{k}}}" if "C" in kind or kind == "choose" else f"\\frac{{({n})!}}{{({n}-{k})!}}"


def _mixed(text: str) -> str:
    """2 and 1/2 as a mixed number."""
    match = _MIXED.fullmatch(text)
    return f"({match[1]}+{match[2]})" if match else text


def _periodic(text: str) -> str:
    """0.1(6) is 0.1666..."""
    match = _PERIOD.fullmatch(text)
    return f"{match[1]}\\overline{{{match[2]}}}" if match else text


def _as_tuples(text: str) -> str:
    """x = 1, y = 2 or x = 3, y = 4 as (1, 2), (3, 4)."""
    groups = [split_list(group)[0] for group in split_top(_OR.sub(";", text), frozenset(";"))]
    if len(groups) < 2 or any(
        len(g) < 2 or len(names_of(g)) != len(g) or names_of(g) != names_of(groups[0]) for g in groups
    ):
        return text
    return ", ".join("(" + ", ".join(x.split("=", 1)[1] for x in sorted_by_name(g)) + ")" for g in groups)


def _united(text: str) -> str:
    parts = split_top(text, frozenset(","))
    return text if len(parts) < 2 else "\\cup ".join(parts)
