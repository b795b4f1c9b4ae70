"""The blocks that say how a scenario runs, not what it asks: ``engine``, ``evaluate``, ``checkpoint``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from fedmomentum.scenario.block import Auto, Block, Count, Misfit, NonNegative, Positive, Probability, Whole


class Engine(Block):
    """Where clients train; it changes how long a run takes, not what comes out."""

    name: Literal["ray", "inline"] = Field(default="ray", description="Ray actors, or this process alone")
    workers: Count | Auto = Field(default="auto", description="Ray actors; auto: as many as the CPUs, or GPUs, allow")
    cpus: Positive = Field(default=1.0, description="CPUs that Ray sets aside for each worker")
    gpus: NonNegative = Field(default=0.0, description="GPUs that Ray sets aside for each worker; may be a fraction")
    address: str | None = Field(
        default=None, min_length=1, description="of a Ray cluster; null: a local Ray for this run"
    )
    early: bool = Field(
        default=True,
        description="let this process run the first blocks while Ray's actors come up on this machine; false: wait for "
        "them",
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = Field(
        default="auto", description="auto (a GPU where gpus > 0 and there is one), cpu, cuda or cuda:1"
    )
    vectorize: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="train the clients of a block stacked, one after another, or as a fixed rule chooses",
    )
    block_size: Count | Auto = Field(default="auto", description="clients that a worker takes at a time")
    client_memory: NonNegative | None = Field(
        default=4096.0,
        description="MiB of what clients keep between rounds (control variates, velocities, their own batch norm) that "
        "stay in memory; the rest lies in a file in the run folder; null: no limit",
    )
    gram_memory: NonNegative = Field(
        default=512.0,
        description="MiB that the inner products of the examples of all clients may take for workers to keep them, "
        "which makes wide dense networks on small clients faster; rounding depends on whether they do; 0: never",
    )
    native: bool = Field(
        default=True,
        description="train clients of small dense networks in C, where the package was installed with a C compiler; "
        "rounding depends on whether they do; false: never",
    )
    precision: Literal["float32", "tf32", "bf16"] = Field(
        default="float32",
        description="of the layers of networks that train by autograd (convolutions, recurrent ones): tf32 (on a GPU) "
        "or bf16 are faster and give other bits; parameters and sums stay float32",
    )
    compile: Literal["none", "default", "reduce-overhead"] = Field(
        default="none",
        description="let torch compile the network of every worker, which takes seconds to minutes and pays for long "
        "runs alone; clients then train one after another; reduce-overhead: CUDA graphs on a GPU",
    )
    threads: Count = Field(
        default=1, description="torch threads of a worker; sums depend on it, so it is part of the scenario"
    )


class Posterior(Block):
    """Models of the rounds as draws from a posterior, whose probabilities the server averages."""

    burn_in: Whole = Field(default=0, description="rounds at the start that give no draw")
    every: Count = Field(default=1, description="rounds between two draws")
    keep: Annotated[int, Field(ge=2)] = Field(
        default=30, description="draws at the most; past it every other one goes, and fewer are taken from then on"
    )


class Evaluate(Block):
    """When and on what the global model is tested."""

    every: Whole = Field(
        default=1, description="rounds between two tests on the central test set, and after the last; 0: never"
    )
    batch_size: Count = Field(default=512, description="test examples at a time")
    recalibrate: Whole = Field(
        default=0,
        description="training examples on which the server measures batch-norm statistics before a test; 0: none",
    )
    clients: Probability = Field(
        default=0.0, description="fraction of the clients that test the model on their own validation part"
    )
    calibration: bool = Field(
        default=False, description="measure how far the model's probabilities can be trusted: `ece`, `entropy`"
    )
    posterior: Posterior | None = Field(
        default=None, description="keep draws, and judge their averaged probabilities: `posterior_accuracy` and so on"
    )
    ood: Literal["digits", "fashion_mnist"] | None = Field(
        default=None, description="images of none of the classes, scaled to fit: `ood_entropy`; null: none"
    )

    def misfits(self) -> Iterator[Misfit]:
        """Refuse images of another kind that nobody looks at."""
        yield from super().misfits()
        if self.ood is not None and not self.calibration and self.posterior is None:
            yield Misfit(("ood",), "is looked at with calibration: true or a posterior; set one of them")


class Checkpoint(Block):
    """When a run is kept so that it can go on."""

    every: Whole = Field(default=0, description="rounds between two checkpoints; 0: none")
    keep: Count = Field(default=2, description="checkpoints that are kept, the latest ones")
