"""The process that asks math-verify whether two expressions are equal. Run by its path, never imported: see
``pool``.

Protocol: a line of JSON [answer, gold, seconds] in, a line of JSON true, false or null (it cannot read one) out. First
of all a line "ready".
It imports nothing of this package, because importing ``verl`` takes seconds.
"""

import json
import os
import resource
import signal
import sys

MEMORY = 2 << 30  # bytes of address space: enough for sympy, not for an answer that wants to fill the machine
GRACE = 5  # seconds after which the kernel ends this process even if its parent is gone


def main() -> None:
    """Answer questions until the input ends. Limits this process in memory and in time per question."""
    # The folder of this file is in front on sys.path when it is run by its path; none of its modules may hide a
    # library's.
    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != os.path.dirname(os.path.realpath(__file__))]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints goes to stderr, not between the answers
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    equal = _load()
    answers.write("ready\n")
    for line in sys.stdin:
        answer, gold, seconds = json.loads(line)
        # The default action of SIGALRM ends the process in the kernel: Python handlers do not run while GMP works.
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        result = equal(answer, gold)
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(result) + "\n")


def _load():
    import logging

    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)
    # No ExprExtractionConfig: that one hands text to sympy's parse_expr, which evaluates it as Python.
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def equal(answer: str, gold: str) -> bool | None:
        try:
            parsed = [
                parse(f"\\boxed{{{text}}}", config, fallback_mode="first_match", parsing_timeout=None)
                for text in (gold, answer)
            ]
            if verify(*parsed, timeout_seconds=None):
                return True
            readable = all(any(not isinstance(one, str) for one in found) for found in parsed)
            return False if readable else None  # only text was found, no expression
        except MemoryError:
            os._exit(3)  # the heap may be in any state
        except Exception:
            return False

    return equal


if __name__ == "__main__":
    main()
