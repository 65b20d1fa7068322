"""The regression gate: this run's ratios beside the stored ones.

Only ratios are compared, because they carry over between machines; absolute figures do not.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BASELINE = Path(__file__).with_name("baseline.json")


def baseline_of(results: dict[str, Any]) -> dict[str, Any]:
    """Keep what the gate needs: the ratio of every goal, its direction and its tolerance."""
    return {
        "started": results["started"],
        "machine": results["machine"],
        "ratios": {
            f"{row['name']}: {goal['name']}": {
                "ratio": goal["value"],
                "at_least": goal["at_least"],
                "tolerance": goal["tolerance"],
            }
            for row in results["rows"]
            for goal in row["goals"]
            if goal["relative"] and goal["value"] is not None
        },
    }


def save(results: dict[str, Any], path: Path = BASELINE) -> None:
    """Store this run as the baseline."""
    path.write_text(json.dumps(baseline_of(results), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find(name: str) -> Path:
    """Resolve what ``--compare`` was given: ``baseline``, or a file that ``--save-baseline`` or a run wrote."""
    return BASELINE if name == "baseline" else Path(name)


def load(path: Path) -> dict[str, Any]:
    """Read a baseline, or the results of a run as one."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    return stored if "ratios" in stored else baseline_of(stored)


def regressions(results: dict[str, Any], baseline: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence per ratio that is worse than the baseline by more than its tolerance.

    A row that the baseline has and this run measured but could not finish is a regression too.
    """
    now = baseline_of(results)["ratios"]
    for row in results["rows"]:
        if row["failure"] and any(name.startswith(f"{row['name']}: ") for name in baseline["ratios"]):
            yield f"{row['name']}: failed: {row['failure']}"
    for name, stored in baseline["ratios"].items():
        if name in now and (limit := _limit(stored)) is not None:
            ratio = now[name]["ratio"]
            if ratio < limit if stored["at_least"] else ratio > limit:
                word = "below" if stored["at_least"] else "above"
                yield f"{name}: {ratio:.3g} is {word} {limit:.3g} (baseline {stored['ratio']:.3g})"


def _limit(stored: dict[str, Any]) -> float | None:
    if stored["ratio"] is None or stored["tolerance"] is None:
        return None
    sign = -1 if stored["at_least"] else 1
    return float(stored["ratio"] * (1 + sign * stored["tolerance"]))
