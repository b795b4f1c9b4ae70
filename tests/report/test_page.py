from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fedmomentum.errors import UserError
from fedmomentum.events import Failure
from fedmomentum.report.page import write_report
from fedmomentum.runs import Run, RunFolder, load_run

from .browser import needs_browser, played, visit, with_script
from .made_runs import Made, make, multiply

TWO_ARMS = {"FedAvg,seed=0": 0.05, "FedAvg,seed=1": 0.07, "FedAvgM,seed=0": 0.2, "FedAvgM,seed=1": 0.3}

ATTACKS = [
    "</script><script>document.title='pwned'</script>",
    "<img src=x onerror=\"document.title='pwned'\">",
    '" onmouseover="document.title=\'pwned\'" x="',
    "'><svg onload=\"document.title='pwned'\">",
    "</title></style></textarea><!--x",
    "\u202egnp.exe \u2028 \u0000 \ud800 $x^$",
]


class Words(HTMLParser):
    """The text of a page by section, its tables as rows of cells, and the elements that it has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.section = ""
        self.words: dict[str, str] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.elements: Counter[str] = Counter()
        self.attributes: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes.update(name for name, _ in attrs)
        values = dict(attrs)
        if "id" in values:
            self.ids[str(values["id"])] += 1
        if tag == "section":
            self.section = str(values["id"])
        if tag == "tr":
            self.rows.setdefault(self.section, []).append([])
        if tag in ("td", "th"):
            self.rows[self.section][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        self.words[self.section] = self.words.get(self.section, "") + data
        if self._cell:
            self.rows[self.section][-1][-1] += data

    def row(self, section: str, head: str) -> list[str]:
        return next(row for row in self.rows[section] if row[0] == head)


def report(tmp_path: Path, *runs: Run) -> tuple[Path, Words]:
    [page] = write_report(runs, tmp_path / "report.html", plots=False)
    return page, Words(page.read_text(encoding="utf-8"))


def data_of(page: Path) -> list[dict[str, object]]:
    match = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert match is not None
    found: list[dict[str, object]] = json.loads(match[1])
    return found


def test_it_answers_the_question_with_numbers_that_follow_from_the_rows(tmp_path: Path) -> None:
    run = make(tmp_path, Made(question="Does server momentum help?", arms=TWO_ARMS))
    _, words = report(tmp_path, run)
    last = [1 - math.exp(-20 * speed) for speed in TWO_ARMS.values()]
    momentum, plain = (last[2] + last[3]) / 2, (last[0] + last[1]) / 2
    assert "Does server momentum help?" in words.words[""]
    assert f"FedAvgM reached accuracy {momentum:.3f} after 20 rounds; FedAvg {plain:.3f}." in words.words[""]
    best, second = words.row("numbers", "FedAvgM"), words.row("numbers", "FedAvg")
    spread = f"{last[2]:.3f} – {last[3]:.3f}"
    target = 0.9 * momentum
    first = next(r for r in range(21) if (2 - math.exp(-0.2 * r) - math.exp(-0.3 * r)) / 2 >= target)
    assert best[1:] == [f"{momentum:.3f}{spread}"] * 2 + [
        "20",
        str(first),
        f"{0.5 * (first + 1):.1f} s",
        f"{8 * first:.3g} kB",
    ]
    assert second[4] == "not reached"
    costs = [row for row in words.rows["numbers"] if row[0] == "FedAvg"][1]
    assert costs == ["FedAvg", "2", "20", "10 s", "80", "7.62", "0", "160 kB"]


def test_of_a_loss_less_is_better(tmp_path: Path) -> None:
    run = make(tmp_path, Made(arms={"slow": 0.05, "fast": 0.2}))
    for arm in run.arms.values():
        lines = (json.loads(line) for line in (arm.path / "metrics.jsonl").read_text().splitlines())
        kept = [{key: value for key, value in line.items() if key != "accuracy"} for line in lines]
        (arm.path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    _, words = report(tmp_path, load_run(run.path))
    assert [row[0] for row in words.rows["numbers"][1:3]] == ["fast", "slow"]
    target = math.exp(-4) / 0.9
    assert words.rows["numbers"][0][4] == f"rounds to {target:.3f}"
    assert words.row("numbers", "fast")[4] == str(math.ceil(-math.log(target) / 0.2))


def test_an_arm_that_diverged_is_last_and_says_so(tmp_path: Path) -> None:
    run = make(tmp_path, Made(arms={"wild": 0.9, "calm": 0.05}, diverge={"wild": 7}))
    page, words = report(tmp_path, run)
    assert [row[0] for row in words.rows["numbers"][1:3]] == ["calm", "wild"]
    assert words.row("numbers", "wild")[1] == "diverged in round 7"
    wild = data_of(page)[0]["series"][0]  # type: ignore[index]
    assert wild["y"][6] is not None and set(wild["y"][7:]) == {None}


def test_curves_stand_over_rounds_time_and_bytes(tmp_path: Path) -> None:
    page, _ = report(tmp_path, make(tmp_path, Made(rounds=4, every=2)))
    accuracy = data_of(page)[0]
    [curve] = accuracy["series"]  # type: ignore[misc]
    assert accuracy["key"] == "accuracy"
    assert curve["x"] == {"round": [0, 2, 4], "time": [0.5, 1.5, 2.5], "bytes": [0, 16000, 32000]}
    assert curve["y"] == [pytest.approx(1 - math.exp(-0.1 * r), rel=1e-5) for r in (0, 2, 4)]


def test_claims_stand_beside_what_was_measured(tmp_path: Path) -> None:
    claims = [
        {"text": "FedAvgM last accuracy >= 0.8: measured 0.9", "ok": True, "predicted": 0.8, "measured": 0.9},
        {"text": "loss = 1.2 +- 0.1: measured 0.9", "ok": False, "predicted": 1.2, "measured": 0.9, "tolerance": 0.1},
        {"text": "accuracy >= 0.5: measured nothing", "ok": False, "predicted": 0.5, "measured": None},
    ]
    _, words = report(tmp_path, make(tmp_path, Made(expectations=claims)))
    assert "1 of 3 claims hold" in words.words["claims"]
    assert words.rows["claims"][1:] == [
        ["FedAvgM last accuracy >= 0.8", "holds", "0.800", "–", "0.900", "+0.100", "+12.5%"],
        ["loss = 1.2 +- 0.1", "does not hold", "1.200", "0.100", "0.900", "−0.300", "−25.0%"],
        ["accuracy >= 0.5", "does not hold", "0.500", "–", "–", "–", "–"],
    ]


def test_failures_are_told_by_client_with_their_rounds(tmp_path: Path) -> None:
    failures = {("", r): [Failure(3, "replied NaN in dense.weight", "rejected")] for r in (2, 3, 4, 9)}
    failures["", 5] = [Failure(7, "did not answer", "dropout")]
    _, words = report(tmp_path, make(tmp_path, Made(failures=failures)))
    assert "4 rejected, 1 dropout" in words.words["failures"]
    assert words.row("failures", "client 3")[1:] == ["rejected", "replied NaN in dense.weight", "4", "2–4, 9"]
    assert words.row("failures", "client 7")[1:] == ["dropout", "did not answer", "1", "5"]
    assert "Every reply was used" in report(tmp_path, make(tmp_path, Made()))[1].words["failures"]


def test_measurements_that_are_not_the_usual_ones_are_probes(tmp_path: Path) -> None:
    page, words = report(tmp_path, make(tmp_path, Made(extra={"damping_ratio": lambda r: 1 / r})))
    assert "damping ratio" in words.words["probes"]
    chart = next(chart for chart in data_of(page) if chart["key"] == "damping_ratio")
    assert chart["series"][0]["y"] == [pytest.approx(1 / r, rel=1e-5) for r in range(1, 21)]  # type: ignore[index]
    assert "probes" not in report(tmp_path, make(tmp_path, Made()))[1].words


def test_the_clients_of_a_round_are_a_band_around_their_median(tmp_path: Path) -> None:
    page, _ = report(tmp_path, make(tmp_path, Made(clients=5, cohort=5)))
    [curve] = next(chart for chart in data_of(page) if chart["key"] == "clients-train_loss")["series"]  # type: ignore[misc]
    middle = [2 * math.exp(-0.1 * r) + 0.02 for r in range(1, 21)]
    assert curve["y"] == [pytest.approx(value, rel=1e-5) for value in middle]
    assert curve["low"] == [pytest.approx(value - 0.016, rel=1e-4) for value in middle]
    assert curve["high"] == [pytest.approx(value + 0.016, rel=1e-4) for value in middle]


def test_time_by_phase_adds_up(tmp_path: Path) -> None:
    _, words = report(tmp_path, make(tmp_path, Made(rounds=40)))
    assert words.rows["time"][0] == ["arm", "train", "aggregate", "evaluate", "all"]
    assert words.rows["time"][1] == ["made", "15 s73.2%", "5 s24.4%", "0.5 s2.4%", "20 s"]


def test_commands_to_repeat_name_versions_commit_and_the_scenario(tmp_path: Path) -> None:
    facts = {
        "versions": {"python": "3.11.7", "flwr": "1.41.0", "torch": "2.13.0+cpu", "ray": None},
        "git": {"fedmomentum": {"commit": "c0ffee", "dirty": True}},
        "command": ["fedmomentum", "run", "made.yaml", "--set", "name=two words"],
        "data": {"digits": "ab12"},
    }
    made = Made(provenance=facts, scenario={"model": {"name": "mlp", "hidden": [32]}})
    _, words = report(tmp_path, make(tmp_path, made))
    commands = words.words["repeat"]
    assert "git checkout c0ffee" in commands
    assert "pip install flwr==1.41.0 torch==2.13.0+cpu\nfedmomentum run made.yaml" in commands
    assert "fedmomentum run made.yaml --set 'name=two words'" in commands
    assert "hidden" in commands and "# as written" in commands
    assert words.row("provenance", "commit of fedmomentum")[1] == "c0ffee, with changes"
    assert words.row("provenance", "data digits")[1] == "sha256 ab12"
    assert words.row("setting", "model")[1] == "mlp (hidden [32])"


def test_several_runs_stand_side_by_side_and_differences_are_marked(tmp_path: Path) -> None:
    runs = [
        make(
            tmp_path, Made(name="a", question="First?", arms=TWO_ARMS, scenario={"seed": 1, "model": {"name": "mlp"}})
        ),
        make(tmp_path, Made(name="b", question="Second?", scenario={"seed": 2, "model": {"name": "mlp"}})),
        make(tmp_path, Made(name="b", question="Second?", scenario={"seed": 2, "model": {"name": "mlp"}})),
    ]
    page, words = report(tmp_path, *runs)
    assert "3 runs side by side" in words.words[""] and "First?" in words.words[""] and "Second?" in words.words[""]
    second, third = (f"b {run.path.name}" for run in runs[1:])
    assert second != third
    assert words.rows["setting"][0][1:] == ["a", second, third]
    assert words.row("setting", "seed")[1:] == ["1", "2", "2"]
    names = [series["name"] for series in data_of(page)[0]["series"]]  # type: ignore[attr-defined]
    assert names == ["a: FedAvg", "a: FedAvgM", second, third]
    text = page.read_text(encoding="utf-8")
    assert re.search(r'seed</th><td class="differs">1', text) and re.search(r"model</th><td>mlp", text)


@pytest.mark.parametrize(
    "missing", ["metrics.jsonl", "clients.jsonl", "failures.jsonl", "resolved.yaml", "scenario.yaml", "provenance.json"]
)
def test_a_run_is_reported_without(missing: str, tmp_path: Path) -> None:
    run = make(tmp_path, Made(failures={("", 1): [Failure(1, "late")]}))
    (run.path / missing).unlink()
    _, words = report(tmp_path, load_run(run.path))
    assert "made" in words.words[""]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("resolved.yaml", "a: [1\nb: {", "resolved.yaml could not be read"),
        ("provenance.json", "{", "provenance.json could not be read"),
        ("partition.json", '[{"counts": [[1], [2, 3]]}, 7]', ""),
        ("partition.json", '{"x"', "partition.json could not be read"),
        ("clients.jsonl", '{"round": 1, "client": 0, "train_loss": 1}\nnonsense\n', "1 damaged lines are left out"),
        ("metrics.jsonl", '{"round": 1, "accuracy": 0.5}\n[]\n{"round": "x"}\n{"round": 2, "acc', "1 damaged lines"),
        ("metrics.jsonl", '{"round": 1, "accuracy": 1' + "0" * 400 + "}\n", ""),
        ("failures.jsonl", '{"client": {"a": 1}}\n{"round": null, "reason": 5}\n', ""),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_is_shown(file: str, content: str, says: str, tmp_path: Path) -> None:
    run = make(tmp_path, Made(counts=[[1, 2]] * 12))
    (run.path / file).write_text(content)
    _, words = report(tmp_path, load_run(run.path))
    assert says in words.words["failures"]
    assert words.rows["numbers"]


def test_a_run_that_has_only_begun_is_reported(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, "begun", scenario_text="", resolved={}, hash="0" * 64)
    [folder] = (tmp_path / "begun").iterdir()
    _, words = report(tmp_path, load_run(folder))
    assert "Nothing was measured yet" in words.words[""] and "running" in words.words[""]


def test_a_status_that_is_not_known_is_said(tmp_path: Path) -> None:
    run = make(tmp_path, Made())
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | {"status": "??"}))
    _, words = report(tmp_path, load_run(run.path))
    assert "unknown" in words.words[""]


def test_no_run_and_no_place_are_the_users_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run"):
        write_report([], tmp_path / "report.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_report([make(tmp_path, Made())], tmp_path / "file" / "report.html")


def hostile(tmp_path: Path) -> Run:
    """Put every attack wherever a name can stand."""
    arms = {f"{attack},seed={seed}": 0.1 for attack in ATTACKS[:5] for seed in (0, 1)}
    everything = " ".join(ATTACKS[:5])
    first = next(iter(arms))
    return make(
        tmp_path,
        Made(
            name=ATTACKS[0],
            question=everything,
            arms=arms,
            rounds=3,
            failures={(first, 1): [Failure(1, everything, ATTACKS[1])]},
            extra={ATTACKS[0]: lambda r: r, ATTACKS[1]: lambda r: -r},
            expectations=[{"text": everything, "ok": False, "measured": 1, "predicted": 2}],
            scenario={
                "model": {"name": ATTACKS[0], ATTACKS[1]: ATTACKS[2]},
                ATTACKS[3]: 1,
                "arms": {first: {"x": ATTACKS[1]}},
            },
            provenance={
                "command": ATTACKS[:5],
                "versions": {ATTACKS[0]: ATTACKS[1]},
                "git": {"fedmomentum": {"commit": ATTACKS[2]}},
            },
            counts=[[3, 4]] * 12,
        ),
    )


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    plain, _ = report(tmp_path, make(tmp_path, Made(rounds=3)))
    usual = Words(plain.read_text(encoding="utf-8"))
    page, words = report(tmp_path, hostile(tmp_path))
    assert words.elements["script"] == usual.elements["script"] == 3
    assert words.elements["style"] == usual.elements["style"]
    assert words.elements["img"] == 0
    assert not [name for name in words.attributes if name.startswith("on") or name == "style"]
    assert html.escape(ATTACKS[1]) in page.read_text(encoding="utf-8")
    assert [series["name"] for series in data_of(page)[0]["series"]] == ATTACKS[:5]  # type: ignore[attr-defined]


def test_text_that_no_file_can_hold_is_replaced(tmp_path: Path) -> None:
    run = make(tmp_path, Made())
    status = json.loads((run.path / "status.json").read_text())
    (run.path / "status.json").write_text(json.dumps(status | {"name": ATTACKS[5]}))
    _, words = report(tmp_path, load_run(run.path))
    assert "\u202egnp.exe \ufffd \ufffd \ufffd $x^$" in words.words[""]


def test_nothing_is_loaded_from_anywhere(tmp_path: Path) -> None:
    page, words = report(tmp_path, make(tmp_path, Made(arms=TWO_ARMS, counts=[[3, 4]] * 12)))
    text = page.read_text(encoding="utf-8")
    assert "default-src &#x27;none&#x27;" in text
    assert not words.attributes.keys() & {"src", "srcset", "action", "formaction", "ping"}
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    assert not re.search(r"@import|url\(", text)
    assert [identifier for identifier, count in words.ids.items() if count > 1] == []
    assert all(words.ids[target] == 1 for target in re.findall(r'href="#([^"]+)"', text))


@pytest.mark.parametrize("shape", ["many arms", "many clients", "many rounds"])
def test_it_stays_small(shape: str, tmp_path: Path) -> None:
    made = {
        "many arms": Made(arms={"one": 0.1}, rounds=20),
        "many clients": Made(clients=3000, cohort=600, rounds=30, counts=[[1] * 50] * 900),
        "many rounds": Made(rounds=6000, cohort=2, arms={"a,seed=0": 0.001, "a,seed=1": 0.002}),
    }[shape]
    run = make(tmp_path, made)
    if shape == "many arms":
        run = multiply(run, [f"server_momentum=0.{i},data.partition.alpha={i}" for i in range(300)])
    page, words = report(tmp_path, run)
    assert page.stat().st_size < 2_000_000
    assert len(words.rows["numbers"]) <= 2 * 201


def test_few_points_of_a_long_curve_keep_its_extremes(tmp_path: Path) -> None:
    made = Made(rounds=9000, cohort=1, extra={"spike": lambda r: 100.0 if r == 4321 else math.sin(r / 50)})
    page, _ = report(tmp_path, make(tmp_path, made))
    chart = next(chart for chart in data_of(page) if chart["key"] == "spike")
    [curve] = chart["series"]  # type: ignore[misc]
    assert len(curve["y"]) < 4500
    assert curve["x"]["round"][curve["y"].index(100)] == 4321
    assert (curve["x"]["round"][0], curve["x"]["round"][-1]) == (1, 9000)


def test_plots_lie_beside_it(tmp_path: Path) -> None:
    run = make(tmp_path, Made(arms={"a": 0.1, "$b_": 0.2}, rounds=5, counts=[[3, 4]] * 12))
    files = write_report([run], tmp_path / "out" / "x.html")
    plots = tmp_path / "out" / "x-plots"
    names = {"accuracy", "accuracy-time", "accuracy-bytes", "loss", "train_loss", "clients-train_loss"}
    names |= {"partition", "participation", "time"}
    assert {f"{name}.{kind}" for name in names for kind in ("png", "svg")} <= {path.name for path in plots.iterdir()}
    assert set(files[1:]) == set(plots.iterdir())
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in plots.glob("*.png"))


@needs_browser
def test_it_renders_in_a_browser_without_complaints(tmp_path: Path) -> None:
    failures = {("FedAvg,seed=0", 3): [Failure(1, "NaN", "rejected")]}
    run = make(tmp_path, Made(arms=TWO_ARMS, failures=failures, counts=[[3, 4]] * 12))
    page, _ = report(tmp_path, run)
    for query, width in (("", 1200), ("?theme=dark", 390)):
        document, complaints = visit(page, width=width, query=query)
        assert complaints == []
        assert document.count("<canvas") == len(data_of(page)) >= 4
    assert 'data-theme="dark"' in document and "Theme: dark" in document


@needs_browser
def test_hostile_names_do_nothing_in_a_browser(tmp_path: Path) -> None:
    page, _ = report(tmp_path, hostile(tmp_path))
    loose = with_script(page, "return document.title.includes('pwned') && document.title.length < 20")
    for path in (page, loose):
        document, complaints = visit(path)
        assert complaints == []
        assert not re.search(r"<title>pwned</title>", document)
        assert document.count("<canvas") == len(data_of(page))
    assert played(document) == "false"


@needs_browser
def test_readers_can_hover_choose_and_use_the_keyboard(tmp_path: Path) -> None:
    page, _ = report(tmp_path, make(tmp_path, Made(arms={"slow": 0.05, "fast": 0.2}, every=2, rounds=10)))
    script = """
      const figure = document.getElementById("chart-0");
      const box = figure.querySelector(".plot");
      const out = {};
      const drawn = () => new Promise((done) => setTimeout(done, 50));
      const press = (key) => box.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      const over = figure.querySelector(".u-over");
      const place = over.getBoundingClientRect();
      over.dispatchEvent(new MouseEvent("mouseenter", { clientX: place.left + 1, clientY: place.top + 5, bubbles: true }));
      over.dispatchEvent(new MouseEvent("mousemove", { clientX: place.right - 1, clientY: place.top + 5, bubbles: true }));
      out.hover = box.querySelector(".tip").textContent;
      press("Escape");
      press("End"); out.end = figure.querySelector(".said").textContent;
      press("ArrowLeft"); out.left = figure.querySelector(".said").textContent;
      figure.querySelector("input[value=bytes]").click();
      await drawn();
      press("Home"); press("ArrowRight"); out.bytes = figure.querySelector(".said").textContent;
      const [slow, fast] = figure.querySelectorAll(".keys button");
      slow.click(); out.pressed = slow.getAttribute("aria-pressed");
      await drawn();
      press("End"); out.hidden = figure.querySelector(".said").textContent;
      fast.click(); out.last = fast.getAttribute("aria-pressed");
      const log = document.querySelector("#chart-1 .log");
      log.click();
      await drawn();
      out.canvas = document.querySelectorAll("#chart-1 canvas").length;
      document.getElementById("theme").click(); out.theme = document.documentElement.getAttribute("data-theme");
      return JSON.stringify(out);
    """
    document, complaints = visit(with_script(page, script))
    assert complaints == []
    out = json.loads(html.unescape(played(document)))
    at = {r: (f"fast {number(1 - math.exp(-0.2 * r))}", f"slow {number(1 - math.exp(-0.05 * r))}") for r in (2, 8, 10)}
    assert out["end"] == f"round 10: {at[10][0]}; {at[10][1]}"
    assert out["left"] == f"round 8: {at[8][0]}; {at[8][1]}"
    assert out["bytes"] == f"16 kB: {at[2][0]}; {at[2][1]}"
    assert out["hover"].startswith("round 10") and number(1 - math.exp(-2)) in out["hover"]
    assert (out["pressed"], out["hidden"], out["last"]) == ("false", f"80 kB: {at[10][0]}", "true")
    assert (out["canvas"], out["theme"]) == (1, "light")


def number(value: float) -> str:
    """Four digits, as the page writes them."""
    return f"{float(f'{value:.6g}'):.4g}"
