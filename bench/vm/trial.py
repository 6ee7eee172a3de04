"""What the trials have in common: their options, the cuts, and what the guest says meanwhile."""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from logs import Findings
from machine import MAKE, Hung, Machine, own_network

PORT = 10001
FUSES = 60, 200, 1000  # writes and flushes: while it mounts, while all starts, well under way
NUMBERS = re.compile(r"[0-9]+")


def get_parser(docstring: str, interval: float) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=docstring, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("built", type=Path, help="the folder of build.sh")
    parser.add_argument("folder", type=Path, help="for this trial; what is in it is deleted")
    parser.add_argument("--cuts", type=int, default=30, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of chance (default: %(default)s)")
    parser.add_argument("--fs", choices=MAKE, default="ext4", help="(default: %(default)s)")
    parser.add_argument("--mount", default="defaults", help="options, as in data=writeback")
    parser.add_argument("--size", type=int, default=64, help="of the data disk, MiB")
    parser.add_argument("--interval", type=float, default=interval, help="seconds")
    parser.add_argument("--fuse", action="store_true", help="cut at a write, not at a time")
    parser.add_argument("--booted", action="store_true", help="boot for each cut")
    parser.add_argument("--rotate", type=float, metavar="SECONDS", help="run logrotate this often")
    parser.add_argument("--fill", type=float, metavar="SECONDS", help="fill the disk this often")
    parser.add_argument(
        "--without-sync",
        metavar="PATTERN",
        action="append",
        default=[],
        help="take out the fsync of files that fit ('*.csv'), or SQLite's ('sqlite'); repeatable",
    )
    return parser


class Trial:
    """A guest and what is found out about it."""

    def __init__(self, options: argparse.Namespace, has_server: bool) -> None:
        own_network()
        self.options = options
        self.rng = random.Random(options.seed)
        self.folder: Path = options.folder.resolve()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.machine = Machine(
            options.built.resolve(),
            self.folder / "machine",
            options.fs,
            options.mount,
            options.size,
            options.seed,
            options.booted,
        )
        self.forward = f"udp:127.0.0.1:{PORT}-:{PORT}" if has_server else ""
        self.findings = Findings()
        self.cuts: list[float] = []

    def job(self, services: dict[str, list[str]], disturbed: bool = True) -> dict[str, Any]:
        """Return what the guest is to do; undisturbed it neither rotates nor fills its disk."""
        return {
            "services": services,
            "rotate": disturbed and self.options.rotate,
            "fill": disturbed and self.options.fill,
            "before": ["rm -f filler"],
            "environment": {
                "PYTHONPATH": "/opt/dht22/lossy",
                "WITHOUT_SYNC": " ".join(self.options.without_sync),
            }
            if self.options.without_sync
            else {},
        }

    def run(self, job: dict[str, Any], ready: str, first: float = 0, last: float = 8) -> None:
        """Switch the guest on, and cut its power between `first` and `last` s after it is ready.

        Half of the cuts come in the first quarter of this time, one in five counts from when the
        disk was mounted. With a fuse, chance picks a write or a flush in place of a time.
        """
        fuse = self.rng.randint(1, self.rng.choice(FUSES)) if self.options.fuse else 0
        try:
            self.machine.start(job, self.forward, fuse=fuse)
            if fuse:
                self.machine.burn(30)
            else:
                self.machine.says(ready if self.rng.random() < 0.8 else "MOUNTED")
                longest = self.rng.choice([first + (last - first) / 4, last])
                time.sleep(self.rng.uniform(first, longest))
        except Hung:
            self.findings.count("guest", "hung")
        self.cut()

    def cut(self) -> None:
        """Cut the power, and note what the guest has said."""
        self.cuts.append(self.machine.cut())
        self.findings.count("guest", "cuts")
        name = self.machine.console_path.name
        for line in self.machine.console().splitlines():
            text = line.partition(" ")[2]
            if re.search(r"FAILED|Traceback|Error\b|is empty or torn", line):
                self.findings.add("failed", f"{name}: {line}")
            elif text.startswith("EXIT") and not text.endswith(" 0"):
                self.findings.add("failed", f"{name}: {text}")
            elif re.match(r"[a-z]+: |fsck|START|ROTATED|FULL|ROOM", text):
                text = re.sub(r"b'.*'", "b'...'", text)
                self.findings.count("guest says", NUMBERS.sub("0", text)[:160])

    def end(self) -> int:
        """Show what was found; return the exit code: 1 if anything is wrong."""
        print(f"{len(self.cuts)} cuts: {' '.join(sys.argv)}")
        self.findings.show()
        wrong = "".join(f"{kind}: {text}\n" for kind, text in self.findings.wrong)
        (self.folder / "wrong").write_text(wrong)
        return bool(self.findings.wrong)
