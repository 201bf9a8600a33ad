"""Each call, each thing that can go wrong with it: no job is left, none runs twice, none is green after a kill."""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import replace
from functools import partial
from queue import Queue

import pytest
from fault_matrix import page
from fault_matrix.faults import Fault
from fault_matrix.roles import DEPLOYMENT, ROLES, Cell, Place, Role, play
from fault_matrix.wire import HOST, Certificates, Wire, resolving

from airflow_provider_dli import compat
from airflow_provider_dli.api import sql
from airflow_provider_dli.client import client, exchange
from airflow_provider_dli.client.patience import BOUNDED, Patience
from airflow_provider_dli.local.handle import LocalDli
from airflow_provider_dli.tasks import start
from airflow_provider_dli.waiting import poller, watcher

pytestmark = pytest.mark.timeout(600)
SIDE_BY_SIDE = 16
CELLS = [(role, fault) for role in ROLES for fault in role.faults]
#: Some are played by the README's test command: none that waits for long.
SAMPLE = [
    (role, fault)
    for role, fault in CELLS
    if not fault.is_lasting and fault.kind not in ("connection", "drip", "hang", "hang_after", "restart")
][::60]


class Grid:
    """Plays cells side by side, each on a local DLI that no other one uses meanwhile."""

    def __init__(self, places: Queue[tuple[LocalDli, Wire, str]], states: dict[str, str]) -> None:
        self._places, self._states = places, states
        self._numbers = itertools.count()
        self._log = io.StringIO()

    def play(self, cells: list[tuple[Role, Fault]]) -> dict[tuple[str, str], Cell | BaseException]:
        names = [(role.name, fault.name) for role, fault in cells]
        with redirect_stdout(self._log), ThreadPoolExecutor(SIDE_BY_SIDE) as threads:  # those without a place wait
            found = list(threads.map(self._play, *zip(*cells, strict=True)))
        print(self._log.getvalue())
        return dict(zip(names, found, strict=True))

    def _play(self, role: Role, fault: Fault) -> Cell | BaseException:
        dli, wire, conn_id = self._places.get()
        run_id = f"run {next(self._numbers)}"
        try:
            place = Place(dli, wire, conn_id + fault.connection, run_id, self._states, self._log)
            place.forget_credentials()
            return play(role, fault, place)
        except BaseException as problem:
            return problem
        finally:
            dli.clear_faults()
            dli.reset()
            self._places.put((dli, wire, conn_id))


@pytest.fixture(scope="module")
def wanted(request: pytest.FixtureRequest) -> list[tuple[Role, Fault]]:
    """The cells that were asked for."""
    items = [item for item in request.session.items if "cells" in item.fixturenames]
    return [(item.callspec.params["role"], item.callspec.params["fault"]) for item in items]


@pytest.fixture(scope="module")
def grid(wanted: list[tuple[Role, Fault]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    states: dict[str, str] = {}
    certificates = Certificates(tmp_path_factory.mktemp("certificates"))
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        places: Queue[tuple[LocalDli, Wire, str]] = Queue()
        wires = []
        for number in range(min(SIDE_BY_SIDE, math.ceil(len(wanted) / 4))):
            dli = stack.enter_context(LocalDli.start(allow_hosts=[HOST]))
            wires.append(stack.enter_context(closing(Wire(dli, certificates))))
            for ending, connection in (
                ("", dli.connection(timeout=3.0)),
                ("_tls", wires[-1].connection(timeout=3.0)),
                ("_key", dli.connection("ak_sk", timeout=3.0)),
            ):
                patch.setenv(f"AIRFLOW_CONN_FAULTS_{number}{ending.upper()}", json.dumps(connection))
            places.put((dli, wires[-1], f"faults_{number}"))
        stack.enter_context(resolving(wires))
        patch.setenv("AIRFLOW__DLI__DEPLOYMENT", DEPLOYMENT)
        patch.setattr(
            compat,
            "task_states",
            lambda dag, runs, tasks: {(run, tasks[0], -1): states[run] for run in runs if run in states},
        )
        patch.setattr(compat, "xcom", lambda key, name: None)
        # Budgets of minutes, in seconds.
        patch.setattr(sql, "_SUBMIT_TIMEOUT", 3.0)
        patch.setattr(client, "FIRST_PAUSE", 0.05)
        patch.setattr(client, "Patience", partial(Patience, give_up_after=10.0))
        patch.setattr(exchange, "MAX_RETRY_AFTER", 3.0)
        patch.setattr(start, "BOUNDED", replace(BOUNDED, give_up_after=10.0))
        patch.setattr(start, "LIST_LAG", 2.0)
        patch.setattr(start, "_SUBMIT_WITHIN", 15.0)
        patch.setattr(watcher, "OUTAGE_BUDGET", 8.0)
        patch.setattr(poller, "OUTAGE_BUDGET", 8.0)
        yield Grid(places, states)


@pytest.fixture(scope="module")
def cells(
    grid: Grid, wanted: list[tuple[Role, Fault]], request: pytest.FixtureRequest
) -> dict[tuple[str, str], Cell | BaseException]:
    """What came of them."""
    found = grid.play(wanted)
    if request.config.getoption("--write-fault-page"):
        page.write({name: cell for name, cell in found.items() if isinstance(cell, Cell)})
    return found


@pytest.mark.parametrize(
    ("role", "fault"),
    [
        pytest.param(
            role, fault, id=f"{role.name}-{fault.name}", marks=[] if (role, fault) in SAMPLE else [pytest.mark.matrix]
        )
        for role, fault in CELLS
    ],
)
@pytest.mark.xdist_group("fault matrix")
def test_a_cell(role: Role, fault: Fault, cells: dict[tuple[str, str], Cell | BaseException]) -> None:
    cell = cells[role.name, fault.name]
    if isinstance(cell, BaseException):
        raise cell
    told = page.rows(page.PAGE.read_text(), role.title)
    assert (cell.outcome, page.shown(cell.sentence)) == told[fault.name], "docs/faults.md says otherwise"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_page_tells_of_every_fault(role: Role) -> None:
    assert {fault.name for fault in role.faults} == page.rows(page.PAGE.read_text(), role.title).keys()
