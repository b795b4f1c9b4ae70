"""The papers of a scenario: every one that the schema names is in the table, and only what is used is printed."""

from __future__ import annotations

import re

import pytest

from fedmomentum.cli import main
from fedmomentum.cli.bibliography import PAPERS, bibtex
from fedmomentum.scenario import describe

ARXIV = re.compile(r"arXiv:(\d{4}\.\d+)")


def test_every_paper_that_the_schema_names_is_known() -> None:
    texts = [text for s in describe() for text in (s.summary, *(row.description for row in s.settings))]
    named = {arxiv for text in texts for arxiv in ARXIV.findall(text)}
    assert len(named) > 20
    assert named <= PAPERS.keys()


def test_keys_are_unique_and_entries_are_balanced() -> None:
    assert len({paper.key for paper in PAPERS.values()}) == len(PAPERS)
    for arxiv in PAPERS:
        entry = bibtex(arxiv)
        assert entry.count("{") == entry.count("}")
        assert f"eprint = {{{arxiv}}}" in entry


@pytest.mark.parametrize(
    ("overrides", "wanted", "unwanted"),
    [
        (
            [],
            {"hsu2019measuring", "mcmahan2016fedavg", "beutel2020flower"},
            {"karimireddy2019scaffold", "he2015resnet"},
        ),
        (["arms={}", "strategy={name: scaffold}"], {"karimireddy2019scaffold"}, {"mcmahan2017private"}),
        (["arms={}", "strategy={name: fedavg, clip_update: 1}"], {"mcmahan2017private"}, {"blanchard2017krum"}),
        (["arms={}", "strategy={name: fedavg, aggregator: {name: krum, byzantine: 1}}"], {"blanchard2017krum"}, set()),
        (
            ["arms={}", "client.optimizer={name: sghmc, lr: 0.1, temperature: 0.1}"],
            {"chen2014sghmc"},
            {"kingma2014adam"},
        ),
        (["client.method={name: fedprox, mu: 1}"], {"li2018fedprox"}, set()),
    ],
)
def test_what_a_scenario_uses_is_cited(capsys, overrides, wanted, unwanted) -> None:  # type: ignore[no-untyped-def]
    arguments = [part for override in overrides for part in ("--set", override)]
    assert main(["cite", "quickstart", *arguments]) == 0
    keys = set(re.findall(r"@misc\{(\w+),", capsys.readouterr().out))
    assert wanted <= keys
    assert not unwanted & keys
