"""All jobs of a project."""

from __future__ import annotations

from collections.abc import Iterator

from airflow_provider_dli.local.dli.jobs.job import Job


class JobStore:
    """Jobs in the order of their submission; beyond ``limit``, the oldest one that has ended is forgotten."""

    def __init__(self, limit: int = 50_000) -> None:
        self._limit = limit
        self._jobs: dict[str, Job] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs.values())

    def add(self, job: Job) -> None:
        self._jobs[job.job_id] = job
        if len(self._jobs) > self._limit:
            self._forget_oldest()

    def get(self, job_id: str) -> Job | None:
        return self._jobs.get(job_id)

    def clear(self) -> None:
        self._jobs = {}

    def _forget_oldest(self) -> None:
        oldest = next((job for job in self if not job.is_active), None)
        if oldest is not None:
            del self._jobs[oldest.job_id]
