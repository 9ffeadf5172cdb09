"""Runs the suite's cases direct and through each level of sluicegate, and says which differ.

Ends with 1 when a case does worse through sluicegate than direct.
"""

import argparse
import asyncio
import contextlib
import json
import pathlib
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from itertools import groupby

from kosoku import FailureError, run_fuzzingclient
from kosoku.cases import CASES

from report import LEVELS, report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Record:
    """Outcomes and seconds by level, in a file, so that a run that was ended early can be resumed."""

    def __init__(self, path, binary, resume):
        self.path = path
        self.kept = {"binary": binary, "outcomes": {}, "seconds": {}}
        if resume and path.exists():
            kept = json.loads(path.read_text())
            if kept["binary"] != binary:
                sys.exit("the run to resume was of another binary")
            self.kept = kept

    def missing(self, level, cases):
        """Those of `cases` that have no outcome yet."""
        return [case for case in cases if case not in self.kept["outcomes"].get(level, {})]

    def keep(self, level, outcomes, seconds):
        self.kept["outcomes"].setdefault(level, {}).update(outcomes)
        self.kept["seconds"][level] = self.kept["seconds"].get(level, 0) + seconds
        # The rename: whoever ends this here finds the whole of the last text.
        begun = self.path.with_suffix(".new")
        begun.write_text(json.dumps(self.kept))
        begun.replace(self.path)

    def of(self, levels, cases):
        """The outcomes of `cases` at each level, and the seconds of the level."""
        outcomes = {level: {case: self.kept["outcomes"][level][case] for case in cases} for level in levels}
        return outcomes, self.kept["seconds"]


def chosen(asked):
    """The cases asked for, in groups none of which takes very long."""
    matches = lambda case, patterns: any(fnmatch(case, pattern) for pattern in patterns)
    cases = [
        case
        for case in CASES
        if matches(case, asked.only or ["*"]) and not matches(case, asked.without or [])
    ]
    long = ("12.", "13.")
    group = lambda case: case.split(".")[: 2 if case.startswith(long) else 1]
    return [(".".join(number), list(cases)) for number, cases in groupby(cases, group)]


async def play(url, cases, at_once):
    """Behaviour at each case, and how it closed, as the suite calls them; and the seconds it took."""
    began = time.monotonic()
    try:
        results = await run_fuzzingclient(url, cases, concurrency=at_once)
    except FailureError as failure:
        results = failure.results
    outcomes = {
        result.case_id: (result.behavior.value, result.behavior_close.value) for result in results
    }
    return outcomes, time.monotonic() - began


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
    """The address in the proxy's banner; its later words are passed on."""
    address = None
    for line in proxy.stderr:
        if line.startswith("listening "):
            address = line.split()[1]
        if line.startswith("ready in"):
            return address
    sys.exit("sluicegate did not start: run it with the configuration in target/autobahn")


async def play_all(groups, levels, asked, record):
    """Plays what `record` lacks: group by group, so that whatever else the machine does meets each level alike."""
    build = [asked.sluicegate, "plugin", "build", ROOT / "tests/guests/conversations", "--out", asked.made]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    (plugin,) = asked.made.glob("*conversation*guest*.wasm")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running([sys.executable, "-B", HERE / "echo.py"], **pipes) as echo:
        server = f"127.0.0.1:{echo.stdout.readline().strip()}"
        config = (HERE / "sluicegate.toml").read_text()
        config = config.replace("@ECHO@", server).replace("@PASS@", str(plugin))
        (asked.made / "sluicegate.toml").write_text(config)
        command = [asked.sluicegate, "run", "--config", asked.made / "sluicegate.toml"]
        with running(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as proxy:
            address = listening(proxy)
            passed_on = asyncio.to_thread(lambda: [print(line, end="", file=sys.stderr) for line in proxy.stderr])
            passed_on = asyncio.create_task(passed_on)
            for number, cases in groups:
                for level in levels:
                    if missing := record.missing(level, cases):
                        url = f"ws://{server}" if level == "direct" else f"ws://{address}/{level}"
                        outcomes, seconds = await play(url, missing, asked.at_once)
                        record.keep(level, outcomes, seconds)
                        print(f"{number}, {level}: {len(missing)} cases, {seconds:.0f} s", file=sys.stderr)
        await passed_on


async def main():
    parser = argparse.ArgumentParser(prog="tests/autobahn/run", description=__doc__)
    parser.add_argument("--made", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--sluicegate", type=pathlib.Path, default=ROOT / "target/release/sluicegate")
    parser.add_argument("--only", action="append", metavar="CASE", help="such as 7.*; again for more")
    parser.add_argument("--without", action="append", metavar="CASE")
    parser.add_argument("--level", action="append", choices=LEVELS, help="beside direct; again for more")
    parser.add_argument("--at-once", type=int, default=4, metavar="N", help="cases in parallel")
    parser.add_argument("--resume", action="store_true", help="keep what the last run found before it was ended")
    parser.add_argument("--out", type=pathlib.Path, help="where the results go; else to standard output")
    asked = parser.parse_args()

    version = subprocess.run([asked.sluicegate, "--version"], check=True, text=True, capture_output=True)
    made = asked.sluicegate.stat()
    record = Record(asked.made / "outcomes.json", [made.st_size, made.st_mtime_ns], asked.resume)
    groups = chosen(asked)
    if not groups:
        parser.error("no case has such a number")
    levels = [level for level in LEVELS if level == "direct" or level in (asked.level or LEVELS)]
    await play_all(groups, levels, asked, record)

    outcomes, seconds = record.of(levels, [case for _, cases in groups for case in cases])
    text, worse = report(outcomes, seconds, version.stdout.strip(), asked)
    if asked.out:
        asked.out.write_text(text)
    else:
        print(text)
    if worse:
        sys.exit(f"worse through sluicegate than direct: {', '.join(worse)}")


# Whoever ends this early ends its children too.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
asyncio.run(main())
