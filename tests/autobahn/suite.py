"""Runs the suite's cases direct and through each level of sluicegate, and says which differ.

Ends with 1 when a case does worse through sluicegate than direct.
"""

import argparse
import asyncio
import contextlib
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections import Counter

from kosoku import FailureError, run_fuzzingclient

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

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
    "12": "permessage-deflate: sizes and kinds of data",
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


@contextlib.contextmanager
def running(command, **more):
    """A child that ends with the block."""
    child = subprocess.Popen(command, text=True, **more)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def listening(proxy):
    """The address in the proxy's banner; its later words are thrown away."""
    address = None
    for line in proxy.stderr:
        if line.startswith("listening "):
            address = line.split()[1]
        if line.startswith("ready in"):
            return address
    sys.exit("sluicegate did not start: run it with the configuration in target/autobahn")


async def outcomes(url, asked):
    """Behaviour at each case, and how it closed, as the suite calls them; and the seconds it took."""
    began = time.monotonic()
    try:
        results = await run_fuzzingclient(url, asked.only, asked.without, concurrency=asked.at_once)
    except FailureError as failure:
        results = failure.results
    outcome = {
        result.case_id: (result.behavior.value, result.behavior_close.value) for result in results
    }
    return outcome, time.monotonic() - began


def is_worse(outcome, direct):
    return any(WORSE[here] > WORSE[there] for here, there in zip(outcome, direct))


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    line = lambda row: "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |"
    return [line(rows[0]), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows[1:])]


def told(outcome):
    behaviour, close = outcome
    return behaviour if close in ("OK", "INFORMATIONAL") else f"{behaviour}, closed: {close}"


def report(by_level, seconds, version, left_out):
    """The results as Markdown; and the cases that are worse than direct."""
    levels = list(by_level)
    direct = by_level["direct"]
    major = lambda case: case.split(".")[0]
    lines = [
        "# Autobahn through sluicegate",
        "",
        "Written by [`run`](run); [README.md](README.md) says how to read it.",
        "",
        f"{version}; kosoku 0.1.0 with Autobahn's {len(direct)} cases, wsproto 1.3.2 as the echo server,"
        f" Python {platform.python_version()}.",
        *([f"Left out: {', '.join(f'`{pattern}`' for pattern in left_out)}."] if left_out else []),
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
        cases = [case for case in direct if major(case) == group]
        if not cases:
            continue
        cells = []
        for level in levels:
            short = lambda outcome: {"OK": "", "NON-STRICT": "n", "INFORMATIONAL": "i"}.get(told(outcome), "x")
            counts = Counter(short(by_level[level][case]) for case in cases)
            others = [f"{count} {sign}" for sign, count in sorted(counts.items()) if sign]
            cells.append(", ".join([str(counts[""]), *others]))
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


async def main():
    parser = argparse.ArgumentParser(prog="tests/autobahn/run", description=__doc__)
    parser.add_argument("--made", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--sluicegate", type=pathlib.Path, default=ROOT / "target/release/sluicegate")
    parser.add_argument("--only", action="append", metavar="CASE", help="such as 7.*; again for more")
    parser.add_argument("--without", action="append", metavar="CASE")
    parser.add_argument("--level", action="append", choices=[level for level in LEVELS if level != "direct"])
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="cases in parallel")
    parser.add_argument("--out", type=pathlib.Path, help="where the results go; else to standard output")
    asked = parser.parse_args()

    build = [asked.sluicegate, "plugin", "build", ROOT / "tests/guests/conversations", "--out", asked.made]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (plugin,) = asked.made.glob("*conversation*guest*.wasm")
    version = subprocess.run([asked.sluicegate, "--version"], check=True, text=True, capture_output=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running([sys.executable, "-B", HERE / "echo.py"], **pipes) as echo:
        server = f"127.0.0.1:{echo.stdout.readline().strip()}"
        config = (HERE / "sluicegate.toml").read_text()
        config = config.replace("@ECHO@", server).replace("@PASS@", str(plugin))
        (asked.made / "sluicegate.toml").write_text(config)
        command = [asked.sluicegate, "run", "--config", asked.made / "sluicegate.toml"]
        with running(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as proxy:
            address = listening(proxy)
            drained = asyncio.to_thread(lambda: [print(line, end="", file=sys.stderr) for line in proxy.stderr])
            drained = asyncio.create_task(drained)
            by_level, seconds = {}, {}
            for level in ["direct", *(asked.level or [level for level in LEVELS if level != "direct"])]:
                url = f"ws://{server}" if level == "direct" else f"ws://{address}/{level}"
                by_level[level], seconds[level] = await outcomes(url, asked)
                print(f"{level}: {seconds[level]:.0f} s", file=sys.stderr)
        await drained
    text, worse = report(by_level, seconds, version.stdout.strip(), asked.without or [])
    if asked.out:
        asked.out.write_text(text)
    else:
        print(text)
    if worse:
        sys.exit(f"worse through sluicegate than direct: {', '.join(worse)}")


# Whoever ends this early ends its children too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
asyncio.run(main())
