"""The parts of a deployment that need no federation: settings, the app that is written, events in a log, keys."""

from __future__ import annotations

import hashlib
import tomllib

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate

from fedmomentum import __version__
from fedmomentum import scenario as scenarios
from fedmomentum.course import Result
from fedmomentum.deployment import wire
from fedmomentum.deployment.appdir import app_name, toml, write_app
from fedmomentum.deployment.deploy import Following
from fedmomentum.deployment.settings import Settings
from fedmomentum.errors import UserError
from fedmomentum.events import End, Failure, RoundEnd, Start
from fedmomentum.runs import RunFolder
from tests.end_to_end.tiny import write
from tests.house.test_fences import ROOT


def test_settings_read_back_from_their_run_config():
    settings = Settings(scenario="a.yaml", clients=3, round_timeout=2.5, resume=True, run="tiny/1")
    assert Settings.read(tomllib.loads(toml(settings.config()))) == settings
    assert Settings.read({"someone-elses": 1, "node-timeout": 5}) == Settings(node_timeout=5.0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"clients": "three"}, "clients must be a int"),
        ({"clients": True}, "clients must be a int"),
        ({"clients": -1}, "clients must be at least 0"),
        ({"round-timeout": 0}, "round-timeout must be above 0"),
        ({"run": "../../etc/x"}, "must be the name of a run folder"),
        ({"run": "../x"}, "must be the name of a run folder"),
        ({"resume": True}, "resume needs the run"),
    ],
)
def test_a_bad_run_config_is_refused_by_key(config, message):
    with pytest.raises(UserError, match=message):
        Settings.read(config)


def test_the_app_that_is_written_holds_a_scenario_and_no_code(tmp_path):
    loaded = scenarios.load(write(tmp_path), ["rounds=7", 'question="a \\"quoted\\" question?"'])
    folder = write_app(loaded, tmp_path / "app", Settings(clients=4))
    assert sorted(path.name for path in folder.iterdir()) == ["pyproject.toml", "scenario.yaml"]
    assert scenarios.load(folder / "scenario.yaml").hash == loaded.hash
    config, warnings = load_and_validate(folder / "pyproject.toml")
    assert not warnings
    assert config["tool"]["flwr"]["app"]["config"]["clients"] == 4
    assert config["project"]["dependencies"] == []  # Flower would install them for each run, or fail to
    assert len(build_fab_from_disk(folder)) < 10_000
    with pytest.raises(UserError, match="is not empty"):
        write_app(loaded, folder, Settings())


@pytest.mark.parametrize("name", ["tiny", "a b/c", "2nd try", "x" * 50, "é"])
def test_an_app_has_a_name_that_flower_takes(name):
    from flwr.cli.utils import validate_project_name

    validate_project_name(app_name(name), "name")


def test_the_repository_is_a_flower_app():
    """Its run config is that of the settings, its version is the package's, and its bundle holds the whole library."""
    import io
    import zipfile

    config, _ = load_and_validate(ROOT / "pyproject.toml")
    assert config["project"]["version"] == __version__
    assert Settings.read(config["tool"]["flwr"]["app"]["config"]) == Settings()
    assert len(config["tool"]["flwr"]["app"]["config"]) == len(Settings.__dataclass_fields__)
    with zipfile.ZipFile(io.BytesIO(build_fab_from_disk(ROOT))) as bundle:
        names = set(bundle.namelist())
    library = {
        path.relative_to(ROOT).as_posix()
        for folder in ("fedmomentum", "strategies", "clients", "scenarios")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert library <= names and "scenarios/quickstart.yaml" in names
    assert not any(name.startswith(("tests/", "benchmarks/", "runs/")) for name in names)


def test_events_come_through_a_log_as_they_were():
    lines = []
    announcer = wire.Announcer(write=lines.append)
    start = Start("tiny", 3, 2, "arm", {"clients": 3})
    ended = RoundEnd(
        2, 3, {"round": 2, "loss": float("nan")}, {"client": [0, 1]}, (Failure(1, "late", "late"),), {"a": 1.0}, "arm"
    )
    announcer.start(start)
    announcer.round_end(ended)
    announcer.end(End("failed", 2, "arm", "why"))
    events = [wire.read_event("someone wrote this before " + line) for line in lines]
    assert [event["number"] for event in events] == [0, 1, 2]
    assert wire.as_start(events[0]["event"]) == start
    assert repr(wire.as_round(events[1]["event"])) == repr(ended)
    assert wire.as_end(events[2]["event"]) == End("failed", 2, "arm", "why")
    assert wire.read_event("nothing of ours") is None and wire.read_event(lines[0][:-5]) is None


def test_a_model_that_is_too_large_is_named_where_it_stays(tmp_path):
    loaded = scenarios.load(write(tmp_path))
    made = [
        RunFolder.at(tmp_path / side, "tiny", scenario_text=loaded.text, resolved=loaded.resolved(), hash=loaded.hash)
        for side in ("there", "here")
    ]
    model = made[0].path / "model.safetensors"
    model.write_bytes(bytes(2**20 + 1))
    lines, said = [], []
    announcer = wire.Announcer(made[0], largest=2**20, write=lines.append)
    announcer.end(End("finished", 1, "", ""))
    following = Following(made[1], Result("tiny", made[1].path), [], said.append)
    for line in lines:
        following.hear(line)
    assert following.stays == {"": str(model)} and "1 MiB and stays with the server" in said[0]
    assert not (made[1].path / model.name).exists()


def test_a_model_comes_through_a_log_in_pieces_and_a_damaged_one_does_not():
    data = bytes(range(256)) * 500
    pieces = list(wire.chunks(data))
    assert len(pieces) == 3
    whole = wire.Assembled()
    assert [whole.add(piece) for piece in pieces[::-1]] == [None, None, data]
    assert pieces[0]["sha256"] == hashlib.sha256(data).hexdigest()
    broken = wire.Assembled()
    with pytest.raises(ValueError, match="damaged"):
        for piece in [pieces[0], pieces[1], {**pieces[2], "data": pieces[0]["data"]}]:
            broken.add(piece)
