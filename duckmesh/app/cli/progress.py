"""A progress bar that counts rows."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text


class _Rate(ProgressColumn):
    """Rows and rows a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{task.completed:,.0f} rows, {speed:,.0f}/s")


@contextmanager
def row_progress(total: int | None, name: str, console: Console | None = None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr (or on another console); yields the function that counts rows."""
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Rate(),
        TimeElapsedColumn(),
        console=console or Console(file=sys.stderr),
    )
    with bar:
        task = bar.add_task(name, total=total)
        yield lambda rows: bar.advance(task, rows)
        if total is None:
            bar.update(task, total=bar.tasks[0].completed)
