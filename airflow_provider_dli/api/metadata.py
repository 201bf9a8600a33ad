"""
The metadata service of a machine in the cloud: it hands out keys of the agency that the machine has.

Follows the page "Obtaining Metadata" of the Elastic Cloud Server documentation. Pods of a cluster reach it, too.
"""

from __future__ import annotations

from airflow_provider_dli.api.call import Call
from airflow_provider_dli.api.iam import TemporaryKeys, temporary_keys

#: Where every machine finds it.
ENDPOINT = "http://169.254.169.254"


def security_key() -> Call[TemporaryKeys]:
    """Obtain temporary keys of the machine's agency."""
    return Call(
        "getting keys of this machine's agency",
        "GET",
        "/openstack/latest/securitykey",
        lambda answer: temporary_keys(answer, "The metadata service"),
        service="metadata",
        anonymous=True,
        repeatable=True,
    )
