"""Links between simulated nodes: delay, partitions, one-way cuts, requests that get lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.simulation.node import Node
    from support.simulation.world import World


class Network:
    """All links, by direction."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._cut: dict[tuple[int, int], float] = {}
        self._slow: dict[tuple[int, int], float] = {}
        self.loss = 0.0
        """Chance that a request or an answer is lost."""

    def cut(self, source: Node, target: Node, until: float) -> None:
        """One direction carries nothing for a while."""
        key = source.index, target.index
        self._cut[key] = max(until, self._cut.get(key, 0.0))

    def slow(self, source: Node, target: Node, until: float) -> None:
        """One direction is slow for a while."""
        self._slow[source.index, target.index] = until

    def heal(self) -> None:
        """Everything works."""
        self._cut.clear()
        self._slow.clear()
        self.loss = 0.0

    def connects(self, one: Node, two: Node) -> bool:
        """Whether a connection can be made: both directions carry."""
        time = self._world.time
        pairs = (one.index, two.index), (two.index, one.index)
        return one.alive and two.alive and all(time >= self._cut.get(pair, 0.0) for pair in pairs)

    def arrival(self, source: Node, target: Node) -> float | None:
        """When bytes that leave now arrive; None: nobody is there."""
        if not target.alive or not source.alive:
            return None
        world, key = self._world, (source.index, target.index)
        rng = world.rng
        delay = rng.uniform(0.0002, 0.003) if rng.random() < 0.95 else rng.uniform(0.01, 0.3)
        if world.time < self._slow.get(key, 0.0):
            delay += rng.uniform(0.05, 0.6)
        return max(world.time, self._cut.get(key, 0.0)) + delay
