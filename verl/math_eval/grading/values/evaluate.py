"""What an expression tree is worth: exact fractions, or 50 digits at chosen points. Every operation is bounded."""

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from verl.math_eval.grading.values.expression import Node

DIGITS = 50
SAME = mpmath.mpf(10) ** -30  # relative difference below which two values are one
NOISE = mpmath.mpf(10) ** -40  # a sum below this is a zero that rounding spoiled
MAX_BITS = 40_000  # of an exact number
MAX_LOG2 = 200_000  # of the magnitude of an approximate one
MAX_FACTORIAL = 3_000
MAX_WHOLE_BITS = 200  # of the numbers in a gcd or lcm
POINTS = 6
WHOLE_POINTS = 16  # for variables that stand for whole numbers
INTEGER_POINTS = 40  # where there are steps as well
MAX_EVALUATIONS = 20_000  # of nodes, over all points of one comparison
WHOLE_LETTERS = "ijklmnpqNM"  # variables that are whole numbers under a floor
_STEPS = frozenset({"floor", "ceil", "sgn"})
_PERIODIC = frozenset({"sin", "cos", "tan", "cot"})
_SIGNED = _STEPS | {"abs", "max", "min"}  # tried with negative values too

_local = threading.local()


class TooLarge(Exception):
    """A number beyond the limits: nothing a benchmark asks for, often meant to keep a grader busy."""


class Undefined(Exception):
    """No value: 1/0, 0/0, log 0 ..."""


class NotRational(Exception):
    """The expression is not a fraction of whole numbers, or not obviously."""


def symbols(node: Node) -> frozenset[str]:
    """The names of the variables."""
    if node[0] == "sym":
        return frozenset({node[1]})
    return frozenset().union(*(symbols(child) for child in _children(node)))


def exact(node: Node) -> Fraction:
    """The value as a fraction. Raises NotRational, TooLarge or Undefined."""
    kind = node[0]
    if kind == "num":
        return node[1]
    if kind == "neg":
        return -exact(node[1])
    if kind == "add":
        total = Fraction(0)
        for child in node[1]:
            total = _bounded(total + exact(child))
        return total
    if kind == "mul":
        product = Fraction(1)
        for child in node[1]:
            product = _bounded(product * exact(child))
        return product
    if kind == "div":
        below = exact(node[2])
        if below == 0:
            raise Undefined("division by zero")
        return _bounded(exact(node[1]) / below)
    if kind == "pow":
        return _exact_power(exact(node[1]), exact(node[2]))
    if kind == "fact":
        return Fraction(math.factorial(_whole(exact(node[1]), MAX_FACTORIAL)))
    if kind == "call":
        return _exact_call(node[1], [exact(child) for child in node[2]])
    raise NotRational(kind)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise TooLarge("a number of too many digits")
    return value


def _whole(value: Fraction, limit: int) -> int:
    if value.denominator != 1 or value < 0:
        raise NotRational("not a whole number")
    if value > limit:
        raise TooLarge("a function of a large whole number")
    return int(value)


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent <= 0:
        raise Undefined("0 to the power 0 or less")
    if exponent.denominator != 1:
        return _exact_root(base, exponent)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and size * abs(exponent) > MAX_BITS:
        raise TooLarge("a large power")
    return base ** int(exponent if abs(base) != 1 else exponent % 2)


def _exact_root(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator > 64 or (base < 0 and exponent.denominator % 2 == 0):
        raise NotRational("root")
    if base < 0:  # the real root: the cube root of -8 is -2
        return _exact_root(-base, exponent) * (-1 if exponent.numerator % 2 else 1)
    above, below = (_integer_root(part, exponent.denominator) for part in (base.numerator, base.denominator))
    return _exact_power(Fraction(above, below), Fraction(exponent.numerator))


def _integer_root(value: int, degree: int) -> int:
    """The whole root; raises NotRational when there is none."""
    if value < 2:
        return value
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high - 1:
        middle = (low + high) // 2
        if middle**degree <= value:
            low = middle
        else:
            high = middle
    if low**degree != value:
        raise NotRational("root")
    return low


def _exact_call(name: str, values: list[Fraction]) -> Fraction:
    if name == "abs":
        return abs(values[0])
    if name == "floor":
        return Fraction(math.floor(values[0]))
    if name == "ceil":
        return Fraction(math.ceil(values[0]))
    if name in ("max", "min"):
        return (max if name == "max" else min)(values)
    if name in ("gcd", "lcm"):
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*(_whole(v, 1 << MAX_WHOLE_BITS) for v in values)))
    if name == "fac2":
        return Fraction(math.prod(range(_whole(values[0], MAX_FACTORIAL), 0, -2)))
    if name == "binom":
        return Fraction(math.comb(*(_whole(v, MAX_FACTORIAL) for v in values)))
    raise NotRational(name)


def approximate(node: Node, at: Mapping[str, Any] | None = None) -> Any:
    """The value in 50 digits, real or complex, with the variables as in ``at``. Raises TooLarge or Undefined."""
    try:
        value = _approximate(node, at or {}, _context())
    except (ZeroDivisionError, ValueError, OverflowError, TypeError) as error:
        raise Undefined(str(error)) from error
    if _context().isnan(value):
        raise Undefined("not a number")
    return value


def _context() -> Any:
    """One mpmath context per thread: its functions change the precision while they work."""
    if not hasattr(_local, "context"):
        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def _approximate(node: Node, at: Mapping[str, Any], mp: Any) -> Any:
    kind = node[0]
    if kind == "num":
        return mp.mpf(node[1].numerator) / node[1].denominator
    if kind == "const":
        return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": mp.inf}[node[1]]
    if kind == "sym":
        return at[node[1]]
    if kind == "neg":
        return -_approximate(node[1], at, mp)
    if kind == "add":
        terms = [_approximate(child, at, mp) for child in node[1]]
        total = mp.fsum(terms) if not any(isinstance(t, mp.mpc) for t in terms) else sum(terms, mp.mpf(0))
        return mp.mpf(0) if abs(total) < NOISE * max(abs(t) for t in terms) else total
    if kind == "mul":
        product = mp.mpf(1)
        for child in node[1]:
            product = product * _approximate(child, at, mp)
        return product
    if kind == "div":
        return _approximate(node[1], at, mp) / _approximate(node[2], at, mp)
    if kind == "pow":
        base = _approximate(node[1], at, mp)
        if not isinstance(base, mp.mpc) and base < 0 and (root := _odd_root(node[2])):
            return (-1) ** root.numerator * _power(-base, mp.mpf(root.numerator) / root.denominator, mp)
        return _power(base, _approximate(node[2], at, mp), mp)
    if kind == "fact":
        return mp.gamma(_gamma_argument(_approximate(node[1], at, mp) + 1))
    values = [_approximate(child, at, mp) for child in node[2]]
    return _stand_in(node[1], values, mp) if kind == "apply" else _call(node[1], values, mp)


def _stand_in(name: str, values: list[Any], mp: Any) -> Any:
    """A value for f(x) that depends on x and on the name in no simple way: f(2x) is then not 2f(x)."""
    if any(_log2(v, mp) > 40 for v in values):
        raise TooLarge("a function of a large number")
    return sum(mp.sin(v * (1 + _share(name, k)) + _share(name, -k - 1)) for k, v in enumerate(values))


def _log2(value: Any, mp: Any) -> float:
    """log2 of the magnitude, roughly; 0 for 0."""
    return 0.0 if value == 0 or mp.isinf(value) else float(mp.mag(value))


def _power(base: Any, exponent: Any, mp: Any) -> Any:
    if mp.isinf(base) or mp.isinf(exponent):
        raise Undefined("infinity in a power")
    if base == 0 and mp.re(exponent) <= 0:
        raise Undefined("0 to the power 0 or less")
    if _log2(exponent, mp) > 64 or abs(exponent) * max(1.0, abs(_log2(base, mp))) > MAX_LOG2:
        raise TooLarge("a large power")
    return base**exponent


def _odd_root(exponent: Node) -> Fraction | None:
    """The exponent, when it is a fraction with an odd denominator: then a negative number has a real root."""
    if exponent[0] not in ("div", "neg"):
        return None
    try:
        value = exact(exponent)
    except (NotRational, TooLarge, Undefined):
        return None
    return value if value.denominator % 2 else None


def _gamma_argument(value: Any) -> Any:
    if abs(value) > MAX_FACTORIAL:
        raise TooLarge("a factorial of a large number")
    return value


def _call(name: str, values: list[Any], mp: Any) -> Any:
    first = values[0]
    if name == "abs":
        return abs(first)
    if name in ("max", "min", "floor", "ceil", "sgn"):
        if any(isinstance(v, mp.mpc) for v in values):
            raise Undefined("order of complex numbers")
        functions: dict[str, Any] = {
            "max": max,
            "min": min,
            "floor": lambda v: mp.floor(v[0]),
            "ceil": lambda v: mp.ceil(v[0]),
            "sgn": lambda v: mp.sign(v[0]),
        }
        return functions[name](values)
    if any(_log2(v, mp) > 40 for v in values):
        raise TooLarge("a function of a large number")
    if name == "binom":
        if max(abs(v) for v in values) > MAX_FACTORIAL:
            raise TooLarge("a binomial of a large number")
        return mp.binomial(*values)
    if name == "fac2":
        return mp.fac2(_gamma_argument(first))
    if name == "exp":
        return _power(+mp.e, first, mp)
    if name == "cis":
        return mp.expj(first)
    if name in ("gcd", "lcm"):
        raise Undefined("of numbers that are not whole")
    if name == "log":
        return mp.log(first) / mp.log(values[1])
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
    value = getattr(mp, names.get(name, name))(first)
    return mp.mpf(0) if name in _PERIODIC and abs(value) < NOISE < abs(first) else value  # sin(pi)


def close(a: Any, b: Any) -> bool:
    """Equal up to rounding in the 50 digits; infinities only to themselves."""
    if a == b:
        return True
    mp = _context()
    if mp.isinf(a) or mp.isinf(b):
        return False
    return abs(a - b) <= SAME * max(abs(a), abs(b))


def agree(left: Node, right: Node) -> bool | None:
    """Whether two expressions with variables are the same function; None when too few points have a value."""
    defined = 0
    for point in _points(left, right):
        try:
            if not close(approximate(left, point), approximate(right, point)):
                return False
            defined += 1
        except Undefined:
            continue
        except TooLarge:
            if defined < 3:
                raise
    return True if defined >= 3 else None


def constant_ratio(left: Node, right: Node) -> Any | None:
    """left / right where that is one finite number other than 0 at every point; otherwise None."""
    ratio = None
    defined = 0
    for point in _points(left, right):
        try:
            above, below = approximate(left, point), approximate(right, point)
        except Undefined:
            continue
        if abs(above) == 0 or abs(below) == 0:
            return None
        if ratio is not None and not close(above / below, ratio):
            return None
        ratio = above / below
        defined += 1
    return ratio if defined >= 3 else None


def _points(left: Node, right: Node) -> Iterator[dict[str, Any]]:
    """Values for the variables: whole numbers where there are steps, both signs where there are absolute values."""
    names = sorted(symbols(left) | symbols(right))
    calls = _calls(left) | _calls(right)
    whole = {n for n in names if n[0] in WHOLE_LETTERS} if calls & _STEPS else set()
    whole |= _whole_symbols(left) | _whole_symbols(right)
    mp = _context()
    affordable = MAX_EVALUATIONS // (_size(left) + _size(right))
    points = INTEGER_POINTS if calls & _STEPS else WHOLE_POINTS
    for k in range(min(points if whole else POINTS, affordable)):
        point = {n: mp.mpf(3) / 10 + 2 * mp.mpf(_share(n, k)) for n in names}  # in (0.3, 2.3)
        for n in whole:
            point[n] = mp.mpf(k + 1 if len(whole) == 1 else 1 + int(points * _share(n, k)))
        yield point
        if calls & _SIGNED:
            yield {n: -v if _share(n, -k - 1) < 0.5 or len(names) == 1 else v for n, v in point.items()}


def _share(name: str, k: int) -> Any:
    """A number in (0, 1) that looks random and is always the same."""
    digest = hashlib.sha256(f"{name} {k}".encode("utf-8", "replace")).digest()
    return _context().mpf(int.from_bytes(digest[:8], "big")) / 2**64


def _calls(node: Node) -> frozenset[str]:
    own = frozenset({node[1]}) if node[0] == "call" else frozenset()
    return own.union(*(_calls(child) for child in _children(node)))


def _whole_symbols(node: Node) -> frozenset[str]:
    """Variables that stand for whole numbers: in the exponent of a negative number, in a factorial or a binomial."""
    own: frozenset[str] = frozenset()
    if node[0] == "fact" or (node[0] == "call" and node[1] in ("binom", "fac2")):
        own = symbols(node)
    elif node[0] == "pow" and _is_negative_number(node[1]):
        own = symbols(node[2])
    return own.union(*(_whole_symbols(child) for child in _children(node)))


def _is_negative_number(node: Node) -> bool:
    try:
        return not symbols(node) and exact(node) < 0
    except (NotRational, TooLarge, Undefined):
        return False


def _size(node: Node) -> int:
    return 1 + sum(_size(child) for child in _children(node))


def _children(node: Node) -> tuple[Node, ...]:
    kind = node[0]
    if kind in ("num", "sym", "const"):
        return ()
    if kind in ("add", "mul"):
        return node[1]
    return node[2] if kind in ("call", "apply") else node[1:]
