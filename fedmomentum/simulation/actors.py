"""Ray actors that one federation after another uses: arms of a run, points of a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedmomentum.simulation.ray_pool import RayPool, RayPoolStart


class Actors:
    """Keeps a pool up while engines ask for the same one, and makes it anew where one asks for another."""

    def __init__(self, *, address: str | None = None, workers: int | None = None) -> None:
        """Begin without a pool; ``address`` and ``workers`` count where an engine leaves them open."""
        self._address, self._workers = address, workers
        self._settings: dict[str, Any] | None = None
        self._start: RayPoolStart | None = None

    def start(self, engine: Any) -> None:
        """Let the pool that an engine asks for come up in the background; an inline engine has none."""
        if engine.name != "ray":
            return
        settings = {
            "workers": self._workers if engine.workers == "auto" else engine.workers,
            "cpus": engine.cpus,
            "gpus": engine.gpus,
            "address": engine.address or self._address,
        }
        if settings == self._settings:
            return
        from fedmomentum.simulation.ray_pool import RayPoolStart

        self.close()
        self._settings, self._start = settings, RayPoolStart(**settings)

    def pool(self, engine: Any) -> RayPool | None:
        """Wait for the pool that an engine asks for; None for an inline engine.

        Raises:
            UserError: it cannot be had.
        """
        if engine.name != "ray":
            return None
        self.start(engine)
        assert self._start is not None
        try:
            return self._start.pool()
        except BaseException:
            self.close()
            raise

    def coming(self, engine: Any) -> RayPool | None:
        """Give the pool that an engine asks for if it is up; None while it is on its way.

        Raises:
            UserError: it cannot be had, and that is known by now.
        """
        self.start(engine)
        return self.pool(engine) if self._start is not None and self._start.known() else None

    def early(self, engine: Any) -> bool:
        """Say whether this process may begin before the actors are there: they work on this machine, without GPUs."""
        near = engine.address is None and self._address is None and not engine.gpus
        return near and engine.name == "ray" and engine.early

    def close(self) -> None:
        """End the pool, and Ray where it was started here."""
        start, self._start, self._settings = self._start, None, None
        if start is not None:
            start.close()
