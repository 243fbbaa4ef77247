"""Other spellings of a gold answer, and wrong answers that are close to it, made by rule.

``same(gold)`` and ``wrong(gold)`` yield (kind, answer). A rule that does not fit a gold yields nothing.
"""

import re
from collections.abc import Iterator

_INTEGER = re.compile(r"-?\d+")
_DECIMAL = re.compile(r"-?\d+\.\d*[1-9]")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")
_TUPLE = re.compile(r"\(([^()\[\]]+(?:,[^()\[\]]+)+)\)")
_PLAIN_LIST = re.compile(r"-?[\d.]+(?:\s*,\s*-?[\d.]+)+")
_TERM = r"(\d*\\sqrt\{\d+\}|[^-+=<>,()\[\]{}\s]+)"
_SUM = re.compile(rf"{_TERM}\s*\+\s*{_TERM}")
_NO_VALUE = re.compile(r"\\text|(?<![\\a-zA-Z])[a-zA-Z]{4,}| or | and |[,;=<>]|\\(?:cup|le|ge|in|pm)")
_FINITE = ("1", "2", "4", "5", "8", "10", "16", "20", "25", "40", "50", "80", "100", "125", "200", "250", "500")


def same(gold: str) -> Iterator[tuple[str, str]]:
    yield "text", gold
    yield "blanks", f" {gold} "
    yield "dollars", f"${gold}$" if "$" not in gold else gold
    if "\\frac" in gold:
        yield "dfrac", gold.replace("\\frac", "\\dfrac")
        yield "tfrac", gold.replace("\\frac", "\\tfrac")
    if "(" in gold and "\\left" not in gold and gold.count("(") == gold.count(")") and not re.search(r"[\[\]]", gold):
        yield "left right", gold.replace("(", "\\left(").replace(")", "\\right)")
    if _INTEGER.fullmatch(gold):
        yield "point zero", gold + ".0"
        yield "assignment", f"x={gold}"
        yield "named assignment", f"N_1 = {gold}"
        yield "unit", gold + "\\text{ cm}"
        yield "words behind", gold + "\\text{ ways}"
        yield "money", "\\$" + gold
        yield "degrees", gold + "^\\circ"
        yield "parentheses", f"({gold})"
        yield "bold", f"\\mathbf{{{gold}}}"
        yield "text", f"\\text{{{gold}}}"
        yield "lead words", f"\\text{{Answer: }}{gold}"
        yield "about", f"\\approx {gold}"
        yield "words typed", f"{gold} ways"
        if len(gold.lstrip("-")) > 3:
            for name, mark in (
                ("comma", ","),
                ("brace comma", "{,}"),
                ("thin", "\\,"),
                ("comma thin", ",\\!"),
                ("blank", " "),
            ):
                yield f"thousands {name}", re.sub(r"(?<=\d)(?=(?:\d{3})+$)", lambda _, mark=mark: mark, gold)
    if _DECIMAL.fullmatch(gold):
        yield "trailing zero", gold + "0"
        whole, places = gold.split(".")
        yield "decimal as fraction", f"\\frac{{{int(whole + places)}}}{{{10 ** len(places)}}}"
        if gold.startswith("0."):
            yield "no leading zero", gold[1:]
    if match := _FRACTION.fullmatch(gold):
        sign, above, below = match.groups()
        yield "slash", f"{sign}{above}/{below}"
        yield "sign above", f"\\frac{{{sign}{above}}}{{{below}}}"
        yield "not reduced", f"{sign}\\frac{{{3 * int(above)}}}{{{3 * int(below)}}}"
        if below in _FINITE:
            yield "fraction as decimal", f"{sign}{int(above) / int(below)!r}"
        if int(above) > int(below) and int(above) % int(below):
            whole, rest = divmod(int(above), int(below))
            yield "mixed number", f"{sign}{whole}\\frac{{{rest}}}{{{below}}}"
    if _TUPLE.fullmatch(gold):
        yield "tuple blanks", gold.replace(",", " , ")
        yield "tuple named", f"(x,y)={gold}" if gold.count(",") == 1 else gold
    if _PLAIN_LIST.fullmatch(gold):
        items = [x.strip() for x in gold.split(",")]
        yield "list reversed", ", ".join(reversed(items))
        yield "list and", ", ".join(items[:-1]) + " \\text{ and } " + items[-1]
        yield "list as set", "\\{" + ", ".join(items) + "\\}"
    if match := _SUM.fullmatch(gold):
        yield "commuted", f"{match[2]} + {match[1]}"
    if "\\cdot" in gold:
        yield "times", gold.replace("\\cdot", "\\times")
    if not _NO_VALUE.search(gold):
        yield "named", f"y={gold}"
        yield "named in words", f"\\text{{Value}} = {gold}"
    yield "display style", f"\\displaystyle {gold}"
    if "\\pi" in gold and gold.count("\\pi") == 1 and "," not in gold:
        yield "unicode pi", gold.replace("\\pi", "π")


def wrong(gold: str) -> Iterator[tuple[str, str]]:
    if _INTEGER.fullmatch(gold):
        value = int(gold)
        yield "off by one", str(value + 1)
        yield "off by one", str(value - 1)
        yield "times 100", str(value * 100) if value else "100"
        yield "through 100", repr(value / 100) if value else "0.01"
        if value:
            yield "sign", str(-value)
        yield "two answers", f"{value}, {value + 1}"
        yield "as a set of two", f"\\{{{value}, {value + 1}\\}}"
        yield "hedged", f"{value} \\text{{ or }} {value + 1}"
        yield "not", f"\\text{{not }}{value}"
        yield "interval around it", f"[{value - 1},{value + 1}]"
        yield "digit more", f"{value}1"
        yield "half more", f"{value}.5"
        if value:
            yield "times x", f"{value}x"
        if len(gold) > 2 and gold[-1] != gold[-2]:
            yield "swapped digits", gold[:-2] + gold[-1] + gold[-2]
    if _DECIMAL.fullmatch(gold):
        yield "last digit", gold[:-1] + str((int(gold[-1]) + 1) % 10)
        yield "sign", gold[1:] if gold.startswith("-") else "-" + gold
    if match := _FRACTION.fullmatch(gold):
        sign, above, below = match.groups()
        yield "numerator", f"{sign}\\frac{{{int(above) + 1}}}{{{below}}}"
        if above != below:
            yield "inverse", f"{sign}\\frac{{{below}}}{{{above}}}"
        yield "sign", ("" if sign else "-") + f"\\frac{{{above}}}{{{below}}}"
        yield "without line", f"{sign}{above}{below}"
    if match := _TUPLE.fullmatch(gold):
        items = [x.strip() for x in match.group(1).split(",")]
        if items != items[::-1]:
            yield "tuple swapped", "(" + ", ".join(items[::-1]) + ")"
        yield "tuple short", "(" + ", ".join(items[:-1]) + ")"
        yield "tuple long", "(" + ", ".join([*items, "1"]) + ")"
    if _PLAIN_LIST.fullmatch(gold):
        items = [x.strip() for x in gold.split(",")]
        yield "one missing", ", ".join(items[1:])
        yield "one more", ", ".join([*items, "12345"])
    if re.search(r"[\[(][^()\[\]]*,[^()\[\]]*\]", gold):
        yield "other bracket", gold[: gold.rindex("]")] + ")" + gold[gold.rindex("]") + 1 :]
    for sign, flipped in (
        ("<", ">"),
        (">", "<"),
        ("\\leq", "\\geq"),
        ("\\geqslant", "\\leqslant"),
        ("\\geq ", "\\leq "),
    ):
        if sign in gold:
            yield "flipped", gold.replace(sign, flipped)
            break
    if match := _SUM.fullmatch(gold):
        yield "minus", f"{match[1]}-{match[2]}"
    if re.search(r"\^\{?2\}?", gold) and "where" not in gold:
        yield "exponent", re.sub(r"\^\{?2\}?", "^{3}", gold, count=1)
    if match := re.search(r"\\sqrt\{(\d+)\}", gold):
        yield "radicand", gold[: match.start(1)] + str(int(match.group(1)) + 1) + gold[match.end(1) :]
    if "\\pi" in gold and not re.search(r"\\pi\s*[a-zA-Z_^]", gold):
        yield "without pi", gold.replace("\\pi", "")


def wrappings(answer: str) -> Iterator[tuple[str, str]]:
    """Texts of a model that all give ``answer``."""
    yield "box", f"We add them up.\n\nThe answer is $\\boxed{{{answer}}}$."
    yield "fbox", f"Therefore $\\fbox{{{answer}}}$"
    yield "display", f"so that\n\\[\n\\boxed{{{answer}}}\n\\]\n"
    yield "think", f"<think>Is it \\boxed{{17}}? No.</think>It is $\\boxed{{{answer}}}$"
    yield "blank", f"Hence \\boxed {{{answer}}}"
    yield "twice", f"$\\boxed{{\\boxed{{{answer}}}}}$"
