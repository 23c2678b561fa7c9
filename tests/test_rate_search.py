"""Tests that learning rates are searched once, resumed, and shown with their edges."""

import json
import math

import pytest
from ml_collections import ConfigDict

from fsvfm_jax.benchmark import rate_search, study
from fsvfm_jax.errors import ConfigError, NotFiniteError


@pytest.fixture
def trained(monkeypatch):
    """Returns the runs that were trained; a run has a loss that depends on its rate."""
    runs = []

    def train_run(config, workdir):
        runs.append(workdir.name)
        (workdir / "checkpoints" / "7").mkdir(parents=True)
        if config.rate > 0.05:
            raise NotFiniteError("the loss is not finite")
        losses = [1.0, abs(math.log10(config.rate) + 2), 2.0]
        text = "\n".join(json.dumps({"step": n, "val_loss": x}) for n, x in enumerate(losses))
        (workdir / "validation.jsonl").write_text(text + "\n")

    monkeypatch.setattr(study, "train_run", train_run)
    monkeypatch.setattr(rate_search, "resolve", lambda config: config)
    return runs


def at_rate(rate):
    return ConfigDict({"rate": rate})


def test_the_rate_with_the_lowest_loss_is_found_and_no_run_is_repeated(trained, tmp_path):
    found = rate_search.search_rate(at_rate, tmp_path, rates=(3e-2, 1e-3, 1e-2, 1e-1))
    assert list(found.losses) == [1e-3, 1e-2, 3e-2, 1e-1]
    assert found.best == 1e-2 and not found.is_at_edge
    assert found.losses[1e-1] == math.inf
    assert not list(tmp_path.glob("*/checkpoints"))
    assert rate_search.search_rate(at_rate, tmp_path, rates=(1e-3, 1e-2, 3e-2, 1e-1)) == found
    assert trained == ["0.001", "0.01", "0.03", "0.1"]
    wider = rate_search.search_rate(at_rate, tmp_path, rates=(1e-4, *found.losses))
    assert trained[4:] == ["0.0001"] and wider.best == 1e-2


@pytest.mark.parametrize(
    ("losses", "at_edge"),
    [
        ({1e-3: 0.5, 1e-2: 0.4, 1e-1: 0.6}, False),
        ({1e-3: 0.3, 1e-2: 0.4, 1e-1: 0.6}, True),
        ({1e-3: 0.5, 1e-2: 0.4, 1e-1: 0.1}, True),
        ({1e-3: 0.5}, False),
    ],
)
def test_a_best_rate_at_the_edge_of_the_search_is_known_as_such(losses, at_edge):
    assert rate_search.Search(losses).is_at_edge == at_edge


def test_a_search_goes_on_while_its_best_rate_is_at_an_edge(trained, tmp_path):
    beyond = (1e-4, 1e-2, 3e-2, 1e-1)
    up = rate_search.search_rate(at_rate, tmp_path, rates=(1e-3, 3e-3), beyond=beyond)
    assert trained == ["0.001", "0.003", "0.01", "0.03"]
    assert list(up.losses) == [1e-3, 3e-3, 1e-2, 3e-2] and up.best == 1e-2
    down = rate_search.search_rate(at_rate, tmp_path, rates=(3e-2, 1e-1), beyond=(1e-3, 1e-2))
    assert list(down.losses) == [1e-3, 1e-2, 3e-2, 1e-1] and down.best == 1e-2
    assert trained[4:] == ["0.1"]
    assert rate_search.search_rate(at_rate, tmp_path, rates=(1e-3, 3e-3)).is_at_edge


def test_the_search_goes_down_from_losses_that_are_not_finite(trained, tmp_path):
    diverged = rate_search.Search({0.1: math.inf, 0.2: math.inf})
    assert diverged.is_at_edge and diverged.next_of((1e-3, 1e-2, 1.0)) == 1e-2
    found = rate_search.search_rate(at_rate, tmp_path, rates=(0.1, 0.2), beyond=(1e-3, 1e-2, 1.0))
    assert found.best == 1e-2 and list(found.losses) == [1e-3, 1e-2, 0.1, 0.2]
    assert "| linear | not finite | not finite | none is finite |" in rate_search.write_searches(
        tmp_path, {"linear": diverged}
    )


def test_the_table_and_the_curves_name_every_method(tmp_path):
    searches = {
        "linear": rate_search.Search({1e-3: 0.5, 1e-2: 0.4, 1e-1: 0.6}),
        "full": rate_search.Search({1e-3: 0.3, 1e-2: math.inf, 1e-1: math.inf}),
    }
    text = rate_search.write_searches(tmp_path, searches)
    assert "| linear | 0.5000 | 0.4000 | 0.6000 | 0.01 |" in text
    assert "| full | 0.3000 | not finite | not finite | 0.001 (at the edge) |" in text
    stored = json.loads((tmp_path / "rates.json").read_text())
    assert stored["full"]["val_loss"] == {"0.001": 0.3, "0.01": None, "0.1": None}
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")


def test_methods_may_have_searched_other_rates(tmp_path):
    searches = {
        "linear": rate_search.Search({1e-3: 0.5, 1e-2: 0.4}),
        "full": rate_search.Search({1e-4: 0.3, 1e-3: 0.6}),
    }
    text = rate_search.write_searches(tmp_path, searches)
    assert "| linear |  | 0.5000 | 0.4000 | 0.01 (at the edge) |" in text
    assert "| full | 0.3000 | 0.6000 |  | 0.0001 (at the edge) |" in text


def test_losses_of_another_search_are_refused(trained, tmp_path):
    rate_search.search_rate(at_rate, tmp_path, rates=(1e-3, 1e-2))

    def other(rate):
        return ConfigDict({"rate": rate, "seed": 7})

    with pytest.raises(ConfigError, match=r"belongs to another config\.seed"):
        rate_search.search_rate(other, tmp_path, rates=(1e-3, 1e-2))
