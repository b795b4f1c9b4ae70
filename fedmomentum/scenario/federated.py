"""``kind: federated``: clients train, a server aggregates, round after round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from fedmomentum.scenario.block import Misfit
from fedmomentum.scenario.client import Client
from fedmomentum.scenario.data import Data, Private
from fedmomentum.scenario.model import Model, model_misfits
from fedmomentum.scenario.participation import Participation, Uniform
from fedmomentum.scenario.running import Checkpoint, Engine, Evaluate
from fedmomentum.scenario.scenario import Scenario
from fedmomentum.scenario.schedule import Cosine
from fedmomentum.scenario.server import CustomStrategy
from fedmomentum.scenario.strategy import Strategy


class FederatedScenario(Scenario):
    """A federated training: the data and who holds it, what clients do, what the server does, for how many rounds."""

    kind: Literal["federated"] = Field(default="federated", description="what is run")
    rounds: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="rounds of training")
    data: Data = Field(description="the examples and their federation")
    model: Model = Field(description="the network")
    client: Client = Field(description="local training")
    strategy: Strategy = Field(description="what the server does with the replies")
    participation: Participation = Field(default=Uniform(name="uniform"), description="who takes part in a round")
    engine: Engine = Field(default=Engine(), description="where clients train")
    evaluate: Evaluate = Field(default=Evaluate(), description="how the model is tested")
    checkpoint: Checkpoint = Field(default=Checkpoint(), description="how a run is kept so that it can go on")

    def misfits(self) -> Iterator[Misfit]:
        """Refuse blocks that are each right but cannot be used together."""
        yield from super().misfits()
        for misfit in model_misfits(self.model, self.data):
            yield Misfit(("model", *misfit.path), misfit.message)
        if self.data.answers == "numbers":
            for key in ("calibration", "ood"):
                if getattr(self.evaluate, key):
                    yield Misfit(
                        ("evaluate", key), f"is of classes, and data '{self.data.name}' has numbers; leave it out"
                    )
        if self.evaluate.clients and not self.data.validation:
            yield Misfit(
                ("evaluate", "clients"),
                "clients have nothing to test on: set data.validation to the fraction they keep for it, such as 0.1",
            )
        if isinstance(self.data, Private):
            if self.evaluate.every and self.data.test is None:
                yield Misfit(
                    ("evaluate", "every"), "the server has nothing to test on: set it to 0, or data.test to a test set"
                )
            if self.evaluate.recalibrate:
                yield Misfit(("evaluate", "recalibrate"), "the server has no examples: leave it out")
        for block, key in ((self.client, "lr_schedule"), (self.strategy, "step_schedule")):
            schedule = getattr(block, key, None)
            if schedule is not None and schedule.warmup >= self.rounds:
                yield Misfit(
                    ("client" if block is self.client else "strategy", key, "warmup"),
                    f"expected fewer rounds than the {self.rounds} of the scenario, not {schedule.warmup}",
                )
        yield from self._cohort_misfits()

    def _cohort_misfits(self) -> Iterator[Misfit]:
        population, count = self.data.population, getattr(self.participation, "count", None)
        if population is not None and count is not None and count > population:
            yield Misfit(("participation", "count"), f"expected at most the {population} clients, not {count}")
        if isinstance(self.strategy, CustomStrategy):
            return
        yield from self.strategy.client_misfits(self.client)
        if self.strategy.privacy is not None:
            yield from self._privacy_misfits()
        quorum = self.strategy.quorum
        most = count if count is not None else population
        if isinstance(quorum, int) and most is not None and quorum > most:
            yield Misfit(("strategy", "quorum"), f"expected at most the {most} clients of a round, not {quorum}")

    def _privacy_misfits(self) -> Iterator[Misfit]:
        """Refuse cohorts for which the accountant does not count."""
        if self.participation.name != "bernoulli":
            words = "privacy is counted for clients that take part independently: 'bernoulli', with a probability"
            yield Misfit(("participation", "name"), f"{words}; not '{self.participation.name}'")
        if self.participation.availability is not None:
            yield Misfit(("participation", "availability"), "privacy is counted for clients that are always there")

    def extent(self) -> dict[str, int]:
        """Give clients and rounds; of a natural partition the clients are known once the data is there."""
        holders = (getattr(self.data, "partition", None), self.data)
        counts = [count for holder in holders if isinstance(count := getattr(holder, "clients", None), int)]
        return {**({"clients": counts[0]} if counts else {}), "rounds": self.rounds}

    def settled(self) -> Self:
        """Give the scenario whose cosines end with the last round where they do not say when."""
        changes: dict[str, Any] = {}
        for block, key in (("client", "lr_schedule"), ("strategy", "step_schedule")):
            schedule = getattr(getattr(self, block), key, None)
            if isinstance(schedule, Cosine) and schedule.rounds is None:
                whole = schedule.model_copy(update={"rounds": self.rounds})
                changes[block] = getattr(self, block).model_copy(update={key: whole})
        return self.model_copy(update=changes) if changes else self
