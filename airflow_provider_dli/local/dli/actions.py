"""The IAM actions that calls of DLI need."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """
    An IAM action.

    The tables of actions of Open Telekom Cloud and of Huawei Cloud name them. Where the two differ, a call needs what
    the stricter one asks for. ``dli:queue:get``, ``dli:queue:list`` and the reads of SQL jobs and Spark batches are
    in the identity policies of Huawei Cloud only, which call ``dli:jobs:listAll`` ``dli:jobs:list``. That an export
    needs ``dli:queue:submitJob``, and the log of a batch ``dli:jobs:get``, is our judgement: no source names an action.
    """

    SUBMIT_JOB = "dli:queue:submitJob"
    CANCEL_JOB = "dli:queue:cancelJob"
    GET_JOB = "dli:jobs:get"
    LIST_JOBS = "dli:jobs:listAll"
    CREATE_FLINK_JOB = "dli:jobs:create"
    START_FLINK_JOB = "dli:jobs:start"
    STOP_FLINK_JOB = "dli:jobs:stop"
    DELETE_FLINK_JOB = "dli:jobs:delete"
    CREATE_QUEUE = "dli:queue:createQueue"
    DROP_QUEUE = "dli:queue:dropQueue"
    GET_QUEUE = "dli:queue:get"
    LIST_QUEUES = "dli:queue:list"
    CREATE_POOL = "dli:elasticresourcepool:create"
    DROP_POOL = "dli:elasticresourcepool:drop"
