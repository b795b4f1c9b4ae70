"""The adapter for flwr-datasets: with a stand-in of its interface, and with the real one where it is installed."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from fedmomentum.data import from_flwr_datasets, load, partition
from fedmomentum.errors import UserError


class Table:
    """As much of a Hugging Face data set as a partitioner and the adapter use."""

    def __init__(self, **columns: Any) -> None:
        self.columns = {name: np.asarray(values) for name, values in columns.items()}

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __getitem__(self, name: str) -> list[Any]:
        return list(self.columns[name].tolist())

    def add_column(self, name: str, values: Any) -> Table:
        return Table(**self.columns, **{name: values})

    def select(self, rows: Any) -> Table:
        return Table(**{name: values[rows] for name, values in self.columns.items()})


class Modulo:
    """Client c gets the rows whose column, modulo the number of clients, is c."""

    def __init__(self, clients: int, column: str, overlap: bool = False) -> None:
        self.num_partitions, self.column, self.overlap = clients, column, overlap
        self.dataset: Any = None

    def load_partition(self, partition_id: int) -> Table:
        kept = np.array(self.dataset[self.column]) % self.num_partitions == partition_id
        kept[0] |= self.overlap
        table: Table = self.dataset.select(np.flatnonzero(kept)[::-1])
        return table


def test_rows_come_back_as_examples() -> None:
    values = np.array([4, 7, 2, 0, 9, 5, 5])
    split = from_flwr_datasets(Modulo(3, "value"), Table(value=values))
    assert [split.indices(c).tolist() for c in range(3)] == [[4, 3], [1, 0], [6, 5, 2]]
    again = from_flwr_datasets(Modulo(3, "extra"), Table(value=values * 0), columns={"extra": values})
    assert np.array_equal(again.order, split.order)


def test_faults_name_the_partitioner() -> None:
    table = Table(value=np.arange(6))
    with pytest.raises(
        UserError, match="Modulo cannot split 6 rows with the columns value, fedmomentum-index: 'label'"
    ):
        from_flwr_datasets(Modulo(2, "label"), table)
    with pytest.raises(UserError, match="Modulo gave example 0 to more than one place"):
        from_flwr_datasets(Modulo(2, "value", overlap=True), table)
    with pytest.raises(UserError, match="Modulo made no partitions"):
        from_flwr_datasets(Modulo(0, "value"), table)


def every_other(num_partitions: int, seed: int) -> Modulo:
    """Make a partitioner as a scenario would: by classes, shifted by the seed."""

    class Shifted(Modulo):
        def load_partition(self, partition_id: int) -> Table:
            return super().load_partition((partition_id + seed) % num_partitions)

    return Shifted(num_partitions, "label")


def test_a_scenario_names_a_partitioner(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    from types import SimpleNamespace

    from fedmomentum.build_data import build_data
    from fedmomentum.scenario import load as load_scenario

    monkeypatch.setitem(
        sys.modules, "datasets", SimpleNamespace(Dataset=SimpleNamespace(from_dict=lambda c: Table(**c)))
    )
    file = tmp_path / "s.yaml"
    file.write_text(
        "kind: federated\nrounds: 2\nseed: 3\nmodel: {name: logistic}\nstrategy: {name: fedavg}\n"
        "client: {optimizer: {name: sgd, lr: 0.1}}\n"
        f"data: {{name: digits, partition: {{name: '{__name__}:every_other', options: {{num_partitions: 5}}}}}}\n"
    )
    loaded = load_scenario(file)
    assert loaded.scenario.data.population == 5 and loaded.callables == [f"{__name__}:every_other"]
    data, _ = build_data(loaded.scenario)
    for client in range(5):
        labels = data.y[data.partition.indices(client)]
        assert set(labels % 5) == {(client + 3) % 5}
    for name, words in (("no_such_package:x", "cannot be imported"), ("math:sqrt", "cannot be made")):
        with pytest.raises(UserError, match=words):
            build_data(load_scenario(file, [f"data.partition.name={name}"]).scenario)


OPTIONS: dict[str, Any] = {"alpha": 1, "beta": 1, "clients": 8, "dim": 5, "size_mean": 1, "size_sigma": 0.5}


def test_the_real_partitioners() -> None:
    theirs = pytest.importorskip("flwr_datasets.partitioner")
    data = load("synthetic", **OPTIONS)
    natural = from_flwr_datasets(theirs.NaturalIdPartitioner(partition_by="group"), data)
    ours = partition("natural", labels=data.y, groups=data.groups)
    assert all(sorted(natural.indices(c)) == ours.indices(c).tolist() for c in range(8))
    iid = from_flwr_datasets(theirs.IidPartitioner(num_partitions=7), data)
    assert np.ptp(iid.sizes) <= 1
    skewed = from_flwr_datasets(
        theirs.DirichletPartitioner(num_partitions=5, partition_by="label", alpha=0.5, min_partition_size=1), data
    )
    for split in (natural, iid, skewed):
        assert sorted(split.order.tolist()) == list(range(len(data.x)))
    with pytest.raises(UserError, match="DirichletPartitioner cannot split"):
        from_flwr_datasets(theirs.DirichletPartitioner(num_partitions=5, partition_by="colour", alpha=0.5), data)


def test_our_dirichlet_per_class_is_theirs_in_distribution() -> None:
    """Means over seeds of the distance from iid and of the spread of sizes, with and without the balance."""
    theirs = pytest.importorskip("flwr_datasets.partitioner")
    from fedmomentum.data import Dataset, summarise

    labels = np.arange(2000) % 5
    x = np.zeros((2000, 1), np.float32)
    data = Dataset("labels", x, labels, x[:1], labels[:1], classes=5)
    for balance in (False, True):
        found: dict[str, list[Any]] = {"ours": [], "theirs": []}
        for seed in range(40):
            foreign = theirs.DirichletPartitioner(
                num_partitions=8,
                partition_by="label",
                alpha=0.5,
                min_partition_size=0,
                self_balancing=balance,
                seed=seed,
            )
            found["theirs"].append(from_flwr_datasets(foreign, data))
            found["ours"].append(
                partition(
                    "dirichlet_per_class",
                    labels=labels,
                    clients=8,
                    alpha=0.5,
                    balance=balance,
                    min_examples=0,
                    seed=seed,
                )
            )
        distance = {k: [summarise(labels, s, 5).total_variation for s in v] for k, v in found.items()}
        spread = {k: [s.sizes.std() for s in v] for k, v in found.items()}
        for values in (distance, spread):
            error = np.hypot(np.std(values["ours"]), np.std(values["theirs"])) / np.sqrt(40)
            assert abs(np.mean(values["ours"]) - np.mean(values["theirs"])) < 4 * error
