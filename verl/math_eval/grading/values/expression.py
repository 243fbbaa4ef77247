"""A small reader of LaTeX expressions: normalized text -> a tree of tuples. Nothing is evaluated here and nothing is
ever executed.

Nodes: ("num", Fraction), ("sym", name), ("const", "pi" | "e" | "i" | "infty"), ("add", nodes), ("mul", nodes),
("div", a, b), ("pow", a, b), ("neg", a), ("fact", a), ("call", function name, nodes), and ("apply", name, nodes) for an
unknown function like f.
"""

import re
from fractions import Fraction
from typing import Any

from verl.math_eval.grading.brackets import braced
from verl.math_eval.grading.normalize import END, FUNCTIONS, GREEK, TEXT, unmarked, word_list

MAX_DEPTH = 40
MAX_TOKENS = 1_500
MAX_CHAIN = 100  # operators of one kind in a row: each adds a level to the tree
MAX_DIGITS = 1_000

Node = tuple

_LIST_FUNCTIONS = word_list("max min gcd lcm")  # of any number of arguments
_UNKNOWN_FUNCTION = re.compile(r"([fghFGH])(?:\s*(?:'|[_^]\{[^{}]*\}))*\s*(\()?")
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot"}
_DECORATED = word_list(
    "hat bar vec dot ddot tilde overline overrightarrow mathcal mathbb mathfrak mathscr widehat widetilde underline"
)
_SYMBOLS = (*GREEK, *word_list("vartheta varrho Upsilon hbar ell Re Im nabla partial odot oplus star mho"))
_TOKEN = re.compile(
    rf"\s*(?:(?P<repeat>\d*\.\d*\\(?:overline|dot|bar)\s*\{{\d{{1,60}}\}})|(?P<num>\d+(?:\.\d*)?|\.\d+)|(?P<text>{TEXT}[^{END}]*{END})"
    r"|(?P<cmd>\\[a-zA-Z]+)|(?P<letter>[a-zA-Z])|(?P<op>[-+*/^_!|()\[\]{}',]))"
)
_DIFFERENTIAL = re.compile(
    r"\s*d\s*(?:\^\{\d\}\s*)?(?:[a-zA-Z]|\\[a-zA-Z]+)\s*(?:_\{[^{}]*\}|\([a-z]\))?\s*(?:\^\{\d\}\s*)?$"
)


class Unreadable(Exception):
    """The text is not an expression that this reader knows."""


def unknown_functions(*texts: str) -> frozenset[str]:
    """The letters out of f, g, h that stand before "(" wherever they occur: f(2x) is then no product, g(m+M) beside gm
    is one.
    """
    found = [
        match
        for text in texts
        for match in _UNKNOWN_FUNCTION.finditer(re.sub(rf"\\[a-zA-Z]+|{TEXT}[^{END}]*{END}", " ", text))
    ]
    return frozenset(m[1] for m in found) - frozenset(m[1] for m in found if not m[2])


def read(text: str, tight: bool = True, functions: frozenset[str] = frozenset()) -> tuple[Node, bool]:
    """(tree, whether "/" could be meant in another way). ``tight``: 1/2x is 1/(2x); otherwise it is (1/2)x.

    functions: letters that are applied to what follows them in parentheses. Raises Unreadable for anything
    unknown, malformed or too large.
    """
    parser = _Parser(text, tight, functions)
    try:
        tree = parser.expression()
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    if parser.kind is not None:
        raise Unreadable(f"unexpected {parser.value!r}")
    return tree, parser.ambiguous


class _Parser:
    def __init__(self, text: str, tight: bool, functions: frozenset[str]):
        self.text, self.tight, self.functions = text, tight, functions
        self.tokens = _tokens(text)
        self.index = -1
        self.kind: Any = None  # of the token at hand, None at the end
        self.value: Any = None
        self.end = 0
        self.depth = self.bars = 0
        self.ambiguous = False
        self._advance()

    def _advance(self) -> Any:
        """Move on; return the value of the token just passed."""
        left = self.value if self.index >= 0 else None
        self.index += 1
        done = self.index >= len(self.tokens)
        self.kind, self.value, self.end = (None, None, len(self.text)) if done else self.tokens[self.index]
        return left

    def _expect(self, value: str) -> None:
        if self.value != value:
            raise Unreadable(f"expected {value!r}, found {self.value!r}")
        self._advance()

    def expression(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        terms = [self._signed_term()]
        while self.value in ("+", "-"):
            terms.append(self._signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", tuple(terms))

    def _signed_term(self) -> Node:
        negative = False
        while self.value in ("+", "-"):
            negative ^= self._advance() == "-"
        term = self._term()
        return ("neg", term) if negative else term

    def _term(self) -> Node:
        left = self._product() if self.tight else self._power()
        for _ in range(MAX_CHAIN):
            if self.value in ("*", "/"):
                operator = self._advance()
                right = self._operand()
                left = ("div", left, right) if operator == "/" else ("mul", (left, right))
            elif not self.tight and self._starts_operand():
                left = ("mul", (left, self._power()))
            else:
                return left
        raise Unreadable("too many factors")

    def _operand(self) -> Node:
        """What follows * or /; it may carry its own sign."""
        if self.value in ("+", "-"):
            return ("neg", self._operand()) if self._advance() == "-" else self._operand()
        if not self.tight:
            return self._power()
        product = self._product()
        self.ambiguous |= product[0] == "mul"
        return product

    def _product(self, stop_at_functions: bool = False) -> Node:
        """Factors side by side."""
        factors = [self._power()]
        while self._starts_operand() and not (stop_at_functions and self._function_name()):
            factors.append(self._power())
        return factors[0] if len(factors) == 1 else ("mul", tuple(factors))

    def _starts_operand(self) -> bool:
        if self.kind == "op":
            return self.value in "([{" or (self.value == "|" and not self.bars)
        if self.kind == "cmd":
            return self.value not in ("\\rfloor", "\\rceil")
        return self.kind is not None

    def _power(self) -> Node:
        node = self._atom()
        for _ in range(MAX_CHAIN):
            if self.value not in ("^", "!"):
                return node
            if self._advance() == "^":
                node = ("pow", node, self._group())
            elif self.value == "!":
                self._advance()
                node = ("call", "fac2", (node,))
            else:
                node = ("fact", node)
        raise Unreadable("too many powers")

    def _group(self) -> Node:
        """A braced argument, or one token."""
        if self.value == "{":
            self._advance()
            node = self.expression()
            self._expect("}")
            return node
        if self.value == "-":
            self._advance()
            return ("neg", self._group())
        return self._atom()

    def _atom(self) -> Node:
        kind, value = self.kind, self.value
        if kind in ("num", "repeat"):
            return self._number()
        if kind == "letter":
            return self._symbol(value)
        if kind == "text":
            self._advance()
            return ("sym", unmarked(value).strip(" "))
        if kind == "op" and value in "([{":
            return self._enclosed({"(": ")", "[": "]", "{": "}"}[value])
        if kind == "op" and value == "|":
            self.bars += 1
            inner = self._enclosed("|")
            self.bars -= 1
            return ("call", "abs", (inner,))
        if kind == "cmd":
            return self._command(value[1:])
        raise Unreadable(f"expected a value, found {value!r}")

    def _enclosed(self, close: str) -> Node:
        self._advance()
        bars, self.bars = self.bars, self.bars if close == "|" else 0
        node = self.expression()
        self.bars = bars
        self._expect(close)
        return node

    def _number(self) -> Node:
        text = self._advance()
        value = _number_value(text)
        if text.isdigit() and self.value == "\\frac" and (part := self._proper_fraction()):
            return ("num", value + part)
        return ("num", value)

    def _proper_fraction(self) -> Fraction | None:
        """Behind a whole number, \\frac{1}{2} is added, not multiplied: 3\\frac{1}{2} is a mixed number."""
        values = [token[1] for token in self.tokens[self.index + 1 : self.index + 7]]
        if len(values) < 6 or [values[i] for i in (0, 2, 3, 5)] != ["{", "}", "{", "}"]:
            return None
        if not (values[1].isdigit() and values[4].isdigit() and 0 < int(values[1]) < int(values[4])):
            return None
        for _ in range(7):
            self._advance()
        return Fraction(int(values[1]), int(values[4]))

    def _symbol(self, letter: str) -> Node:
        self._advance()
        name = letter + self._suffix()
        if letter in self.functions:
            while self.value == "^":  # f^{-1}(x)
                name += self._advance() + self._raw_group()
            return ("apply", name, self._arguments())
        if name in ("e", "i"):
            return ("const", name)
        return ("sym", name)

    def _suffix(self) -> str:
        """Subscript and primes: they belong to the name."""
        name = ""
        while True:
            if self.value == "'":
                name += self._advance()
            elif self.value == "_":
                self._advance()
                name += "_" + self._raw_group()
            elif self.value == "^" and re.match(r"\s*\{\s*(?:'+|\*)\s*\}", self.text[self.end :]):
                self._advance()
                name += self._raw_group()
            else:
                return name

    def _raw_group(self) -> str:
        """The text of a braced group, without blanks, or one token."""
        if self.value != "{":
            if self.kind is None:
                raise Unreadable("an empty argument")
            return self._advance()
        start = self.end - 1
        content, end = braced(self.text, start)
        if start + len(content) + 2 > end:
            raise Unreadable("a brace never closes")
        while self.kind is not None and self.end <= end:
            self._advance()
        return re.sub(r"\s", "", unmarked(content))

    def _function_name(self) -> str | None:
        name = self.value[1:] if self.kind == "cmd" else ""
        return name if name in FUNCTIONS else None

    def _command(self, name: str) -> Node:
        if self._function_name():
            return self._call(name)
        if name == "frac":
            return self._fraction()
        self._advance()
        if name == "sqrt":
            return self._root()
        if name == "binom":
            return ("call", "binom", (self._group(), self._group()))
        if name in ("lfloor", "lceil"):
            inner = self.expression()
            self._expect("\\r" + name[1:])
            return ("call", name[1:], (inner,))
        if name in ("pi", "infty"):
            suffix = self._suffix()
            return ("sym", name + suffix) if suffix else ("const", name)
        if name in _DECORATED:
            return ("sym", f"{name}({self._raw_group()})" + self._suffix())
        if name in _SYMBOLS:
            return ("sym", f"\\{name}" + self._suffix())
        raise Unreadable(f"unknown command \\{name}")

    def _fraction(self) -> Node:
        start = self.end
        over, after = braced(self.text, self.text.find("{", start)) if "{" in self.text[start:] else ("", start)
        under, _ = braced(self.text, self.text.find("{", after)) if "{" in self.text[after:] else ("", after)
        self._advance()
        if _DIFFERENTIAL.match(over) and _DIFFERENTIAL.match(under):
            return ("sym", f"d({self._raw_group()})/d({self._raw_group()})")
        return ("div", self._group(), self._group())

    def _root(self) -> Node:
        degree: Node = ("num", Fraction(2))
        if self.value == "[":
            self._advance()
            degree = self.expression()
            self._expect("]")
        return ("pow", self._group(), ("div", ("num", Fraction(1)), degree))

    def _call(self, name: str) -> Node:
        self._advance()
        base = power = None
        while self.value in ("_", "^"):
            if self._advance() == "_":
                base = self._group()
            else:
                power = self._group()
        if power == ("neg", ("num", Fraction(1))) and name in _INVERSE:
            name, power = _INVERSE[name], None
        if name in _LIST_FUNCTIONS:
            node: Node = ("call", name, self._arguments())
        else:
            argument = self._argument()
            if name in ("log", "lg"):
                base = base or ("num", Fraction(10))
            node = ("call", "log", (argument, base)) if name in ("log", "lg") else ("call", name, (argument,))
        return ("pow", node, power) if power is not None else node

    def _argument(self) -> Node:
        """(x), {x}, or everything up to the next sign, * or /, or function: \\sin 2x is \\sin(2x)."""
        if self.value == "-":
            self._advance()
            return ("neg", self._argument())
        if self.value in ("(", "[", "{"):
            return self._atom()
        return self._product(stop_at_functions=True)

    def _arguments(self) -> tuple[Node, ...]:
        close = {"(": ")", "{": "}"}.get(self.value)
        if close is None:
            raise Unreadable("expected arguments")
        self._advance()
        nodes = [self.expression()]
        while self.value == ",":
            self._advance()
            nodes.append(self.expression())
        self._expect(close)
        return tuple(nodes)


def _tokens(text: str) -> list[tuple[str, str, int]]:
    """(kind, value, end position) of each token."""
    found, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise Unreadable(f"unknown sign {text[position : position + 10]!r}")
        kind = str(match.lastgroup)
        found.append((kind, match.group(kind), match.end()))
        position = match.end()
        if len(found) > MAX_TOKENS:
            raise Unreadable("too long")
    return found


def _number_value(text: str) -> Fraction:
    """12, 0.5, .5, 5. or 0.1\\overline{6}."""
    if len(text) > MAX_DIGITS:
        raise Unreadable("a number of too many digits")
    if "\\" in text:
        return _repeating(text)
    return Fraction("0" + text if text.startswith(".") else text.rstrip("."))


def _repeating(text: str) -> Fraction:
    """0.1\\overline{6} -> 1/6."""
    whole, rest = text.split(".", 1)
    match = re.fullmatch(r"(\d*)\\[a-z]+\s*\{(\d+)\}", rest)
    assert match is not None, text  # the token's pattern says so
    fixed, period = match.groups()
    head = Fraction(int((whole + fixed) or "0"), 10 ** len(fixed))
    return head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
