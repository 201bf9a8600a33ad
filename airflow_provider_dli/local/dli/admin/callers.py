"""Who may call: programs, by a name of this server, and no web pages. The admin API: programs on this machine."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from typing import Any

from airflow_provider_dli.local.dli.replies import RefusedError


def check_caller(scope: Any, hosts: Collection[str] = ()) -> None:
    """
    Refuse calls of web pages, of others and of those whose name was pointed at this server.

    :param hosts: Names and addresses by which it may be called, beside those of the loopback interface; lower case.
    :raises RefusedError: 403.
    """
    headers = _headers(scope)
    host, name = headers.get(b"host", ""), _name(headers)
    # The address that the call has arrived at is no name that somebody else could point at it.
    if not _is_this_machine(name) and name not in hosts and name != (scope.get("server") or [None])[0]:
        shown = name[:100]
        hint = (
            f"; if it is one of its own, start it with --allow-host {shown}" if re.fullmatch(r"[\w.-]+", shown) else ""
        )
        raise _refused(f"The local DLI is not reached through the name {shown!r}{hint}.")
    # Browsers say where a call comes from; "none" is the user, at the address bar. A link that the user follows in
    # another page, such as Airflow's, may show something: it changes nothing, and the other page cannot read it.
    origin, site, page = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none"), headers.get(b"referer", "")
    follows_a_link = (
        scope["method"] == "GET"
        and headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest") == "document"
    )
    if site not in ("none", "same-origin") and not follows_a_link:
        raise _not_for_pages("Sec-Fetch-Site", site)
    if origin not in (None, f"http://{host}"):
        raise _not_for_pages("Origin", origin or "")
    if page and not page.startswith(f"http://{host}/") and not follows_a_link:
        raise _not_for_pages("Referer", page)


def check_local_program(scope: Any, what: str) -> None:
    """
    Refuse calls of other machines, and those by a name that is not that of the loopback interface.

    :param what: What is called, for the error.
    :raises RefusedError: 403.
    """
    name = _name(_headers(scope))
    if not _is_loopback(scope["client"][0]):
        raise _refused(f"{what} answers this machine only.")
    if not _is_this_machine(name):
        raise _refused(f"{what} answers this machine only, not through the name {name[:100]!r}.")


def is_loopback_only(address: str) -> bool:
    """Whether an address that a server listens on is reached from this machine only."""
    return _is_loopback(address)


def _headers(scope: Any) -> dict[bytes, str]:
    return {name: value.decode("latin-1") for name, value in scope["headers"]}


def _name(headers: dict[bytes, str]) -> str:
    host = headers.get(b"host", "")
    return (host.rpartition(":")[0] if re.search(r":\d+$", host) else host).strip("[]").lower()


def _is_this_machine(name: str) -> bool:
    return name == "localhost" or _is_loopback(name)


def _not_for_pages(header: str, value: str) -> RefusedError:
    return _refused(f"The local DLI is for programs, not for web pages ({header}: {value[:100]}).")


def _refused(why: str) -> RefusedError:
    return RefusedError(403, "APIG.0302", why)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    # How an IPv6 socket shows a caller of IPv4.
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
