"""Does a text end in a loop?"""

WINDOW = 4000  # characters at the end that are looked at
TIMES = 4  # the unit must come this often in a row
SHORTEST = 100  # and fill at least this many characters: "1000000" is no loop
PROBE = 20


def ends_in_a_loop(text: str) -> bool:
    """Whether the last characters are one unit, of any length up to WINDOW / TIMES, TIMES or more times in a row.

    A unit of period p is found where the last PROBE characters occur again p characters earlier.
    """
    tail = text[-WINDOW:]
    probe, before = tail[-PROBE:], len(tail) - PROBE
    while (before := tail.rfind(probe, 0, before + PROBE - 1)) >= 0:
        period = len(tail) - PROBE - before
        length = max(TIMES * period, SHORTEST)
        if length > len(tail):
            return False
        if tail[-length:-period] == tail[period - length :]:
            return True
    return False
