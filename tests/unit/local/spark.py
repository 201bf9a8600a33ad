"""A bare client of the Spark calls of the local DLI."""

import time

import pace

JAR = "group/job.jar"


class Spark:
    """Calls about Spark batches."""

    def __init__(self, wire):
        self.wire = wire

    def call(self, method, batch_id="", path="", **options):
        return self.wire.call(method, f"batches{batch_id and f'/{batch_id}'}{path}", version="v2.0", **options)

    def post(self, **body):
        return self.call("POST", json={"file": JAR} | body)

    def create(self, **body):
        answer = self.post(**body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def get(self, batch_id):
        answer = self.call("GET", batch_id)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def state(self, batch_id):
        return self.call("GET", batch_id, "/state").json()["state"]

    def log(self, batch_id, **query):
        answer = self.call("GET", batch_id, "/log", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def cancel(self, batch_id):
        return self.call("DELETE", batch_id)

    def list(self, **query):
        answer = self.call("GET", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def names(self, **query):
        return [batch["name"] for batch in self.list(**query)["sessions"]]

    def until(self, batch_id, *states, timeout=10):
        deadline = time.monotonic() + pace.seconds(timeout)
        while True:
            found = self.get(batch_id)
            if found["state"] in (states or ("success", "dead")):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.01)
