"""Queues and elastic resource pools of the local DLI."""

from __future__ import annotations

import time

import pytest

LONG = "SELECT count(*) FROM range(1000000000000)"


def create(wire, name="etl", **fields):
    return wire.call("POST", "queues", json={"queue_name": name, "cu_count": 16, **fields})


def create_pool(wire, name="big", **fields):
    body = {"elastic_resource_pool_name": name, "min_cu": 64, "max_cu": 128, **fields}
    return wire.call("POST", "elastic-resource-pools", "v3", json=body)


def delete(wire, name):
    return wire.call("DELETE", f"queues/{name}")


def pools(wire, **params):
    return wire.call("GET", "elastic-resource-pools", "v3", params=params).json()


def refusal(answer):
    return answer.status_code, answer.json().get("error_code")


class TestQueues:
    def test_one_lives_from_its_creation_to_its_deletion(self, wire):
        assert create(wire, "ETL_1", elastic_resource_pool_name="POOL", tags=[{"key": "a", "value": "b"}]).json() == {
            "is_success": True,
            "message": "",
            "queue_name": "etl_1",
        }
        detail = wire.get("queues/Etl_1").json()
        assert (detail["queueName"], detail["queueType"], detail["cuCount"]) == ("etl_1", "sql", 16)
        assert detail["elastic_resource_pool_name"] == "pool"
        assert abs(detail["create_time"] / 1000 - time.time()) < 10
        assert wire.run("SELECT 1", queue_name="ETL_1")["status"] == "FINISHED"
        assert delete(wire, "ETL_1").json() == {"is_success": True, "message": ""}
        assert refusal(wire.get("queues/etl_1")) == (400, "DLI.0002")
        assert refusal(delete(wire, "etl_1")) == (400, "DLI.0002")

    def test_the_list_by_type_tag_and_order(self, wire):
        create(wire, "small", cu_count=8, tags=[{"Key": "team", "value": "a"}, {"key": "env", "value": "x"}])
        create(wire, "batch", cu_count=64, queue_type="general")

        def names(**params):
            return [queue["queue_name"] for queue in wire.get("queues", params=params).json()["queues"]]

        assert names() == ["default", "small"]
        assert names(queue_type="general") == ["batch", "general"]
        assert names(queue_type="all", order="cu_desc")[0] == "batch"
        assert names(queue_type="all", order="cu_asc")[0] == "small"
        assert names(tags="team=a,env=x") == ["small"]
        assert names(tags="team=a,env=y") == []
        assert names(**{"queue_type": "all", "page-size": 3, "current-page": 2}) == ["small"]

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"name": "default"}, "DLI.0006"),
            ({"name": "Etl"}, "DLI.0006"),
            ({"name": "1"}, "DLI.0001"),
            ({"name": "a-b"}, "DLI.0001"),
            ({"name": "new", "cu_count": 7}, "DLI.0001"),
            ({"name": "new", "cu_count": 3, "queue_type": "general"}, "DLI.0001"),
            ({"name": "new", "queue_type": "spark"}, "DLI.0001"),
            ({"name": "new", "tags": [{"value": "a"}]}, "DLI.0001"),
            ({"name": "new", "elastic_resource_pool_name": "nowhere"}, "DLI.0002"),
        ],
    )
    def test_what_is_refused(self, wire, fields, code):
        assert create(wire, "etl").status_code == 200
        assert refusal(create(wire, **fields)) == (400, code)
        assert create(wire, "least", cu_count=4, queue_type="general").status_code == 200

    def test_a_general_queue_takes_no_sql_jobs(self, wire):
        create(wire, "batch", queue_type="general")
        for name in ("batch", "general"):
            answer = wire.submit("SELECT 1", queue_name=name)
            assert refusal(answer) == (400, "DLI.0001")
            assert "needs a queue of type sql" in answer.json()["error_msg"]
        source = wire.run("SELECT 1")["job_id"]
        body = {"data_path": "obs://bucket/a", "data_type": "csv", "queue_name": "batch"}
        assert refusal(wire.call("POST", f"jobs/{source}/export-result", json=body)) == (400, "DLI.0001")

    def test_it_is_not_usable_at_once_if_the_settings_say_so(self, wire, dli_local):
        dli_local.settings(queue_usable_after=1)
        create(wire)
        assert wire.get("queues/etl").status_code == 200
        assert refusal(wire.submit("SELECT 1", queue_name="etl")) == (400, "DLI.0012")
        assert wire.submit("SELECT 1").status_code == 200
        time.sleep(1)
        assert wire.submit("SELECT 1", queue_name="etl").status_code == 200

    @pytest.mark.parametrize("code", ["DLI.0007", "DLI.0008"])
    def test_one_with_active_jobs_is_not_deleted(self, wire, dli_local, code):
        dli_local.settings(queue_busy=code)
        create(wire)
        job_id = wire.start(LONG, queue_name="etl")
        assert refusal(delete(wire, "etl")) == (400, code)
        wire.cancel(job_id)
        wire.until(job_id)
        assert delete(wire, "etl").status_code == 200

    def test_as_many_jobs_run_at_a_time_as_it_has_cus(self, wire):
        create(wire, cu_count=8)
        jobs = [wire.start(LONG, queue_name="etl") for _ in range(9)]
        wire.until(jobs[7], "RUNNING")
        assert wire.status(jobs[8])["status"] == "LAUNCHING"

    def test_those_of_the_settings_can_be_deleted_and_the_built_in_ones_cannot(self, wire, dli_local):
        dli_local.settings(queues={"etl": 1, "general": 3})
        assert delete(wire, "etl").status_code == 200
        assert dli_local.settings()["queues"] == {"general": 3}
        for name in ("default", "general"):
            assert refusal(delete(wire, name)) == (400, "DLI.0007")
        assert wire.get("queues/general").json()["description"] == "runs 3 jobs at a time"

    def test_a_reset_forgets_them(self, wire, dli_local):
        create(wire)
        create_pool(wire)
        dli_local.reset()
        assert refusal(wire.get("queues/etl")) == (400, "DLI.0002")
        assert pools(wire)["count"] == 1


class TestPools:
    def test_one_lives_from_its_creation_to_its_deletion(self, wire, dli_local):
        dli_local.settings(pool_available_after=1)
        tags = [{"key": "team", "value": "a"}]
        assert create_pool(wire, "Big", tags=tags).json()["elastic_resource_pool_name"] == "big"
        [found] = pools(wire, name="big", tags="team=a", status="CREATING")["elastic_resource_pools"]
        assert (found["status"], found["min_cu"], found["max_cu"]) == ("CREATING", 64, 128)
        assert refusal(create(wire, elastic_resource_pool_name="big")) == (400, "DLI.0012")
        time.sleep(1)
        assert pools(wire, name="big")["elastic_resource_pools"][0]["status"] == "AVAILABLE"
        assert create(wire, elastic_resource_pool_name="big").status_code == 200
        assert pools(wire, name="big")["elastic_resource_pools"][0]["queues"] == ["etl"]
        path = "elastic-resource-pools/BIG"
        assert refusal(wire.call("DELETE", path, "v3")) == (400, "DLI.0007")
        delete(wire, "etl")
        assert wire.call("DELETE", path, "v3").json() == {"is_success": True, "message": ""}
        assert refusal(wire.call("DELETE", path, "v3")) == (400, "DLI.0002")

    def test_the_list_by_pages(self, wire):
        for name in ("one", "two"):
            create_pool(wire, name)
        page = pools(wire, limit=1, offset=1)
        assert (page["count"], [each["elastic_resource_pool_name"] for each in page["elastic_resource_pools"]]) == (
            3,
            ["one"],
        )
        assert pools(wire, tags="team=a")["count"] == 0

    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            ({"name": "pool"}, "DLI.0006"),
            ({"name": "a b"}, "DLI.0001"),
            ({"min_cu": 129}, "DLI.0001"),
            ({"min_cu": 16}, "DLI.0001"),
            ({"min_cu": 16, "label": {"spec": "basic"}}, "DLI.0001"),
            ({"max_cu": 32001}, "DLI.0001"),
        ],
    )
    def test_what_is_refused(self, wire, fields, code):
        assert refusal(create_pool(wire, **fields)) == (400, code)

    def test_one_of_the_basic_edition(self, wire):
        assert create_pool(wire, min_cu=16, max_cu=64, label={"spec": "basic"}).status_code == 200

    def test_the_built_in_one_stays(self, wire):
        assert refusal(wire.call("DELETE", "elastic-resource-pools/pool", "v3")) == (400, "DLI.0007")
