"""CUDA graphs of the classic TensorRT: one launch instead of one per kernel, recorded from the stream of a context.

TensorRT for RTX records by itself (see `sagan_deploy.runtime.contexts`); the two are never used together.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sagan_deploy.errors import InputError, MissingError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What a recorded graph holds for good: the profile, the shapes of the inputs and the addresses of all arrays."""

    profile: int
    shapes: tuple[tuple[int, ...], ...]
    addresses: tuple[int, ...]


class ReplayedEnqueue:
    """Enqueues the work of one execution context, from the third call with one recipe on as a graph.

    The first call with a recipe enqueues, which lets TensorRT finish what new shapes put off; the second one records,
    then launches. A graph belongs to the state that its context had, so another recipe throws it away, and calls that
    change their batch every time are enqueued as if this class were not there.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._recipe: Recipe | None = None
        self._graph: Any = None

    def stands(self, recipe: Recipe) -> bool:
        """Whether the context still is as the last call with this recipe left it, so that nothing is to be set.

        Where it is not, what was recorded is given back, before the caller changes the context that it belongs to.
        """
        if self._recipe is not None and self._recipe == recipe:
            return True
        self.close()
        return False

    def run(self, recipe: Recipe, stream: Any, enqueue: Callable[[], None]) -> None:
        """Put the work on the stream.

        Args:
            recipe: what the context was set to.
            stream: a stream of its own; it must have finished the earlier calls when it is recorded.
            enqueue: puts the work on `stream` without a graph; raises when TensorRT refuses.

        Raises:
            InputError: TensorRT refused to enqueue.
            MissingError: CUDA refused to launch.
        """
        if self._recipe != recipe:
            enqueue()
            self._recipe = recipe if self._enabled else None
            return
        if self._graph is None:
            self._graph = self._record(stream, enqueue)
        if self._graph is None:
            enqueue()
        else:
            self._graph.launch(stream)

    def close(self) -> None:
        """Give the graph back; the next call begins anew."""
        graph, self._graph, self._recipe = self._graph, None, None
        if graph is not None:
            graph.close()

    def _record(self, stream: Any, enqueue: Callable[[], None]) -> Any:
        stream.synchronize()
        try:
            return stream.capture(enqueue)
        except (InputError, MissingError) as error:
            self._enabled, self._recipe = False, None
            _say_once(str(error))
            return None


@functools.cache
def _say_once(reason: str) -> None:
    log.warning("CUDA graphs are off, because this plan cannot be recorded; it runs without them. %s", reason)
