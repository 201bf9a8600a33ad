"""
Every kill of a running task: no job is left, and nothing runs twice.

``pytest`` plays one case of the paths that differ most, ``pytest -m matrix -n 2`` all others; see ``kill_matrix``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from _pytest.mark import ParameterSet
from kill_matrix import table, verdict
from kill_matrix.cases import ALL, BY_NAME, IN_README_COMMAND, MAPPED, OF_KINDS, PATHS, QUICK, Case
from kill_matrix.kinds import SQL, STOCK
from kill_matrix.report import summary
from kill_matrix.stage import Outcome, Stage
from lab.airflow import LocalAirflow

from airflow_provider_dli.local.handle import LocalDli

pytestmark = pytest.mark.timeout(2400)


def is_quick(case: Case) -> bool:
    return QUICK.get(case.path.name) == case.moment.name


def is_in_readme_command(case: Case) -> bool:
    return is_quick(case) and case.path.name in IN_README_COMMAND


def group_of(case: Case) -> str:
    """The Airflow on which a case is played: those that disturb all others, which mostly wait, have some of their own."""
    if not case.path.alone or is_in_readme_command(case):
        return "airflow"
    return "triggerers lost" if case.path.name.startswith(("triggerer-lost", "triggerer-down")) else "disturbed"


def of_case(case: Case, *marks: pytest.MarkDecorator) -> ParameterSet:
    return pytest.param(case, id=case.name, marks=(*marks, pytest.mark.xdist_group(group_of(case))))


class Outcomes:
    """What came of the cases that were asked for. Those of one group are played when the first of them is looked at."""

    def __init__(self, cases: Iterable[Case], stage: Stage, *, write: bool) -> None:
        self._cases = {case.name: case for case in cases}
        self._stage, self._write = stage, write
        self._found: dict[str, Outcome] = {}

    def played(self) -> list[Outcome]:
        """What came of all cases that have been played."""
        return list(self._found.values())

    def __getitem__(self, name: str) -> Outcome:
        if name not in self._found:
            group = group_of(self._cases[name])
            cases = [case for case in self._cases.values() if group_of(case) == group]
            # Those that take long begin first, so that none of them is played alone at the end.
            self._found |= self._stage.play(
                sorted(cases, key=lambda case: (case.path.tries, case.run_for > 60), reverse=True)
            )
            if self._write:
                table.write([outcome for outcome in self._found.values() if outcome.case.kind is SQL])
                table.write_lines()
        return self._found[name]


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, airflow: LocalAirflow, dli: LocalDli) -> Iterator[Outcomes]:
    calls = [getattr(item, "callspec", None) for item in request.session.items if "outcomes" in item.fixturenames]
    cases = [call.params["case"] for call in calls if call and "case" in call.params]
    with Stage(airflow, dli, report=lambda outcome: print(summary(outcome))) as stage:
        yield Outcomes(cases, stage, write=request.config.getoption("--write-kill-table"))


# Each pair of a path and a moment is played for one kind of job at least, and each path for every kind.
OF_ANOTHER_KIND = {
    (case.path, case.moment) for case in OF_KINDS if case.moment.name != "wait" and case.kind is not STOCK
}
OF_SQL = [case for case in ALL if is_quick(case) or (case.path, case.moment) not in OF_ANOTHER_KIND]


@pytest.mark.parametrize(
    "case",
    [of_case(case) if is_in_readme_command(case) else of_case(case, pytest.mark.matrix) for case in OF_SQL],
)
def test_a_kill(case: Case, outcomes: Outcomes) -> None:
    verdict.check(outcomes[case.name])


@pytest.mark.matrix
@pytest.mark.parametrize("case", [of_case(case) for case in OF_KINDS])
def test_a_kill_of_another_kind_of_job(case: Case, outcomes: Outcomes) -> None:
    verdict.check(outcomes[case.name])


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in MAPPED])
def test_a_kill_of_one_mapped_task_leaves_the_others_alone(case: Case, outcomes: Outcomes) -> None:
    verdict.check_mapped(outcomes[case.name])


@pytest.mark.parametrize("case", [pytest.param(BY_NAME["execution-timeout.wait"], id="execution-timeout.wait")])
def test_with_an_execution_timeout_dli_itself_has_a_bound(case: Case, outcomes: Outcomes) -> None:
    [job] = outcomes[case.name].jobs
    [bound] = [setting for setting in job.conf if "dli.sql.job.timeout" in setting]
    assert 6 < int(bound.partition("=")[2]) <= 66


@pytest.mark.matrix
def test_hardly_any_kill_is_late(outcomes: Outcomes) -> None:
    """One may have met a busy machine; more of them mean that we are slow."""
    late = [outcome.name for outcome in outcomes.played() if verdict.is_late(outcome)]
    print(f"{len(late)} of {len(outcomes.played())} kills were late: {late}")
    assert len(late) <= max(1, len(outcomes.played()) / 20), late


def test_the_docs_say_what_happens() -> None:
    page = table.PAGE.read_text()
    assert [cells[0] for cells in table.rows(page)] == [path.title for path in PATHS]
    assert table.rows(page, table.LINES_BEGIN, table.LINES_END) == table.line_rows()
