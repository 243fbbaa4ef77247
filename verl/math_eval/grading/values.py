"""What an expression tree is worth: exact fractions, or 50 digits at chosen points. Every operation is bounded."""

import hashlib
import math
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

import mpmath

from verl.math_eval.grading.expression import Node

DIGITS = 50
SAME = mpmath.mpf(10) ** -30  # relative difference below which two values are one
NOISE = mpmath.mpf(10) ** -40  # a sum below this is a zero that rounding spoiled
MAX_BITS = 40_000  # of an exact number
MAX_LOG2 = 200_000  # of the magnitude of an approximate one
MAX_FACTORIAL = 3_000
MAX_WHOLE_BITS = 200  # of the numbers in a gcd or lcm
POINTS = 6
INTEGER_POINTS = 40
MAX_EVALUATIONS = 20_000  # of nodes, over all points of one comparison
_STEPS = frozenset({"floor", "ceil", "sgn"})

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
        return _gamma(_approximate(node[1], at, mp) + 1, mp)
    return _call(node[1], [_approximate(child, at, mp) for child in node[2]], mp)


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


def _gamma(value: Any, mp: Any) -> Any:
    if abs(value) > MAX_FACTORIAL:
        raise TooLarge("a factorial of a large number")
    return mp.gamma(value)


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
    if name == "exp":
        return _power(+mp.e, first, mp)
    if name == "cis":
        return mp.expj(first)
    if name in ("gcd", "lcm"):
        raise Undefined("of numbers that are not whole")
    if name == "log":
        return mp.log(first) / mp.log(values[1])
    names = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"}
    return getattr(mp, names.get(name, name))(first)


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
    mp = _context()
    affordable = MAX_EVALUATIONS // (_size(left) + _size(right))
    if calls & _STEPS:
        for k in range(1, min(INTEGER_POINTS, affordable) + 1):
            yield {n: mp.mpf(k if len(names) == 1 else 1 + _hash(n, k) % INTEGER_POINTS) for n in names}
        return
    for k in range(min(POINTS, affordable)):
        point = {n: mp.mpf(3) / 10 + mp.mpf(_hash(n, k)) / 2**63 for n in names}  # in (0.3, 2.3)
        yield point
        if "abs" in calls or calls & {"max", "min"}:
            yield {n: -v if (_hash(n, -k - 1) >> 7) % 2 or len(names) == 1 else v for n, v in point.items()}


def _hash(name: str, k: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{name} {k}".encode("utf-8", "replace")).digest()[:8], "big")


def _calls(node: Node) -> frozenset[str]:
    own = frozenset({node[1]}) if node[0] == "call" else frozenset()
    return own.union(*(_calls(child) for child in _children(node)))


def _size(node: Node) -> int:
    return 1 + sum(_size(child) for child in _children(node))


def _children(node: Node) -> tuple[Node, ...]:
    kind = node[0]
    if kind in ("num", "sym", "const"):
        return ()
    if kind in ("add", "mul"):
        return node[1]
    return node[2] if kind == "call" else node[1:]
