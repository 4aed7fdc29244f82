"""The cost of the published training, and its table in docs/training.md."""

import pytest

from benchmarks import cost
from benchmarks.records import read_machine_results
from tests.conftest import GOLDEN
from tests.helpers.documents import read_document


def test_operations_of_an_epoch_cover_its_full_batches():
    published, scored = (
        cost.list_step_operations(scope, num_videos=40, med_config=str(GOLDEN / "med_small.json"))
        for scope in cost.SCOPES
    )
    assert len(published) == len(scored) == 2  # the last 8 videos are dropped
    assert all(0 < fewer < more for fewer, more in zip(scored, published))


def test_hours_are_those_of_the_average_step():
    results = read_machine_results(cost.DEFAULT_RESULTS)
    seconds = cost.find_step_seconds(results, "published")
    lines = list(cost.format_costs(results, {"published": [10**12, 3 * 10**12]}))  # twice the measured step on average
    assert f"| {56 * 2 * 2 * seconds / 3600:.0f} h |" in lines[3]
    assert f"| {56 * 4e12 / (312e12 * 0.3) / 60:.0f} to {56 * 4e12 / (312e12 * 0.1) / 60:.0f} min |" in lines[4]
    assert all("*not measured*" in line for line in lines[4:])
    empty = results.model_copy(update=dict(rows={}))
    with pytest.raises(ValueError, match="smoothing published: not measured; run python -m benchmarks"):
        cost.find_step_seconds(empty, "published")


@pytest.mark.slow
def test_documented_costs_are_those_of_the_command(capsys):
    cost.main([])
    assert capsys.readouterr().out in read_document("training")
