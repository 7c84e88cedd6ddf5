"""The stages of a long computation as bars on the terminal."""

from collections.abc import Callable

from rich.markup import escape
from rich.progress import Progress

from jaxdefect.inference.choosing import OnStage


def stage_of(progress: Progress) -> OnStage:
    """Reports each stage as a task of `progress`."""

    def on_stage(description: str, total: int) -> Callable[[int], None]:
        task = progress.add_task(escape(description), total=total)
        return lambda num_done: progress.update(task, completed=num_done)

    return on_stage
