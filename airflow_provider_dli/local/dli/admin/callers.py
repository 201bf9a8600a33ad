"""Who may call the admin API: programs on this machine, and pages of the server itself."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from airflow_provider_dli.local.dli.replies import RefusedError


def check_caller(scope: Any) -> None:
    """
    :raises RefusedError: 403 unless a program on this machine, or a page of this server itself, is calling.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    host = headers.get(b"host", "")
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if not _is_loopback(scope["client"][0]):
        raise _only_for("this machine only")
    # Somebody else's name may have been pointed at us.
    if name != "localhost" and not _is_loopback(name.strip("[]")):
        raise _only_for(f"this machine only, not through the name {name[:100]!r}")
    # Browsers say where a call comes from; "none" is the user, at the address bar. A link that the user follows in
    # another page, such as Airflow's, may show something: it changes nothing, and the other page cannot read it.
    origin, site, page = headers.get(b"origin"), headers.get(b"sec-fetch-site", "none"), headers.get(b"referer", "")
    follows_a_link = (
        scope["method"] == "GET"
        and headers.get(b"sec-fetch-mode") == "navigate"
        and headers.get(b"sec-fetch-dest") == "document"
    )
    if site not in ("none", "same-origin") and not follows_a_link:
        raise _only_for(f"programs, not from web pages (Sec-Fetch-Site: {site[:100]})")
    if origin not in (None, f"http://{host}"):
        raise _only_for(f"programs, not from web pages (Origin: {origin[:100]})")
    if page and not page.startswith(f"http://{host}/") and not follows_a_link:
        raise _only_for(f"programs, not from web pages (Referer: {page[:100]})")


def _only_for(callers: str) -> RefusedError:
    return RefusedError(403, "APIG.0302", f"Admin calls are taken from {callers}.")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
