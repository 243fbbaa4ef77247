"""One spelling for answers: LaTeX as many people write it -> LaTeX as ``expression`` and ``compare`` read it.

Text commands (\\text, \\mathrm ...) become their content between two marks, because whether "m" is a metre or a
variable is decided by exactly that.
"""

import re
import unicodedata
from fractions import Fraction

from verl.math_eval.grading.brackets import braced, closing_parenthesis

TEXT, END = "\ue000", "\ue001"  # private-use characters around what stood in \text{...}
MAX_LENGTH = 4_000


def word_list(text: str) -> tuple[str, ...]:
    """The words of a text: a way to write long lists of names."""
    return tuple(text.split())


_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿⁱ", "0123456789+-ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
_ROOTS = {"√": "", "∛": "[3]", "∜": "[4]"}
_GREEK_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ"
GREEK = word_list(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_CHARACTERS = {
    **{c: f"\\{name} " for c, name in zip(_GREEK_LETTERS, GREEK, strict=True)},
    **dict.fromkeys("−–—‐‑﹣－", "-"),
    **dict.fromkeys("×✕", "\\times "),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    **dict.fromkeys("’′", "'"),
    **dict.fromkeys("\u200b\u200c\u200d\ufeff\u202a\u202b\u202c\u202d\u202e\u2060", ""),
    "÷": "/", "⁄": "/", "∞": "\\infty ", "≤": "\\leq ", "⩽": "\\leq ", "≥": "\\geq ", "⩾": "\\geq ",
    "≠": "\\ne ", "≈": "\\approx ",
    "±": "\\pm ", "∓": "\\mp ", "∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "∅": "\\emptyset ",
    "或": " or ", "和": " and ", "°": "^\\circ ", "。": ".", "¢": "\\text{ cents}", "℃": "^\\circ C", "℉": "^\\circ F",
    "⟨": "\\langle ", "⟩": "\\rangle ", "〈": "\\langle ", "〉": "\\rangle ", "ℝ": "\\mathbb{R}",
    "∣": "|", "\u00a0": " ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ",
}  # fmt: skip

_RENAMED = {
    **dict.fromkeys(["dfrac", "tfrac", "cfrac", "sfrac", "nicefrac"], "frac"),
    **dict.fromkeys(["dbinom", "tbinom"], "binom"),
    **dict.fromkeys(["le", "leqslant", "leqq"], "leq"),
    **dict.fromkeys(["ge", "geqslant", "geqq"], "geq"),
    **dict.fromkeys(["lvert", "rvert", "vert", "mid"], "|"),
    **dict.fromkeys(["vee", "lor"], " or "),
    **dict.fromkeys(["wedge", "land"], " and "),
    **dict.fromkeys(["quad", "qquad", "thinspace", "enspace", "space"], " "),
    **dict.fromkeys(["displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "mathstrut", "strut"], ""),
    **dict.fromkeys(["left", "right", "middle", "rm", "it", "bf", "big", "Big", "bigg", "Bigg", "checkmark"], ""),
    **dict.fromkeys(["large", "Large", "LARGE", "huge", "Huge", "small", "normalsize", "blacksquare", "square"], ""),
    **dict.fromkeys(["bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr", "Biggl", "Biggr"], ""),
    "neq": "ne", "lt": "<", "gt": ">", "varnothing": "emptyset", "lbrace": "\\{", "rbrace": "\\}", "lbrack": "[",
    "rbrack": "]", "ast": "*", "times": "*", "cdot": "*", "div": "/", "colon": ":", "ratio": ":", "degree": "^\\circ ",
    "simeq": "approx", "tg": "tan", "arctg": "arctan", "ctg": "cot", "varphi": "phi", "varepsilon": "epsilon",
    "infin": "infty", "prime": "'", "surd": "sqrt", "imath": "i", "jmath": "j", "smallsetminus": "setminus",
    "backslash": "setminus",
    "iff": "=", "to": "=", "dotsc": "ldots", "dots": "ldots", "cdots": "ldots", "lnot": "neg", "implies": "Rightarrow",
    "Longrightarrow": "Rightarrow", "therefore": "Rightarrow", "cr": "\\\\",
}  # fmt: skip
_WRAPPERS = word_list(
    "num mathbf mathit mathsf mathtt boldsymbol bm pmb boxed fbox framebox ensuremath overset underline"
)
_TEXTS = word_list("text textbf textit textrm textsf texttt textnormal textup mbox hbox mathrm operatorname mathop")
# What may be typed without a backslash, or in \operatorname; ``expression`` reads all of them.
FUNCTIONS = word_list(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth log ln exp lg cis max min gcd lcm sgn"
)

_COMMAND = re.compile(r"\\([a-zA-Z]+)\*?[ \t\n]*|\\(.)", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=\d)(?:\s?\{,\s?\}|,?\\[!,;:]\s?|\\ )(?=\d{3}(?!\d))")
_BRACED_SIGN = re.compile(r"(?<![\\^_])\{\s*([=<>+:;,-])\s*\}")
_PLAIN_ROOT = re.compile(r"([√∛∜])\s*(?:\(([^()]*)\)|\{([^{}]*)\}|(\d+(?:\.\d+)?|[a-zA-Z]|\\[a-zA-Z]+))")
_WORD_CALL = re.compile(
    r"(?<![\\a-zA-Z])(?:np\.|math\.|numpy\.)?(sqrt|pi|inf|infinity|e(?=\*\*)|[a-z]{2,6})(?![a-zA-Z])", re.IGNORECASE
)
_CHOOSE = re.compile(r"\{([^{}]*)\\choose(?![a-z])([^{}]*)\}")
_OVER = re.compile(r"\{([^{}]*)\\over(?![a-z])([^{}]*)\}")
_SCIENTIFIC = re.compile(r"(?<![a-zA-Z\\\d.])(\d+(?:\.\d*)?|\.\d+)[eE]([+-]?\d{1,6})(?![\d.a-zA-Z])")
# Commands with two backslashes, as they stand in JSON; after a third one it is the end of a row.
_ESCAPED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|left|right|pi|infty|[lg]eq?|cdot|times|pm|cup|text|circ)(?![a-z]))"
)
_POSITIVE_INTEGERS = re.compile(
    r"\\mathbb\{Z\}\s*[_^]\s*\{?\s*(?:\+|>\s*0|\\geq\s*1)(?:\s*\})?|\\mathbb\{N\}\s*[_^]\s*\{?\s*[*+](?:\s*\})?"
)
_COMMENT = re.compile(r"(?<!\\)%[^\n]{0,200}\n")
_ROOT_OF = re.compile(r"\\root\s*\{?\s*(\w+)\s*\}?\s*\\of(?![a-zA-Z])\s*")
_ONE_CELL = re.compile(
    r"\\begin\{(array|matrix)\}(?:\{[lcr]\})?([^&\\]*(?:\\(?![\\a-z]*begin|end|\\)[^&\\]*)*)\\end\{\1\}"
)
_RAISED_ARGUMENT = re.compile(r"([\^_])\s*(?=\\(?:frac|sqrt|binom)(?![a-zA-Z]))")
_RAISED_PRIME = re.compile(r"(?<=\d)\s*\^\s*\{\s*('{1,2})\s*\}")
_UNIT_VECTOR = re.compile(r"\\(?:hat|vec)\s*\{?\s*([ijk])(?![a-zA-Z])\s*\}?")
_MAPS_TO = re.compile(r"^\s*([a-zA-Z])\s*:\s*([a-zA-Z])\s*\\mapsto(?![a-zA-Z])")
_DERIVATIVE = re.compile(r"^\s*\\frac\s*\{\s*d\s*([a-zA-Z])\s*\}\s*\{\s*d\s*[a-zA-Z]\s*\}\s*(?==)")
_POLAR = re.compile(r"(?<=[\d}])\s*\\angle(?![a-zA-Z])\s*")
_PLAIN_DOMAIN = re.compile(r"(\\in)\s*([ZNRQ])(?![a-zA-Z_])")
# "2 hours 15 min", where min is no function of anything.
_TYPED_UNIT = re.compile(
    r"(?<=\d)\s*\\(min|sec)\s*\.?(?!\s*[({_\\^a-zA-Z\[]|\s*\d+(?!\s*(?:\\sec|s\b|secs\b|seconds?\b)))"
)
_BOLD = re.compile(r"^\s*\*\*([^*]+)\*\*\s*$")
_ANGLED = re.compile(r"^\s*<([^<>=]*,[^<>=]*)>\s*$")
_DOTTED = re.compile(r"\\dot\s*\{?(\d)\}?(\d*)\\dot\s*\{?(\d)\}?")
_IGNORED = word_list("hspace vspace phantom color textcolor label tag")  # with their argument
_SPELT_EXPONENT = re.compile(rf"(?<=\d)\s*{TEXT}\s*[eE]\s*{END}\s*(-?\d+)")
_MARKED = re.compile(rf"({TEXT}[^{END}]*{END})")
_CHINESE = re.compile(rf"({TEXT}[^{END}]*{END})|([\u4e00-\u9fff]+)")
_MODULO = re.compile(rf"{TEXT}\s*\(\s*mod\s*{END}\s*(\d+|[a-z])\s*{TEXT}?\s*\)\s*{END}?")
_ORDINAL = re.compile(rf"(?<![\d.])(\d+)\s*(?:\^\s*\{{?)?\s*{TEXT}?(?:st|nd|rd|th){END}?\}}?(?![a-zA-Z])")
_DOTS = re.compile(r"(?<![\d.])(\d*\.)(\d{2,60})\s*(?:\.{3}|\\(?:ldots|dots|cdots)(?![a-zA-Z]))")
_REPEATED = re.compile(r"(\d*?)(\d\d?)\2+|()(\d+?)\4+")  # not 2.718281828...
_MONEY = re.compile(r"(\\\$|[€£¥₹])\s*(-?\d+(?:,\d{3})*(?:\.\d+)?)(?!\s*[\w{^\\]|[.,]\d)")
_CURRENCIES = {"\\$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "₹": "rupees"}
_CURRENCY = re.compile(
    r"(?:\\(?:text|mathrm)\{\s*)?\b(?:USD|EUR|GBP|INR|US|Rs\.?)\s*\}?[\s~]*(?=(?:\\?\$)?\s*\d)"
    r"|\\\$|[€£¥₹]|\\(?:pounds|euro|yen)(?![a-zA-Z])"
    r"|(?<=\d)\s*(?:USD|EUR|GBP)\b"
)
_ROWS = re.compile(r"\\begin\{(cases|aligned|align\*?|gathered|split)\}(.*?)\\end\{\1\}", re.DOTALL)
_CONDITION = re.compile(r"\s*,?\s*&(?!\s*=)\s*(?:\\(?:text|mbox|textrm)\{\s*,?\s*(?:if|for|when|where)\b\s*\})?")
_ROW_END = re.compile(r"\\\\(?:\s*\[\s*-?[\d.]+\s*[a-z]{2}\s*\])?")
_CHOICE_OF = re.compile(r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))")
_MINUTES = re.compile(rf"(\d+)\s*{_DEGREE.pattern}\s*(\d+)\s*'(?!')(?:\s*(\d+(?:\.\d+)?)\s*(?:''|\"))?")
_DEGREE_SCALE = re.compile(rf"{_DEGREE.pattern}[\s{TEXT}]*([Cc]elsius|[Ff]ahrenheit|[CF])(?![a-zA-Z])\s*{END}?")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc|cis)(?![a-zA-Z])")
_TYPED_RELATIONS = (
    (":=", "="),
    (">=", "\\geq "),
    ("<=", "\\leq "),
    ("=<", "\\leq "),
    (" !=", "\\ne "),
    ("+/-", "\\pm "),
)
_EDGE = " \t\n.,;:。、"
QUOTES = "\"'`“”‘"


def normalize(answer: str) -> str:
    """The one spelling of an answer. Never raises; over-long text is cut, and then equals nothing but itself."""
    text = _COMMENT.sub("", _characters(answer[: MAX_LENGTH + 1]))
    text = _ESCAPED.sub(r"\\", _BOLD.sub(r"\1", text))
    text = re.sub(r"\\(q?quad)(?=[a-zA-Z])", r"\\\1 ", text)
    text = _numbers(text)
    for sign, command in _TYPED_RELATIONS:
        text = text.replace(sign, command)
    text = _one_line(text)
    text = re.sub(r"\$+|\\[()]|(?<!\\)\\\[|(?<!\\)\\\]", " ", text)
    text = _TYPED_UNIT.sub(rf" {TEXT}\1{END} ", _commands(text))
    text = _POLAR.sub(r"\\cis ", _UNIT_VECTOR.sub(r" \1 ", _RAISED_PRIME.sub(r"\1", text)))
    text = _PLAIN_DOMAIN.sub(r"\1 \\mathbb{\2}", _MAPS_TO.sub(r"\1(\2)=", text))
    text = _CHINESE.sub(lambda m: m[1] or f"{TEXT}{m[2]}{END}", text)
    text = re.sub(r"\\\{\s*\\\}", r"\\emptyset ", text)
    text = _CHOICE_OF.sub(r"\\\1(\2)", text)
    text = _DERIVATIVE.sub(r"\1'", _raised_arguments(_fractions(text)))
    text = _degrees(text)
    text = re.sub(r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", text)
    text = _POSITIVE_INTEGERS.sub(r"\\mathbb{Z}^+", text)
    text = re.sub(r"\\mathcal\s*\{?\s*O\s*\}?", "O", text)
    text = _ANGLED.sub(r"\\langle \1\\rangle ", text)
    text = re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", text)
    text = _MODULO.sub(r"\\pmod{\1}", _exponents(text))
    text = re.sub(r"\s+", " ", _ORDINAL.sub(r"\1", text))
    return _strip_edges(text)


def _numbers(text: str) -> str:
    """1{,}234, \\$5, 3 1/2, 2 x 10^3, 0.333... as ``expression`` reads them."""
    text = _THOUSANDS.sub("", text)
    text = _BRACED_SIGN.sub(r"\1", text)
    text = _MONEY.sub(lambda m: f"{m[2]}{TEXT}{_CURRENCIES[m[1]]}{END}", text)
    text = _CURRENCY.sub("", text)
    text = _DOTTED.sub(r"\\overline{\1\2\3}", text)
    text = _DOTS.sub(_without_end, text).replace("...", "\\ldots ")
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", "*", text)
    return re.sub(r"(?<![\d.])(\d+) +(\d+)\s*/\s*(\d+)(?!\d)", r"\1\\frac{\2}{\3}", text)


def _without_end(match: re.Match[str]) -> str:
    """0.333... repeats its last digits for ever; other decimals with dots are cut off there."""
    head, digits = match.groups()
    repeated = _REPEATED.fullmatch(digits)
    if repeated is None or len(digits) < 3:
        return head + digits
    return f"{head}{repeated[1] or ''}\\overline{{{repeated[2] or repeated[4]}}}"


def _one_line(text: str) -> str:
    """Rows of equations as a list, and rows of a matrix without their spacing."""
    if "\\\\" not in text and "&" not in text and "\\begin" not in text:
        return text
    text = re.sub(r"^[^=]{0,20}=\s*(?=\\begin\{cases\}[^&]*&(?!\s*=))", "", text)  # f(x) = in front of its cases
    text = _ONE_CELL.sub(r"\2", _ROWS.sub(_rows_as_list, text))
    text = re.sub(r"\\\\\s*\[\s*-?[\d.]+\s*(?:pt|ex|em|mm|cm)\s*\]", r"\\\\", text)
    return text if "\\begin" in text else re.sub(r"(?<!\\)&", "", text)


def _rows_as_list(match: re.Match[str]) -> str:
    """Equations, or values and their conditions: x & x > 0 becomes x \\text{ if } x > 0."""
    rows = _ROW_END.split(match.group(2).strip().removesuffix("\\\\"))
    if match.group(1) == "cases":
        rows = [_CONDITION.sub(r" \\text{ if }", row, count=1) for row in rows]
    return ", ".join(rows).replace("&", "")


def _fractions(text: str) -> str:
    """\\frac12, {a \\over b} and {n \\choose k} with braces around every argument."""
    text = _ROOT_OF.sub(r"\\sqrt[\1]", text)
    text = _CHOOSE.sub(r"\\binom{\1}{\2}", text)
    text = _explicit_arguments(text)
    text = _OVER.sub(r"\\frac{\1}{\2}", text)
    if "\\over" in text:
        text = re.sub(r"^([^{}]*)\\over(?![a-z])([^{}]*)$", r"\\frac{\1}{\2}", text)
    return text


def _raised_arguments(text: str) -> str:
    """Braces around a fraction or a root that is raised without any: 2^\\frac{1}{3}."""
    out: list[str] = []
    position = 0
    while match := _RAISED_ARGUMENT.search(text, position):
        end = text.find("{", match.end())
        if end < 0:
            break
        _, end = braced(text, end)
        if not text.startswith("\\sqrt", match.end()) and text[end : end + 1] == "{":
            _, end = braced(text, end)
        out.append(f"{text[position : match.start()]}{match[1]}{{{text[match.end() : end]}}}")
        position = end
    return "".join(out) + text[position:]


def _exponents(text: str) -> str:
    """Braces around every exponent and index; 1e5 as a power of ten."""
    text = text.replace("**", "^")
    text = re.sub(r"\^\s*(-?\d+)", r"^{\1}", text)
    text = re.sub(r"([\^_])\s*(\\[a-zA-Z]+|[a-zA-Z'*])", r"\1{\2}", text)
    text = re.sub(r"_\s*(\d+)", r"_{\1}", text)
    return _SPELT_EXPONENT.sub(r"*10^{\1}", _SCIENTIFIC.sub(r"\1*10^{\2}", text))


def unmarked(normalized: str, instead: str = "") -> str:
    """The text without the marks of where text begins and ends."""
    return normalized.replace(TEXT, instead).replace(END, instead)


def key(normalized: str) -> str:
    """Equal keys are the same answer: blanks and text marks do not count, and braces around one character do not
    either.
    """
    text = unmarked(normalized)
    text = re.sub(r"\s+(?!(?<=\d\s)\d)", "", text)  # "3 4" is not 34
    return re.sub(r"\{(\w)\}", r"\1", text)


def _characters(text: str) -> str:
    """Unicode to LaTeX: roots, vulgar fractions, raised and lowered digits, signs, Greek letters."""
    if text.isascii():
        return text
    text = re.sub(
        f"[{''.join(_SUPERSCRIPTS)}]+", lambda m: "^{" + "".join(_SUPERSCRIPTS[c] for c in m.group()) + "}", text
    )
    text = re.sub(f"[{''.join(_SUBSCRIPTS)}]+", lambda m: "_{" + "".join(_SUBSCRIPTS[c] for c in m.group()) + "}", text)
    out = []
    for c in text:
        decomposed = unicodedata.normalize("NFKC", c)
        if c in _CHARACTERS:
            out.append(_CHARACTERS[c])
        elif "\u2044" in decomposed:  # a vulgar fraction
            out.append("\\frac{{{}}}{{{}}}".format(*decomposed.split("\u2044")))
        else:
            out.append(decomposed)
    return _PLAIN_ROOT.sub(lambda m: f"\\sqrt{_ROOTS[m[1]]}{{{m[2] or m[3] or m[4]}}}", "".join(out))


def _commands(text: str) -> str:
    """Rename synonyms, drop styling and spacing, mark text."""
    out: list[str] = []
    position = 0
    while match := _COMMAND.search(text, position):
        out.append(_words(text[position : match.start()]))
        name, symbol = match.group(1), match.group(2)
        position = match.end()
        if symbol is not None:
            out.append(
                {"!": "", "/": "", "%": "%", "&": "&", "#": "#", "_": "_"}.get(
                    symbol, " " if symbol in ",;: \n" else match.group()
                )
            )
        elif (name in _TEXTS or name in _WRAPPERS) and position < len(text) and text[position] == "{":
            content, position = braced(text, position)
            out.append(_text_content(name, content, text[position:]) if name in _TEXTS else _commands(content))
        elif name in _WRAPPERS or name in _TEXTS:
            continue  # without braces it styles the next character
        elif name in ("overline", "overleftrightarrow") and re.match(r"\{\s*[A-Z]\s*[A-Z]\s*\}", text[position:]):
            content, position = braced(text, position)  # the line through two points is named by the points
            out.append(content)
        elif name in ("left", "right") and text[position : position + 1] == ".":
            position += 1
        elif name in _IGNORED and text[position : position + 1] == "{":
            _, position = braced(text, position)
        elif name in _RENAMED:
            new = _RENAMED[name]
            out.append(f"\\{new} " if len(new) > 1 and new.isalpha() else new)
        else:
            out.append(
                f"\\{name} " if text[position : position + 1].isalpha() or match.group().endswith(" ") else f"\\{name}"
            )
    out.append(_words(text[position:]))
    return "".join(out)


def _text_content(command: str, content: str, rest: str) -> str:
    word = content.strip()
    is_unit = word in ("min", "sec") and command != "operatorname" and not re.match(r"\s*[(_{\\a-z]", rest)
    if word in (*FUNCTIONS, "det", "Re", "Im") and not is_unit:
        return f"\\{word} "
    if (
        word in ("e", "i")
        and command in ("mathrm", "operatorname", "textrm", "mathop")
        and not re.match(r"\s*-?\d", rest)
    ):
        return f"{word} "
    content = (content if is_unit else _commands(content)).replace("~", " ")
    return f"{TEXT}{content}{END}" if content.strip() else " "


def _words(plain: str) -> str:
    """Functions and constants that were typed without a backslash: sqrt(2), arcsin(1/2), pi, np.log(3)."""
    plain = plain.replace("~", " ")
    if not any(c.isalpha() for c in plain):
        return plain
    parts = _MARKED.split(plain) if TEXT in plain else [plain]  # what is marked already stays
    return "".join(part if part.startswith(TEXT) else _WORD_CALL.sub(_word, part) for part in parts)


def _word(match: re.Match[str]) -> str:
    word = match.group(1)
    if word == "sqrt" or word in FUNCTIONS or word == "pi":
        return f"\\{word} "
    if word.lower() in ("inf", "infinity"):
        return "\\infty "
    return match.group()


_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1}
_SHORT = re.compile(r"\s*(\\[a-zA-Z]+|[0-9a-zA-Z])")


def _explicit_arguments(text: str) -> str:
    """\\frac12, \\frac{1}2, \\sqrt2, \\sqrt(2) -> with braces around every argument."""
    out: list[str] = []
    position = 0
    pattern = re.compile(r"\\(frac|binom|sqrt)(?![a-zA-Z])\s*")
    while match := pattern.search(text, position):
        out.append(text[position : match.start()] + f"\\{match.group(1)}")
        position = match.end()
        if match.group(1) == "sqrt" and text[position : position + 1] == "[":
            end = text.find("]", position)
            if end < 0:
                break
            out.append(text[position : end + 1])
            position = end + 1
        for _ in range(_ARGUMENTS[match.group(1)]):
            argument, position = _argument(text, position)
            if argument is None:
                break
            out.append("{" + argument + "}")
    out.append(text[position:])
    return "".join(out)


def _argument(text: str, position: int) -> tuple[str | None, int]:
    while position < len(text) and text[position].isspace():
        position += 1
    if text[position : position + 1] == "{":
        content, end = braced(text, position)
        return _explicit_arguments(content), end
    if text[position : position + 1] == "(":
        close = closing_parenthesis(text, position)
        return (None, position) if close is None else (_explicit_arguments(text[position + 1 : close]), close + 1)
    if short := _SHORT.match(text, position):
        return short.group(1), short.end()
    return None, position


def _degrees(text: str) -> str:
    """A degree sign is a unit, dropped after a number; inside a trigonometric function it is a factor."""
    if "\\circ" not in text:
        return text
    text = _MINUTES.sub(_in_degrees, text)
    if _TRIGONOMETRIC.search(text):
        return _DEGREE.sub(r"\\frac{\\pi}{180}", text)
    text = _DEGREE_SCALE.sub(lambda m: f"{TEXT}{'celsius' if m[1][0] in 'Cc' else 'fahrenheit'}{END}", text)
    return _DEGREE.sub(" ", text)


def _in_degrees(match: re.Match[str]) -> str:
    """30 degrees 15' 36" as a fraction of degrees."""
    value = int(match[1]) + Fraction(match[2]) / 60 + Fraction(match[3] or 0) / 3600
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}^{{\\circ}}"


def _strip_edges(text: str) -> str:
    """Drop punctuation around the answer, and braces or parentheses that hold all of it."""
    for _ in range(20):
        before = text
        text = text.lstrip(_EDGE.replace(".", "") + "=").rstrip(_EDGE + "=")
        text = text.strip(QUOTES) if text[:1] in QUOTES else text  # f' keeps its prime
        text = text.removesuffix("\\\\")
        text = re.sub(r"^\.+(?!\d|\\overline|\\dot)", "", text)  # .5 keeps its point
        text = re.sub(r"^\\(?:approx|sim)(?![a-zA-Z])", "", text)
        if text.startswith("{") and braced(text, 0)[1] == len(text) and text.endswith("}") and not text.endswith("\\}"):
            text = text[1:-1]
        if text == before:
            break
    return text
