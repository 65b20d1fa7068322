"""Results as JSON for machines, a Markdown table for people, a plot for five seconds of attention."""

import json
import math
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # a benchmark has no display

from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter

from benchmarks.harness import Options, RowResult, as_dict

_PACKAGES = (
    "duckmesh",
    "duckdb",
    "duckdb-extension-ducklake",
    "asyncpg",
    "pyarrow",
    "msgspec",
    "litestar",
    "uvicorn",
)
_MET = {True: "yes", False: "**no**", None: "-"}


def machine(work_dir: Path) -> dict[str, Any]:
    """Describe what the figures were measured on, as far as it matters for reading them."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(work_dir),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(path: Path) -> str:
    # On tmpfs an fsync costs nothing, so the reader has to know.
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown"
    entries = [line.split()[1:3] for line in mounts.read_text().splitlines()]
    covering = [entry for entry in entries if path.resolve().is_relative_to(entry[0])]
    return max(covering, key=lambda entry: len(entry[0]))[1] if covering else "unknown"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def document(results: Sequence[RowResult], options: Options, facts: dict[str, Any], started: str) -> dict[str, Any]:
    """Put everything into one value: what ``results.json`` holds."""
    return {
        "started": started,
        "quick": options.quick,
        "runs": options.runs,
        "seconds": options.seconds,
        "ledger_keys": options.ledger_keys,
        **facts,
        "rows": [as_dict(result) for result in results],
    }


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write ``results.json``, ``results.md`` and ``results.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    # JSON knows no NaN; an unknown value is null there.
    text = json.dumps(_without_nan(results), indent=2, ensure_ascii=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    (folder / "results.md").write_text(markdown(results), encoding="utf-8")
    plot(folder / "results.png", results)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(results: dict[str, Any]) -> str:
    """Make the table of goals, then the medians of every side."""
    host = results["machine"]
    setting = (
        f"{results['runs']} alternating runs of {results['seconds']:g} s, medians. {host['processor']}, "
        f"{host['cores']} cores, {host['memory_gib']} GiB, {host['system']}, {host['file_system']}, "
        f"Python {host['python']}, PostgreSQL {(results.get('postgres') or {}).get('server_version', 'none')}. "
        f"{results['ledger_keys']:,} keys in the ledgers of the rows with a key per record."
    )
    lines = [
        f"# Speed, {results['started']}",
        "",
        setting,
        "",
        "| what | figure | DuckMesh | reference | ratio (range) | goal | met | orientation |",
        "|---|---|---:|---:|---:|---|---|---|",
    ]
    for row in results["rows"]:
        lines += _goal_lines(row)
    lines += ["", "## Medians", "", "| what | side | " + " | ".join(_FIGURES.values()) + " |"]
    lines += ["|---|---|" + "---:|" * len(_FIGURES)]
    for row in results["rows"]:
        lines += _median_lines(row)
    return "\n".join([*lines, ""])


_FIGURES = {
    "rate": "records/s",
    "visible_rate": "records/s to visible",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "p99_ms": "p99 ms",
    "errors": "errors",
    "client_cpu": "generator, cores",
}


def _goal_lines(row: dict[str, Any]) -> list[str]:
    if row["failure"]:
        return [f"| {row['title']} | failed: {_cell(row['failure'])} | | | | | **no** | |"]
    if not row["goals"]:
        return [f"| {row['title']} | product not measured | | | | | | |"]
    return [
        f"| {row['title'] if index == 0 else ''} | {goal['name']} | {_number(goal['product'])} "
        f"| {_number(goal['reference'])} | {_ratio(goal)} | {goal['goal']} | {_MET[goal['met']]} "
        f"| {goal['orientation']} |"
        for index, goal in enumerate(row["goals"])
    ]


def _ratio(goal: dict[str, Any]) -> str:
    known = [value for value in goal["values"] if value is not None and math.isfinite(value)]
    if not known:
        return "-"
    if not goal["relative"]:
        return f"({_number(min(known))}-{_number(max(known))})"
    return f"{_number(goal['value'])} ({_number(min(known))}-{_number(max(known))})"


def _median_lines(row: dict[str, Any]) -> list[str]:
    return [
        f"| {row['title']} | {side} | " + " | ".join(_number(figures.get(name)) for name in _FIGURES) + " |"
        for side, figures in row["medians"].items()
    ]


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:300]


def plot(path: Path, results: dict[str, Any]) -> None:
    """Draw how far each goal is reached: 1 is the goal, to the right is better, whatever the direction was."""
    bars = [
        (f"{row['name']}\n{goal['name']} ({goal['goal']})", *reached)
        for row in results["rows"]
        for goal in row["goals"]
        if (reached := _reached(goal)) is not None
    ]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.55 * max(1, len(bars))), layout="constrained")
    for position, (_, value, low, high) in enumerate(reversed(bars)):
        axes.barh(position, value, color="#2a9d5c" if value >= 1 else "#d1495b", height=0.6)
        axes.plot([low, high], [position, position], color="#333333", linewidth=1.5)
        axes.annotate(f"{value:.2f}", (value, position), (4, 7), textcoords="offset points", fontsize=8)
    axes.set_yticks(range(len(bars)), [bar[0] for bar in reversed(bars)], fontsize=8)
    axes.axvline(1.0, color="#333333", linestyle="--", linewidth=1)
    if bars:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.set_xlim(min(0.5, *(bar[2] * 0.8 for bar in bars)), max(2.0, *(bar[3] * 1.3 for bar in bars)))
    axes.set_xlabel("times the goal (1 = goal reached, more is better; line = range of the runs)")
    axes.set_title(f"DuckMesh beside its references, {results['started']}", fontsize=10)
    figure.savefig(path, dpi=140)
    plt.close(figure)


def _reached(goal: dict[str, Any]) -> tuple[float, float, float] | None:
    known = [value for value in goal["values"] if value is not None and math.isfinite(value) and value > 0]
    if not goal["bound"] or goal["value"] is None or not known:
        return None

    def share(value: float) -> float:
        return float(value / goal["bound"] if goal["at_least"] else goal["bound"] / value)

    shares = sorted(map(share, known))
    return share(goal["value"]), shares[0], shares[-1]
