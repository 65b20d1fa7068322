"""What clients saw, as JSON lines, and a checker that decides afterwards whether it may be so.

Every line is one operation: a `write` with its receipt, a `read` with what the snapshot held, and at the end `final`,
all rows of the last snapshot. The checker knows nothing of the server, only the promises:

D  the rows of a snapshot are the acknowledged writes up to its watermark, each exactly once
P  a snapshot is a prefix of the log without a gap, and the log's order is the order of acknowledgements
S  one snapshot id always has one content
T  a read that asked for a token got a snapshot that covers it, or an error that says why not

Run it on a file: ``python history.py FILE``.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TextIO

from attrs import define, field, frozen

EXPLAINED: Final = frozenset({"CONSISTENCY_TIMEOUT", "WRITE_PARKED"})


@frozen
class Violation:
    """A promise that was broken, by which line."""

    promise: str
    what: str


@define
class History:
    """Writes lines; safe from one event loop."""

    file: TextIO
    lines: int = 0

    def write(self, *, ids: Sequence[int], began: float, ended: float, receipt: Any) -> None:
        """A write that was acknowledged."""
        self._line(
            op="write", ids=list(ids), began=began, ended=ended, token=receipt["max_visibility_token"],
            accepted=receipt["accepted_count"], duplicates=receipt["duplicate_count"],
        )  # fmt: skip

    def unknown(self, *, ids: Sequence[int]) -> None:
        """A write whose answer was lost: it may be there, or not."""
        self._line(op="unknown", ids=list(ids))

    def read(self, *, asked: int | None, snapshot: int, watermark: int, rows: int, total: int, last: int) -> None:
        """A read: number of rows, sum of the ids and greatest token of what it saw."""
        self._line(op="read", asked=asked, snapshot=snapshot, watermark=watermark, rows=rows, total=total, last=last)

    def refused(self, *, asked: int | None, code: str) -> None:
        """A read that was answered with an error."""
        self._line(op="refused", asked=asked, code=code)

    def final(self, *, watermark: int, rows: Sequence[tuple[int, int]]) -> None:
        """All rows of the last snapshot: id and token."""
        self._line(op="final", watermark=watermark, rows=[list(row) for row in rows])

    def _line(self, **operation: Any) -> None:
        self.file.write(json.dumps(operation) + "\n")
        self.lines += 1


@define
class _Checker:
    operations: Sequence[dict[str, Any]]
    violations: list[Violation] = field(factory=list)

    def run(self) -> list[Violation]:
        final = next(line for line in reversed(self.operations) if line["op"] == "final")
        stored = sorted((token, identity) for identity, token in final["rows"])
        self._check_content(stored, final["watermark"])
        self._check_order()
        self._check_reads(stored)
        return self.violations

    def _of(self, *kinds: str) -> list[dict[str, Any]]:
        return [line for line in self.operations if line["op"] in kinds]

    def _broken(self, promise: str, what: str) -> None:
        self.violations.append(Violation(promise, what))

    def _check_content(self, stored: Sequence[tuple[int, int]], watermark: int) -> None:
        """D: every acknowledged id once, under the token of its first receipt, and nothing that nobody sent."""
        token_of: dict[int, int] = {}
        for token, identity in stored:
            if identity in token_of:
                self._broken("D", f"id {identity} stands twice, at tokens {token_of[identity]} and {token}")
            token_of[identity] = token
            if token > watermark:
                self._broken("D", f"id {identity} has token {token}, over the watermark {watermark}")
        acknowledged = set()
        for line in self._of("write"):
            for identity in line["ids"]:
                acknowledged.add(identity)
                self._check_receipt(identity, line, token_of.get(identity))
        maybe = {identity for line in self._of("unknown") for identity in line["ids"]}
        for identity in token_of.keys() - acknowledged - maybe:
            self._broken("D", f"id {identity} was never sent")
        sent_once = sum(line["accepted"] for line in self._of("write"))
        if not maybe and sent_once != len(stored):
            self._broken("D", f"receipts say that {sent_once} records are new, and {len(stored)} are there")

    def _check_receipt(self, identity: int, line: dict[str, Any], token: int | None) -> None:
        if token is None:
            self._broken("D", f"id {identity} was acknowledged with token {line['token']} and is lost")
        elif line["accepted"] and token != line["token"]:
            self._broken("D", f"id {identity} was acknowledged with token {line['token']} and stands at {token}")
        elif token > line["token"]:
            self._broken("T", f"the receipt {line['token']} of a repeated id {identity} does not cover {token}")

    def _check_order(self) -> None:
        """P: who began after another had been acknowledged has the greater token."""
        writes = [line for line in self._of("write") if line["accepted"]]
        ended = sorted(writes, key=lambda line: line["ended"])
        began = sorted(writes, key=lambda line: line["began"])
        greatest, position = 0, 0
        for line in began:
            while position < len(ended) and ended[position]["ended"] < line["began"]:
                greatest = max(greatest, ended[position]["token"])
                position += 1
            if line["token"] <= greatest:
                self._broken("P", f"token {line['token']} began after {greatest} was acknowledged")

    def _check_reads(self, stored: Sequence[tuple[int, int]]) -> None:
        """D and P for each snapshot that somebody saw; S among those of one id; T for those who asked."""
        prefixes = _Prefixes(stored)
        seen: dict[int, tuple[int, ...]] = {}
        for line in self._of("read"):
            content = (line["watermark"], line["rows"], line["total"], line["last"])
            first = seen.setdefault(line["snapshot"], content)
            if first != content:
                self._broken("S", f"snapshot {line['snapshot']} was {first} and then {content}")
            expected = prefixes.upto(line["watermark"])
            if content[1:] != expected:
                self._broken("P", f"snapshot {line['snapshot']} at {line['watermark']}: {content[1:]}, not {expected}")
            if line["asked"] is not None and line["watermark"] < line["asked"]:
                self._broken("T", f"asked for {line['asked']}, read at {line['watermark']}")
        for earlier, later in pairwise(sorted((number, content[0]) for number, content in seen.items())):
            if later[1] < earlier[1]:
                self._broken("P", f"the watermark went from {earlier[1]} back to {later[1]}")
        for line in self._of("refused"):
            if line["code"] not in EXPLAINED:
                self._broken("T", f"a read with token {line['asked']} was answered {line['code']}")


class _Prefixes:
    """Number of rows, sum of ids and greatest token of every prefix of the log."""

    def __init__(self, stored: Sequence[tuple[int, int]]) -> None:
        self._tokens = [token for token, _ in stored]
        self._totals = [0]
        for _, identity in stored:
            self._totals.append(self._totals[-1] + identity)

    def upto(self, watermark: int) -> tuple[int, int, int]:
        low, high = 0, len(self._tokens)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._tokens[middle] <= watermark else (low, middle)
        return low, self._totals[low], self._tokens[low - 1] if low else 0


def check(lines: Iterable[str]) -> list[Violation]:
    """The promises that a history breaks; it must have a `final` line."""
    return _Checker([json.loads(line) for line in lines if line.strip()]).run()


def main() -> int:
    """Check the file that is named on the command line."""
    found = check(Path(sys.argv[1]).read_text().splitlines())
    sys.stdout.writelines(f"{violation.promise}: {violation.what}\n" for violation in found)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
