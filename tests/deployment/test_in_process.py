"""The deployed app on nodes in this process: the weights of the simulation, and what becomes of bad nodes."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord
from safetensors.torch import load_file

from fedmomentum import scenario as scenarios
from fedmomentum.course import Result
from fedmomentum.data import load
from fedmomentum.deployment import grid
from fedmomentum.deployment.deploy import Following
from fedmomentum.errors import UserError
from fedmomentum.runs import Recorder, RunFolder, load_run
from tests.deployment.net import Node, nodes, serve, simulate
from tests.end_to_end.tiny import same_models, write

ALONE = {"name": "inline", "vectorize": "off", "block_size": 1}
ALL = {"name": "uniform", "fraction": 1.0}


@pytest.fixture(autouse=True)
def _server(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDMOMENTUM_SERVER_RUNS", str(tmp_path / "server"))


def split(clients):
    return {"name": "digits", "partition": {"name": "dirichlet_per_class", "clients": clients, "alpha": 0.5}}


def scenario(folder, clients=3, file="scenario.yaml", **changes):
    return write(
        folder, file, **{"rounds": 2, "data": split(clients), "participation": ALL, "engine": ALONE, **changes}
    )


STRATEGIES = [
    {"name": "fedavgm", "server_momentum": 0.9},
    {"name": "scaffold"},
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s["name"])
def test_deployed_is_simulated_bit_for_bit(tmp_path, strategy):
    path = scenario(tmp_path, strategy=strategy)
    result, _ = serve(path, nodes(3))
    assert result.status == "finished"
    assert same_models(result.folder, simulate(path, tmp_path / "runs").folder)


def test_a_kept_velocity_lives_in_the_context_of_its_node(tmp_path):
    client = {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 20, "state": "keep"}
    path = scenario(tmp_path, client=client)
    here = nodes(3)
    result, _ = serve(path, here)
    assert all(node.state.array_records for node in here)
    assert same_models(result.folder, simulate(path, tmp_path / "runs").folder)


def test_the_cohort_goes_by_the_client_not_by_the_random_id_of_its_node(tmp_path):
    path = scenario(tmp_path, 5, participation={"name": "uniform", "count": 2})
    result, _ = serve(path, nodes(5))
    simulated = simulate(path, tmp_path / "runs")
    assert same_models(result.folder, simulated.folder)
    asked = [(row["round"], row["client"]) for row in load_run(result.folder).clients]
    assert sorted(asked) == sorted((row["round"], row["client"]) for row in load_run(simulated.folder).clients)


def test_stacked_blocks_of_the_simulation_agree_to_float_precision(tmp_path):
    path = scenario(tmp_path, engine={"name": "inline"})
    deployed, simulated = serve(path, nodes(3))[0], simulate(path, tmp_path / "runs")
    left, right = (load_file(result.folder / "model.safetensors") for result in (deployed, simulated))
    for name in left:
        np.testing.assert_allclose(left[name], right[name], atol=1e-6, err_msg=name)


def test_every_arm_of_a_scenario_is_deployed(tmp_path):
    path = scenario(
        tmp_path, arms={"plain": {"strategy": {"name": "fedavg"}}, "with control": {"strategy": {"name": "scaffold"}}}
    )
    result, _ = serve(path, nodes(3))
    simulated = simulate(path, tmp_path / "runs")
    for arm in ("plain", "with-control"):
        assert same_models(result.folder / "arms" / arm, simulated.folder / "arms" / arm)


def test_going_on_gives_the_bits_of_a_run_that_never_stopped(tmp_path):
    path = scenario(tmp_path)
    here = nodes(3)
    first, _ = serve(path, here, run="tiny/one", set="rounds=1")
    assert first.status == "finished"
    second, _ = serve(path, here, run="tiny/one", resume=True)
    assert [row["round"] for row in second.metrics] == [0, 1, 2]
    assert same_models(second.folder, simulate(path, tmp_path / "runs").folder)


def test_with_a_state_folder_control_variates_outlive_the_server_and_the_nodes(tmp_path):
    """A round that the dead server had asked for is asked for again: each client goes on from before it."""
    path = scenario(tmp_path, strategy={"name": "scaffold"}, rounds=3)
    state = str(tmp_path / "state")

    class Dies(Exception):
        pass

    def die():
        raise Dies

    here = nodes(3, state=state)
    with pytest.raises(Dies):  # after round 2 was trained and before it was kept
        serve(path, here, run="tiny/one", listeners=[After(2, die)])
    result, _ = serve(path, nodes(3, state=state), run="tiny/one", resume=True)  # fresh nodes: their contexts are empty
    assert [row["round"] for row in result.metrics] == [0, 1, 2, 3]
    assert same_models(result.folder, simulate(path, tmp_path / "runs").folder)
    forgetful, _ = serve(path, nodes(3), run="tiny/two", set="rounds=1")
    forgetful, _ = serve(path, nodes(3), run="tiny/two", resume=True)
    assert not same_models(forgetful.folder, result.folder)


def test_a_server_does_not_go_on_with_what_it_does_not_have_or_with_another_scenario(tmp_path):
    path = scenario(tmp_path)
    with pytest.raises(UserError, match="no such run"):
        serve(path, nodes(3), run="tiny/none", resume=True)
    serve(path, nodes(3), run="tiny/one", set="rounds=1")
    with pytest.raises(UserError, match=r"client\.optimizer\.lr"):
        serve(path, nodes(3), run="tiny/one", resume=True, set="client.optimizer.lr=0.5")


# ---- who is missing, and who is bad ------------------------------------------------------------------------------


def test_a_run_that_waits_in_vain_says_who_is_missing(tmp_path):
    result, _ = serve(scenario(tmp_path, 4), [*nodes(4)[:2]])
    assert result.status == "failed"
    assert "2 of 4 clients are there" in result.warnings[0] and "missing: clients 2, 3" in result.warnings[0]


def test_clients_says_how_many_are_enough(tmp_path):
    result, _ = serve(scenario(tmp_path, 4), nodes(4)[:2], clients=2)
    assert result.status == "finished" and result.metrics[-1]["replies"] == 2


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"partition_id": 3, "num_partitions": 3}, "partition-id is 3; the scenario has 0 .. 2"),
        ({"partition_id": 0, "num_partitions": 5}, "over 5 clients, the scenario over 3"),
        ({}, "neither 'data' nor 'partition-id'"),
        ({"partition_id": "zero"}, "partition-id must be a whole number"),
        ({"data": "absent/folder"}, "no such file or folder"),
    ],
)
def test_a_node_that_cannot_take_part_is_refused_by_name(tmp_path, config, reason):
    here = [*nodes(3)[:2], Node(77, **config)]
    result, _ = serve(scenario(tmp_path), here)
    assert result.status == "failed"
    assert "node 77" in result.warnings[0] and reason in result.warnings[0]


def test_two_nodes_cannot_be_one_client(tmp_path):
    result, _ = serve(scenario(tmp_path), [*nodes(3)[:2], Node(77, partition_id=1)])
    assert result.status == "failed"
    assert "says that it is client 1, as another node does" in result.warnings[0]


def test_a_client_that_never_answers_costs_its_own_reply(tmp_path):
    here = nodes(3)
    here[1].mute = True
    result, _ = serve(scenario(tmp_path), here)
    assert result.status == "finished"
    failures = load_run(result.folder).failures
    assert [(f["round"], f["client"], f["kind"]) for f in failures] == [(r, 1, "late") for r in (1, 2)]
    assert [row["replies"] for row in result.metrics[1:]] == [2, 2]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


def test_a_slow_client_is_waited_for_until_the_deadline(tmp_path, monkeypatch):
    path, clock, here = scenario(tmp_path), Clock(), nodes(3)
    monkeypatch.setattr(grid, "time", clock)
    here[1].takes = [15.0]
    result, _ = serve(path, here, clock=clock.monotonic, round_timeout=20)
    assert [row["replies"] for row in result.metrics[1:]] == [3, 3]
    assert clock.now >= 30.0
    assert same_models(result.folder, simulate(path, tmp_path / "runs").folder)


def test_an_answer_after_the_deadline_is_never_counted_and_its_client_is_soon_back(tmp_path, monkeypatch):
    """It comes while a later round waits, and is not taken for that one's; rounds that are over are not caught up on.

    What the client kept after it is as void as the answer: its control variate has not moved.
    """
    path, clock, here = scenario(tmp_path, rounds=6, strategy={"name": "scaffold"}), Clock(), nodes(3)
    monkeypatch.setattr(grid, "time", clock)
    here[1].takes = [55.0, 14.0]  # done with round 1 in round 3; every later one takes less than the deadline
    result, _ = serve(path, here, clock=clock.monotonic, round_timeout=20)
    assert [row["replies"] for row in result.metrics[1:]] == [2, 2, 2, 2, 3, 3]
    late = [(f["round"], f["client"], f["kind"]) for f in load_run(result.folder).failures]
    assert late == [(r, 1, "late") for r in (1, 2, 3, 4)]
    others = nodes(3)
    others[1].mute = True
    unheard, _ = serve(path, others, listeners=[After(4, lambda: setattr(others[1], "mute", False))])
    assert same_models(result.folder, unheard.folder)


class After:
    """A listener that does something after a round."""

    def __init__(self, round, act):
        self.round, self.act = round, act

    def start(self, event): ...

    def round_end(self, event):
        if event.round == self.round:
            self.act()

    def end(self, event): ...


def test_a_client_that_goes_and_comes_back_has_its_number_again(tmp_path):
    here = nodes(3)
    gone, live = here[2], {node.number: node for node in here}

    def leave():
        live.pop(gone.number)

    def back():
        gone.number = 31337  # Flower does not know it any more
        live[gone.number] = gone

    path = scenario(tmp_path, rounds=4)
    result, lines = serve(path, live, listeners=[After(1, leave), After(2, back)])
    assert [row["replies"] for row in result.metrics[1:]] == [3, 2, 3, 3]
    assert any("client 2 has gone" in line for line in lines)
    assert any("client 2 has joined (node 31337" in line for line in lines)


def poisoned(reply):
    record = next(iter(reply.content.array_records.values()))
    name, array = next(iter(record.items()))
    numbers = array.numpy().copy()
    numbers.flat[0] = np.nan
    record[name] = Array(numbers)
    return reply


def greedy(reply):
    next(iter(reply.content.metric_records.values()))["num-examples"] = 1e9
    return reply


def misshapen(reply):
    name = next(iter(reply.content.array_records))
    reply.content[name] = ArrayRecord({"fc1.bias": Array(np.zeros(3, np.float32))})
    return reply


def boosted(reply):
    record = next(iter(reply.content.array_records.values()))
    for name, array in list(record.items()):
        record[name] = Array(array.numpy() * 1000)
    return reply


def nothing(reply):
    for key in list(reply.content):
        del reply.content[key]
    return reply


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (poisoned, "holds NaN"),
        (greedy, "reports 1e+09 examples and announced"),
        (misshapen, "is missing"),
        (nothing, "0 MetricRecords"),
        (boosted, "at most 50 is allowed"),
    ],
)
def test_a_malicious_client_is_named_and_then_left_out_and_the_run_goes_on(tmp_path, tamper, reason):
    here = nodes(4)
    here[3].tamper = tamper
    strategy = {"name": "fedavgm", "max_update_norm": 50.0}
    result, lines = serve(scenario(tmp_path, 4, rounds=3, strategy=strategy), here, exclude_after=2)
    assert result.status == "finished"
    failures = load_run(result.folder).failures
    assert [(f["round"], f["client"], f["kind"]) for f in failures] == [(1, 3, "rejected"), (2, 3, "rejected")]
    assert all(reason in f["reason"] for f in failures)
    assert [row["replies"] for row in result.metrics[1:]] == [3, 3, 3]
    assert [row["cohort"] for row in result.metrics[1:]] == [4, 4, 3]
    assert any("client 3 is left out from now on" in line for line in lines)


def test_a_metric_that_one_client_makes_up_does_not_break_the_tables(tmp_path):
    here = nodes(3)

    def chatty(reply):
        record = next(iter(reply.content.metric_records.values()))
        assert isinstance(record, MetricRecord)
        record["made-up"] = 1.0
        return reply

    here[0].tamper = chatty
    result, _ = serve(scenario(tmp_path), here)
    assert result.status == "finished" and "made-up" not in load_run(result.folder).clients[0]


def test_a_client_that_keeps_its_counts_does_not_tell_them_by_its_probes(tmp_path):
    client = {"optimizer": {"name": "heavy_ball", "lr": 0.05}, "batch_size": 20, "probes": ["stability"]}
    path = scenario(tmp_path, 6, client={**client, "probe_every": 1}, rounds=1)
    telling = load_run(serve(path, nodes(6))[0].folder).clients
    assert len({row["probe_gradients"] for row in telling}) > 1
    for row in load_run(serve(path, nodes(6, report_counts=False))[0].folder).clients:
        assert row["num-examples"] == 1.0 and "probe_stability" in row
        assert row.keys().isdisjoint({"steps", "probe_gradients"})


@pytest.mark.parametrize("name", ["dropout", "stragglers"])
def test_what_only_a_simulation_can_do_is_refused(tmp_path, name):
    from fedmomentum.deployment.serverapp import kept

    setting = {"dropout": 0.5, "stragglers": {"deadline": 1.0}}[name]
    path = scenario(tmp_path, participation={**ALL, name: setting})
    with pytest.raises(UserError, match=f"participation.{name}"):
        kept(scenarios.load(path))


def test_a_server_that_has_no_data_trains_on_what_clients_have(tmp_path):
    """Five clients with files of their own, no test set: the weights of the simulation with one client a file."""
    digits = load("digits")
    (tmp_path / "clients").mkdir()
    here = []
    for client in range(5):
        mine = slice(100 * client, 100 * client + 50 + 10 * client)
        file = tmp_path / "clients" / f"{client}.npz"
        held_out = {"test_x": digits.x[:5], "test_y": digits.y[:5]}
        np.savez(file, x=digits.x[mine], y=digits.y[mine], **held_out)
        here.append(Node(40 + client, data=str(file)))
    private = {"name": "private", "shape": [1, 8, 8], "classes": 10}
    path = scenario(tmp_path, data=private, evaluate={"every": 0})
    result, _ = serve(path, here[::-1], clients=5)
    assert result.status == "finished" and result.metrics[-1]["replies"] == 5
    natural = {"name": "npz", "path": str(tmp_path / "clients"), "classes": 10, "partition": {"name": "natural"}}
    simulated = scenario(tmp_path, file="simulated.yaml", data=natural)
    assert same_models(result.folder, simulate(simulated, tmp_path / "runs").folder)
    with pytest.raises(UserError, match="say how many clients there are"):
        serve(path, here)
    with pytest.raises(UserError, match="fedmomentum deploy runs this scenario"):
        simulate(path, tmp_path / "runs")
    refused, _ = serve(path, nodes(2), clients=2)
    assert "the scenario has no data of its own" in refused.warnings[0]


def test_what_is_heard_of_a_run_gives_its_run_folder_again(tmp_path):
    """The log is read twice, as after a lost connection, and between lines of somebody else."""
    path = scenario(tmp_path, strategy={"name": "scaffold"})
    here = nodes(3)
    here[2].mute = True
    result, lines = serve(path, here, run="tiny/one")
    loaded = scenarios.load(path)
    folder = RunFolder.at(
        tmp_path / "heard", "tiny", scenario_text=loaded.text, resolved=loaded.resolved(), hash=loaded.hash
    )
    said: list[str] = []
    following = Following(folder, Result("tiny", folder.path), [Recorder(folder)], said.append)
    for line in [*lines[:7], "INFO: something else", *lines]:
        following.hear(line)
    for table in ("metrics.jsonl", "clients.jsonl", "failures.jsonl"):
        assert (folder.path / table).read_text() == (result.folder / table).read_text()
    assert same_models(folder.path, result.folder)
    assert following.result.metrics == result.metrics
    assert len([text for text in said if "client 0 has joined (node 9000" in text]) == 1
