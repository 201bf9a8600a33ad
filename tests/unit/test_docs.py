"""What README.md and docs/ show works as it stands. Their DAGs are run in ``tests/airflow/test_lines.py``, on each line of Airflow."""

from __future__ import annotations

import configparser
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import Connection
from documentation import dag_files, markdown
from documentation.markdown import PROJECT, all_blocks

from airflow_provider_dli.client.connection import DliConnection
from airflow_provider_dli.get_provider_info import get_provider_info
from airflow_provider_dli.local import cli
from airflow_provider_dli.local.dli.settings import Settings
from airflow_provider_dli.operators import dli as operators
from airflow_provider_dli.operators.base import DliJobOperator, DliOperator
from airflow_provider_dli.sensors.dli import DliJobSensor

SHELL = ("bash", "sh", "shell", "console")
OTHER_PAGES = [PROJECT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
DOCUMENTED = {name: getattr(operators, name) for name in operators.__all__} | {"DliJobSensor": DliJobSensor}


def each(blocks):
    return pytest.mark.parametrize("block", [pytest.param(block, id=block.where) for block in blocks])


class TestPython:
    @each(all_blocks("python"))
    def test_every_block_is_run_or_says_why_not(self, block):
        compile(block.text, block.where, "exec")
        if block in dag_files.run_blocks():
            missing = ", ".join(sorted(dag_files.missing_names(block)))
            hint = "define it, or write above the block why it is not run: <!-- not run: why -->"
            assert not missing, f"{block.where}: nothing defines {missing}: {hint}"

    @pytest.mark.matrix
    @pytest.mark.parametrize("cron_intervals", ["False", "True"], ids=["moments", "intervals"])
    def test_every_dag_loads_and_a_scheduled_one_loads_the_day_that_has_just_ended(self, tmp_path, cron_intervals):
        """Whichever timetable Airflow 3 is told to make of ``@daily``."""
        settings = {"AIRFLOW__SCHEDULER__CREATE_CRON_DATA_INTERVALS": cron_intervals}
        origins = dag_files.write_dags(tmp_path / "dags")
        dag_files.read(tmp_path / "dags", tmp_path, **settings).check(origins)

    @pytest.mark.matrix
    def test_the_example_for_ones_own_ci(self, tmp_path):
        tests = [block for block in all_blocks("python") if dag_files.is_test(block)]
        assert tests
        for page in {block.page for block in tests}:
            folder = tmp_path / page.stem
            for block in markdown.blocks(page):
                if block.language == "python" and (name := re.match(r"# (\w+/\w+\.py)\n", block.text)):
                    (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
                    (folder / name[1]).write_text(block.text)
            [step] = [
                block for block in markdown.blocks(page) if re.search(r"\bpytest tests$", block.text, re.MULTILINE)
            ]
            # All is installed here.
            script = re.sub(r"^pip install .*\n", "", step.text, flags=re.MULTILINE)
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            run = subprocess.run(
                ["bash", "-euc", script],
                cwd=folder,
                env={**os.environ, "PATH": path},
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == 0, f"{step.where}: {run.stdout}{run.stderr}"
            of_page = [block.text for block in tests if block.page == page]
            wanted = sum(len(re.findall(r"^def test_", text, re.MULTILINE)) for text in of_page)
            assert f"{wanted} passed" in run.stdout


class TestShell:
    @each([block for block in all_blocks(*SHELL) if "/_local/" in block.text])
    def test_a_local_dli_takes_the_calls(self, dli_local, block):
        if not shutil.which("curl"):
            (pytest.fail if os.environ.get("DLI_TEST_NO_SKIP") else pytest.skip)("curl is not installed")
        calls = re.sub(r"\blocalhost:18080\b", dli_local.url, block.text)
        # Nobody wants to wait for so long here.
        calls = re.sub(r'("down_for": )\d+', r"\g<1>0.1", calls)
        curl = 'curl() { command curl --silent --show-error --fail-with-body --noproxy "*" "$@"; }\n'
        run = subprocess.run(["bash", "-euc", curl + calls], capture_output=True, text=True, check=False, timeout=30)
        assert run.returncode == 0, f"{block.where}: {run.stdout}{run.stderr}"

    @each([block for block in all_blocks(*SHELL) if re.search(r"AIRFLOW_CONN_\w+='\{", block.text)])
    def test_a_connection_has_no_field_that_nothing_reads(self, block, monkeypatch):
        for name, value in re.findall(r"\b(HUAWEICLOUD_\w+)='([^']+)'", block.text):
            monkeypatch.setenv(name, value.replace("…", "x"))
        [kind] = get_provider_info()["connection-types"]
        for conn_id, text in re.findall(r"AIRFLOW_CONN_(\w+)='(\{.*?\})'", block.text, re.DOTALL):
            # What the reader has to fill in.
            fields = json.loads(text.replace("…", "x"))
            unknown = fields["extra"].keys() - kind["conn-fields"].keys()
            unknown |= fields.keys() - {"conn_type", "login", "password", "host", "port", "extra"}
            assert not unknown, f"{block.where}: no field {', '.join(sorted(unknown))}"
            assert fields["conn_type"] == kind["connection-type"], block.where
            DliConnection.from_airflow(Connection.from_json(json.dumps(fields), conn_id=conn_id.lower()))

    @each([block for block in all_blocks(*SHELL) if "dli-local " in block.text])
    def test_the_command_line_has_the_options(self, block):
        # A connection has several lines, and is no part of the commands.
        text = re.sub(r"='\{.*?\}'", "=x", block.text, flags=re.DOTALL).replace("\\\n", " ")
        for words in (shlex.split(line, comments=True) for line in text.splitlines()):
            if "dli-local" in words:
                arguments = words[words.index("dli-local") + 1 :]
                try:
                    found = cli._parser(arguments[0]).parse_args(arguments)
                except SystemExit:
                    pytest.fail(f"{block.where}: dli-local {shlex.join(arguments)}")
                Settings(**dict(getattr(found, "set", ())))


@each(all_blocks("json"))
def test_json_is_json(block):
    json.loads(block.text)


@each(all_blocks("ini"))
def test_an_option_of_airflows_configuration_exists(block):
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    known = get_provider_info()["config"]
    for section in parser.sections():
        assert section not in known or set(parser[section]) <= set(known[section]["options"]), block.where


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name) for page in (*markdown.pages(), *OTHER_PAGES) if page.exists()],
)
def test_every_link_leads_somewhere(page):
    broken = []
    for line, link in markdown.links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(PROJECT):
            broken.append(f"{page.name}:{line}: no file {path}")
        elif anchor and anchor not in markdown.anchors(target):
            broken.append(f"{page.name}:{line}: no heading #{anchor} in {target.name}")
    assert not broken, "\n".join(broken)


def operator_of(table):
    """The operator that a table of parameters is of: the nearest heading names it. None: those of all operators."""
    for heading in reversed(table.headings):
        if names := set(re.findall(r"\bDli\w+(?:Operator|Sensor)\b", heading)):
            assert len(names) == 1, (
                f"{table.where}: which of {', '.join(sorted(names))}? Give each a heading of its own"
            )
            return names.pop()
    return None


def parameters_of(cls):
    return {name for name, each in inspect.signature(cls.__init__).parameters.items() if each.kind is each.KEYWORD_ONLY}


class TestParameters:
    TABLES = [
        table
        for page in markdown.pages()
        for table in markdown.tables(page)
        if table.rows[0][:2] == ["parameter", "meaning"]
    ]
    ALL_ARE = "(sql-jobs.md#parameters-of-all-jobs)"
    COMMON = parameters_of(DliOperator) | parameters_of(DliJobOperator)

    def test_every_operator_has_a_table(self):
        assert {operator_of(table) for table in self.TABLES} - {None} == DOCUMENTED.keys()

    def test_every_parameter_is_there_once_and_no_other_one(self):
        named = defaultdict(Counter)
        for table in self.TABLES:
            names = [name for row in table.rows[1:] for name in re.findall(r"`(\w+)`", row[0])]
            named[table.page, operator_of(table)].update(names)
        wrong = []
        for (page, operator), names in named.items():
            cls = DOCUMENTED.get(operator)
            known = set.union(*map(parameters_of, cls.__mro__)) if cls else self.COMMON
            # Those of all operators may be told of anywhere on the page, or on the page that tells of them all.
            text = page.read_text()
            inherited = {name for name in self.COMMON & known if f"`{name}`" not in text and self.ALL_ARE not in text}
            missing = (parameters_of(cls) - self.COMMON | inherited if cls else set()) - names.keys()
            where = f"{page.relative_to(PROJECT)}: {operator}"
            wrong += [f"{where} has no {name}" for name in sorted(missing)]
            wrong += [f"{where} has {name}, which is no parameter" for name in sorted(names.keys() - known)]
            wrong += [f"{where} has {name} {count} times" for name, count in names.items() if count > 1]
        assert not wrong, "\n".join(wrong)
