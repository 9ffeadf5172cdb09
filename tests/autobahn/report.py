"""What a run found, as Markdown."""

import platform
from collections import Counter

LEVELS = {
    "direct": "the echo server itself",
    "copy": "`follow = false`: bytes",
    "follow": "the default: frame heads are followed",
    "messages": "a filter that is asked about each message and passes it on",
    "terminate": "the same, with `compression = \"terminate\"`",
}

GROUPS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "closing",
    "9": "limits and speed: up to 16 MiB, 65,536 frames",
    "10": "fragments of the suite's own",
    "12.1": "permessage-deflate: JSON",
    "12.2": "permessage-deflate: a bitmap",
    "12.3": "permessage-deflate: German prose",
    "12.4": "permessage-deflate: HTML",
    "12.5": "permessage-deflate: a PDF",
    "13": "permessage-deflate: parameters",
}

# How bad an outcome is; what the standard leaves open is not.
WORSE = {
    "OK": 0,
    "INFORMATIONAL": 0,
    "NON-STRICT": 1,
    "UNIMPLEMENTED": 2,
    "UNCLEAN": 3,
    "WRONG CODE": 3,
    "FAILED BY CLIENT": 3,
    "FAILED": 4,
    "ERROR": 5,
}


def report(by_level, seconds, version, asked):
    """The text, and the cases that are worse than direct."""
    levels = list(by_level)
    direct = by_level["direct"]
    lines = [
        "# Autobahn through sluicegate",
        "",
        "Written by [`run`](run); [README.md](README.md) says how to read it.",
        "",
        f"{version}; kosoku 0.1.0 with Autobahn's {len(direct)} cases, wsproto 1.3.2 as the echo server,"
        f" Python {platform.python_version()}.",
        *selection(asked),
        "",
        "| level | what it is | seconds |",
        "|---|---|--:|",
        *(f"| {level} | {LEVELS[level]} | {seconds[level]:.0f} |" for level in levels),
        "",
        "Cases that are OK, of all in their group (n: non-strict; i: informational; x: any other):",
        "",
    ]
    rows = [["group", "cases", *levels]]
    for group, title in GROUPS.items():
        cases = [case for case in direct if f"{case}.".startswith(f"{group}.")]
        if cases:
            cells = [counted(by_level[level][case] for case in cases) for level in levels]
            rows.append([f"{group} {title}", str(len(cases)), *cells])
    lines += table(rows)
    differing = [["case", *levels]]
    worse = []
    for case in direct:
        outcome = [by_level[level][case] for level in levels]
        if any(is_worse(one, direct[case]) for one in outcome):
            worse.append(case)
        if any(told(one) != told(outcome[0]) for one in outcome):
            differing.append([case, *map(told, outcome)])
    lines += ["", f"Worse than direct: {', '.join(worse) or 'none'}."]
    if len(differing) > 1:
        lines += ["", "Cases whose outcome is not the same everywhere:", "", *table(differing)]
    return "\n".join(lines) + "\n", worse


def selection(asked):
    """Why these are not all cases of the suite, where they are not."""
    listed = lambda patterns: ", ".join(f"`{pattern}`" for pattern in patterns)
    if asked.only:
        yield f"Only: {listed(asked.only)}."
    if asked.without:
        yield f"Left out: {listed(asked.without)}."


def counted(outcomes):
    short = lambda outcome: {"OK": "", "NON-STRICT": "n", "INFORMATIONAL": "i"}.get(told(outcome), "x")
    counts = Counter(map(short, outcomes))
    others = [f"{count} {sign}" for sign, count in sorted(counts.items()) if sign]
    return ", ".join([str(counts[""]), *others])


def told(outcome):
    behaviour, close = outcome
    return behaviour if close in ("OK", "INFORMATIONAL") else f"{behaviour}, closed: {close}"


def is_worse(outcome, direct):
    return any(WORSE[here] > WORSE[there] for here, there in zip(outcome, direct))


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    line = lambda row: "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |"
    return [line(rows[0]), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows[1:])]
