"""Who may do what: as Airflow's auth manager says. And whether a request comes from our own page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails, DagAccessEntity, DagDetails
from airflow.providers.common.compat.sdk import conf

from airflow_provider_dli import DEFAULT_CONN_ID, compat
from airflow_provider_dli.client.connection import CONN_TYPE

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser

#: Another site's page cannot send it: a browser would ask us first, and we do not answer that.
HEADER, HEADER_VALUE = "x-dli-jobs-page", "1"

Method = Literal["GET", "PUT"]


class Rights:
    """
    What a user may do. Asks the auth manager, which may ask another service: for threads only.

    :param user: The user, as Airflow knows them.
    """

    def __init__(self, user: BaseUser) -> None:
        self.user = user
        self._manager: Any = get_auth_manager()

    @property
    def user_id(self) -> str:
        """What tells the user from all others."""
        return str(self.user.get_id())

    def dags(self, teams: Mapping[str, str | None], method: Method) -> set[str]:
        """
        Return those DAGs whose runs the user may see (``GET``) or edit (``PUT``).

        :param teams: The DAGs, each with its team.
        """
        questions = {
            dag_id: {
                "method": method,
                "access_entity": DagAccessEntity.RUN,
                "details": DagDetails(id=dag_id, team_name=team),
            }
            for dag_id, team in teams.items()
        }
        # Most users may do it with all of them, and some auth managers send a request for each question.
        if not questions or self._manager.batch_is_authorized_dag(list(questions.values()), user=self.user):
            return set(questions)
        return {
            dag_id
            for dag_id, question in questions.items()
            if self._manager.is_authorized_dag(**question, user=self.user)
        }

    def connection(self, conn_id: str, method: Method) -> bool:
        """Whether the user may read (``GET``) or edit (``PUT``) a connection."""
        details = ConnectionDetails(conn_id=conn_id, team_name=compat.team_of_connection(conn_id))
        return bool(self._manager.is_authorized_connection(method=method, details=details, user=self.user))

    def use_of_connection(self, conn_id: str) -> bool:
        """Whether the page may ask DLI by a connection for the user, who may not read it: not by one of a team."""
        return compat.team_of_connection(conn_id) is None

    def connections(self) -> list[str]:
        """Return the connections to choose from: the default one, and those of Airflow's database the user may read."""
        known = compat.connections_in_database(CONN_TYPE)
        return [DEFAULT_CONN_ID, *(each for each in known if each != DEFAULT_CONN_ID and self.connection(each, "GET"))]


def foreign(headers: Mapping[str, str]) -> str | None:
    """
    Say why a request that changes something does not come from our own page; None when it does.

    A cookie logs the user in, and browsers send it along with requests of other pages, too: of other ports of this host
    even when it is ``SameSite``.
    """
    if headers.get(HEADER) != HEADER_VALUE:
        return f"the header {HEADER}: {HEADER_VALUE} is missing"
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return "its content type is not application/json"
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "it comes from another origin"
    # What is in front of Airflow may name another host than the browser does.
    hosts = {headers.get("host"), urlsplit(conf.get("api", "base_url", fallback="") or "").netloc}
    if urlsplit(headers.get("origin", "")).netloc not in hosts - {None, ""}:
        return "its header Origin is missing, or names another host than [api] base_url"
    return None
