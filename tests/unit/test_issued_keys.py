"""Credentials that are issued for a while: of an agency, and of a machine; and those of the environment."""

from __future__ import annotations

import threading
import time

import pytest
from fakes import context_of, execute

from airflow_provider_dli.client.credentials import credentials_of
from airflow_provider_dli.exceptions import DliAuthenticationError, DliError, DliTaskKilledError, DliValueError
from airflow_provider_dli.hooks.dli import DliHook
from airflow_provider_dli.operators.dli import DliSubmitSqlJobOperator

ISSUED = ["agency", "metadata"]
NO_LOGIN = {"login": None, "password": None}


@pytest.fixture
def environment(dli_local, monkeypatch):
    monkeypatch.setenv("HUAWEICLOUD_SDK_AK", dli_local.access_key)
    monkeypatch.setenv("HUAWEICLOUD_SDK_SK", dli_local.secret_key)


def fetches(dli):
    return [request for request in dli.requests() if request.call in ("agency_keys", "metadata_keys")]


class TestKinds:
    @pytest.mark.parametrize("auth_type", ["password", "ak_sk", "agency", "metadata", "environment"])
    def test_each_runs_a_job_and_tests_the_connection(self, connect, environment, auth_type):
        hook = connect(auth_type)
        job = hook.wait_for_job(hook.submit_sql_job("SELECT 1").id, poll_interval=0.1)
        assert job.status == "FINISHED"
        found, sentence = hook.test_connection()
        assert found, sentence

    @pytest.mark.parametrize("source", ["password", "ak_sk", "metadata", "environment"])
    def test_an_agency_is_assumed_with_any_other(self, connect, environment, dli_local, source):
        fields = {name: value for name, value in dli_local.connection(source).items() if name in ("login", "password")}
        hook = connect("agency", extra={"agency_source": source, "metadata_endpoint": dli_local.url}, **fields)
        assert list(hook.list_jobs()) == []

    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_the_project_may_be_named(self, connect, dli_local, auth_type):
        hook = connect(auth_type, extra={"project_id": None, "project_name": dli_local.project_name})
        assert list(hook.list_jobs()) == []

    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_keys_are_fetched_once_for_all_hooks_of_a_process(self, connect, dli_local, auth_type):
        connect(auth_type)
        for _ in range(3):
            list(DliHook().list_jobs())
        assert len(fetches(dli_local)) == 1

    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_they_are_renewed_before_they_end(self, connect, dli_local, auth_type):
        dli_local.settings(keys_lifetime=2)
        hook = connect(auth_type)
        list(hook.list_jobs())
        time.sleep(1.1)  # half of their life
        list(hook.list_jobs())
        assert len(fetches(dli_local)) == 2

    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_keys_that_are_void_before_they_end_are_fetched_anew_once(self, connect, dli_local, auth_type):
        hook = connect(auth_type)
        list(hook.list_jobs())
        dli_local.fault("list", "status", status=401, error_code="APIG.0301")
        list(hook.list_jobs())
        assert len(fetches(dli_local)) == 2
        dli_local.fault("list", "status", times=None, status=401, error_code="APIG.0301")
        with pytest.raises(DliAuthenticationError, match="were refused, new ones too"):
            list(hook.list_jobs())
        assert len(fetches(dli_local)) == 3


class TestKill:
    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_a_kill_after_the_keys_have_ended_cancels_the_job(self, connect, dli_local, airflow_says, auth_type):
        airflow_says("running")
        dli_local.settings(keys_lifetime=2)
        dli_local.will(run_for=60)
        connect(auth_type)
        task = DliSubmitSqlJobOperator(task_id="load", sql="SELECT 1", poll_interval=60)

        def kill_late():
            time.sleep(3)
            task.on_kill()

        killer = threading.Thread(target=kill_late)
        killer.start()
        # It asks rarely, so nothing renews the keys meanwhile.
        with pytest.raises(DliTaskKilledError):
            execute(task, context_of())
        killer.join()
        [job] = dli_local.jobs()
        dli_local.wait_until(lambda dli: dli.job(job.job_id).status == "CANCELLED")


class TestBadInput:
    @pytest.mark.parametrize(
        ("auth_type", "extra", "sentence"),
        [
            ("agency", {"agency_name": None}, "extra field `agency_name` is missing: the agency to assume"),
            ("agency", {"agency_domain_name": None}, "extra field `agency_domain_name` is missing: the account"),
            ("agency", {"agency_source": "agency"}, "must be one of ak_sk, password, metadata, environment"),
            ("metadata", {"metadata_endpoint": "http://x/y"}, "must be a host name or base URL"),
            ("environment", {}, 'is "environment", and HUAWEICLOUD_SDK_AK is not set on this machine'),
        ],
    )
    def test_a_field_is_named(self, connect, auth_type, extra, sentence):
        with pytest.raises(DliValueError, match=sentence):
            connect(auth_type, extra=extra).connect()

    def test_what_assumes_the_agency_is_checked_too(self, connect):
        with pytest.raises(DliValueError, match=r"field `login` is missing: the access key \(AK\)"):
            connect("agency", **NO_LOGIN).connect()

    def test_an_unknown_agency(self, connect):
        with pytest.raises(DliError, match="getting keys of agency 'other' of account 'local' failed"):
            connect("agency", extra={"agency_name": "other"}).connect()

    def test_a_machine_without_a_metadata_service(self, connect):
        hook = connect("metadata", extra={"metadata_endpoint": "http://127.0.0.1:1"})
        found, sentence = hook.test_connection()
        assert not found
        assert sentence.startswith("The metadata service at http://127.0.0.1:1: getting keys of this machine's agency")
        assert "works on a machine in the cloud that has an agency" in sentence

    @pytest.mark.parametrize(
        "answer",
        [
            "{}",
            '{"credential": null}',
            '{"credential": {"access": "a", "secret": "s", "securitytoken": "", "expires_at": "2030-01-01T00:00:00Z"}}',
            '{"credential": {"access": "a", "secret": 1, "securitytoken": "t", "expires_at": "2030-01-01T00:00:00Z"}}',
            '{"credential": {"access": "a", "secret": "s", "securitytoken": "t", "expires_at": "soon"}}',
            '{"credential": {"access": "a\\n", "secret": "s", "securitytoken": "t", "expires_at": "2030-01-01T00:00:00Z"}}',
        ],
    )
    def test_an_answer_that_is_none(self, connect, dli_local, answer):
        dli_local.fault("metadata_keys", "status", times=None, status=200, body=answer)
        found, sentence = connect("metadata").test_connection()
        assert not found
        assert "works on a machine in the cloud" in sentence

    @pytest.mark.parametrize("auth_type", ISSUED)
    def test_no_issued_secret_is_shown(self, connect, dli_local, auth_type):
        hook = connect(auth_type)
        list(hook.list_jobs())
        issued = credentials_of(hook.connect()).issued
        for secret in (issued.secret_key, issued.security_token):
            assert secret not in repr(issued)
            dli_local.fault("list", "status", status=400, error_code="DLI.0001", error_msg=f"You sent {secret}.")
            with pytest.raises(DliError) as error:
                list(hook.list_jobs())
            assert secret not in str(error.value)
