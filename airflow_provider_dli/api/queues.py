"""
Queues.

Follows the chapter "APIs Related to Queues" of the DLI API Reference. A queue of type ``sql`` runs SQL jobs, one of
type ``general`` runs Spark and Flink jobs; the built-in queue ``default`` runs all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_dli import identity
from airflow_provider_dli.api import answers, checks
from airflow_provider_dli.api.call import Answer, Call, escape
from airflow_provider_dli.exceptions import DliTemporaryError
from airflow_provider_dli.text import NAME_LIMIT

if TYPE_CHECKING:
    from pendulum import DateTime

#: The queue that is built in.
DEFAULT = "default"
#: DLI's type of a queue that is created without one.
DEFAULT_TYPE = "sql"
# CUs of the smallest queue of a type. Which larger numbers there are depends on the cloud: DLI decides.
_SMALLEST = {"sql": 8, "general": 4}

_PATH = "/v1.0/{project_id}/queues"
# DLI spells these differently in the list and in the detail.
_SPELLINGS = {"queue_name": "queueName", "queue_type": "queueType", "cu_count": "cuCount"}


@dataclass(frozen=True)
class Queue:
    """
    A queue as DLI describes it.

    :param name: Its name, in lower case.
    :param type: ``sql`` or ``general``; empty when DLI does not say.
    :param cu_count: Its size in compute units (CUs); None when DLI does not say.
    :param pool: Its elastic resource pool; empty when DLI does not say, or when it is in none.
    :param description: Its description.
    :param created: When it was created; None when DLI does not say.
    """

    name: str
    type: str
    cu_count: int | None = None
    pool: str = ""
    description: str = ""
    created: DateTime | None = None

    def __str__(self) -> str:
        return f"queue {self.name}"


def create(
    queue_name: str,
    cu_count: int,
    *,
    elastic_resource_pool_name: str | None = None,
    queue_type: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
) -> Call[str]:
    """
    Create a queue; returns its name as DLI stores it, in lower case (API page "Creating a Queue").

    It takes jobs a few minutes later; no call tells when. Between which numbers of CUs DLI scales a queue within its
    elastic resource pool is not set here, but in the scaling policy of the pool (API page "Modifying the Scaling Policy
    of a Queue Associated with an Elastic Resource Pool").

    :param queue_name: 1 to 128 letters, digits and ``_``; not digits only, not starting with ``_``.
    :param cu_count: Its size in CUs: at least 8 for type ``sql``, 4 for type ``general``.
    :param elastic_resource_pool_name: Pool to create it in. Queues outside of pools are deprecated.
    :param queue_type: ``sql`` (DLI's default) or ``general``.
    :param tags: Tags of the queue, for cost reports.
    :param description: Text that DLI shows with the queue.
    :raises DliValueError: A value cannot be used. Nothing was sent.
    """
    name = checked_name("queue_name", queue_name)
    checks.choice("queue_type", queue_type, tuple(_SMALLEST))
    checked_tags = identity.merged_tags(checks.mapping("tags", tags), {})
    body = {
        "queue_name": name,
        "cu_count": checks.whole_number("cu_count", cu_count, _SMALLEST[queue_type or DEFAULT_TYPE]),
        "queue_type": queue_type,
        "description": description,
        "tags": [{"key": key, "value": value} for key, value in checked_tags.items()] or None,
    }
    if elastic_resource_pool_name is not None:
        field = "elastic_resource_pool_name"
        body[field] = checked_name(field, elastic_resource_pool_name)
    return Call(
        f"creation of queue {name}",
        "POST",
        _PATH,
        lambda answer: answer.text(answer.body.get("queue_name"), NAME_LIMIT) or name,
        # Not repeatable blindly: the second one is told that the name is taken.
        body={key: value for key, value in body.items() if value is not None},
        iam_action="dli:queue:createQueue",
    )


def show(queue_name: str) -> Call[Queue]:
    """
    Describe a queue (API page "Querying Queue Details").

    :param queue_name: The queue, in any case.
    :raises DliValueError: DLI does not take such a name. Nothing was sent.
    """
    name = checked_name("queue_name", queue_name)
    return Call(
        f"detail of queue {name}",
        "GET",
        f"{_PATH}/{escape(name)}",
        lambda answer: _read(answer, answer.body),
        repeatable=True,
        iam_action="dli:queue:get",
    )


def delete(queue_name: str) -> Call[None]:
    """
    Delete a queue (API page "Deleting a Queue"). DLI refuses while jobs on it are submitted or run.

    :param queue_name: The queue, in any case.
    :raises DliValueError: DLI does not take such a name. Nothing was sent.
    """
    name = checked_name("queue_name", queue_name)
    return Call(
        f"deletion of queue {name}",
        "DELETE",
        f"{_PATH}/{escape(name)}",
        lambda answer: None,
        repeatable=True,
        iam_action="dli:queue:dropQueue",
    )


def list_queues(
    *,
    queue_type: str = "all",
    page: int | None = None,
    page_size: int | None = None,
    tags: Mapping[str, str] | None = None,
    order: str | None = None,
) -> Call[list[Queue]]:
    """
    List the queues of the project (API page "Querying All Queues").

    :param queue_type: ``sql``, ``general`` or ``all``. Default ``all``; DLI's own default is ``sql``.
    :param page: Page, from 1; DLI's default is 1. Only Open Telekom Cloud documents pages.
    :param page_size: Queues per page; DLI's default is all of them.
    :param tags: Only queues with these tags.
    :param order: ``queue_name_asc`` (DLI's default), ``queue_name_desc``, ``cu_asc`` or ``cu_desc``.
    """

    def read(answer: Answer) -> list[Queue]:
        found = answer.body.get("queues")
        if not isinstance(found, list):
            raise DliTemporaryError("list of queues: DLI's answer holds no list of queues")
        return [_read(answer, queue) for queue in found]

    return Call(
        "list of queues",
        "GET",
        _PATH,
        read,
        query={
            "queue_type": queue_type,
            "current-page": page,
            "page-size": page_size,
            "tags": ",".join(f"{key}={value}" for key, value in tags.items()) if tags else None,
            "order": order,
        },
        repeatable=True,
        iam_action="dli:queue:list",
    )


def checked_name(field: str, name: object) -> str:
    """
    Return the name of a queue or a pool as DLI stores it, in lower case.

    :param field: What it is the name of, such as ``queue_name``.
    :raises DliValueError: DLI does not take such a name.
    """
    return checks.required_name(field, name).lower()


def _read(answer: Answer, body: Mapping[str, Any]) -> Queue:
    def value(name: str) -> Any:
        return body.get(name, body.get(_SPELLINGS[name]))

    name = answer.text(value("queue_name"), NAME_LIMIT)
    if not name:
        raise DliTemporaryError("DLI's answer holds a queue without a name")
    return Queue(
        name=name.lower(),
        type=answer.text(value("queue_type"), NAME_LIMIT).lower(),
        cu_count=answers.count(value("cu_count")),
        pool=answer.text(body.get("elastic_resource_pool_name"), NAME_LIMIT).lower(),
        description=answer.text(body.get("description")),
        created=answers.moment(body.get("create_time")),
    )
