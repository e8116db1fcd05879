"""The lines of running parts in a terminal, which move."""

from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from toolchain.progress import Part

_WIDTH_OF_DETAIL = 60


class MovingLines:
    """A display of `toolchain.progress` for a terminal."""

    def __init__(self) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TextColumn("{task.fields[detail]}", style="dim", markup=False),
            TimeElapsedColumn(),
            transient=True,
        )
        self._tasks: dict[Part, TaskID] = {}
        self._progress.start()

    def look(self, running: list[Part]) -> None:
        """Show what the parts do now."""
        for part in running:
            if part not in self._tasks:
                self._tasks[part] = self._progress.add_task(part.name, total=None, detail="")
            self._progress.update(self._tasks[part], detail=part.detail[:_WIDTH_OF_DETAIL])
        for ended in self._tasks.keys() - set(running):
            self._progress.remove_task(self._tasks.pop(ended))

    def line(self, text: str) -> None:
        """Print a line above them."""
        self._progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        """Remove the lines."""
        self._progress.stop()
