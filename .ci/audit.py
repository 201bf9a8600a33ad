"""
Looks up known vulnerabilities of what the package is installed with.

Fails for a package that ours names as a dependency, when a release without the vulnerability exists: then a lower
bound, or the date of `exclude-newer`, has to move. What Airflow brings along is only shown: its versions are Airflow's
to choose, and the version of Airflow itself is the user's. Where no service that knows vulnerabilities can be reached,
it says so and does not fail.

    python .ci/audit.py REQUIREMENTS

REQUIREMENTS is a file of pinned packages, as `uv export` writes it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

SERVICES = ("pypi", "osv")
MOST_SECONDS = 120
# The user chooses its version.
NOT_OURS = {"apache-airflow"}


class Finding(NamedTuple):
    """What is known of some packages."""

    failures: list[str]
    notes: list[str]


def main(requirements: str) -> int:
    """Audit, print what is found, and return the exit status."""
    reasons = []
    for service in SERVICES:
        report, reason = audit(requirements, service)
        if report is not None:
            finding = judge(report, direct_dependencies())
            print("\n".join([*finding.notes, *finding.failures]))
            return 1 if finding.failures else 0
        reasons.append(f"  {service}: {reason}")
    print("NOT AUDITED: no service that knows vulnerabilities can be reached from here.", *reasons, sep="\n")
    return 0


def audit(requirements: str, service: str) -> tuple[dict[str, Any] | None, str]:
    """Return the report of pip-audit; None, and why, where the service knows nothing of any package."""
    options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [
        "uvx",
        "--quiet",
        "pip-audit",
        "--requirement",
        requirements,
        "--vulnerability-service",
        service,
        *options,
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=False)  # noqa: S603 - our own
    except subprocess.TimeoutExpired:
        return None, f"no answer within {MOST_SECONDS} s"
    except OSError as error:
        return None, str(error)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return None, (done.stderr.strip().splitlines() or ["no report"])[-1][:300]
    # A package that the service does not know is skipped, and pip-audit is content all the same.
    skipped = [each["skip_reason"] for each in report["dependencies"] if "skip_reason" in each]
    if len(skipped) == len(report["dependencies"]):
        return None, skipped[0] if skipped else "no packages"
    return report, ""


def judge(report: dict[str, Any], direct: set[str]) -> Finding:
    """
    Tell what has to be mended here from what does not.

    :param report: The report of pip-audit.
    :param direct: Names of the packages that ours depends on.
    """
    failures, notes, skipped = [], [], []
    for each in report["dependencies"]:
        name = normal(each["name"])
        if "skip_reason" in each:
            skipped.append(name)
        for known in each.get("vulns", ()):
            fixed = ", ".join(known["fix_versions"])
            line = f"{name} {each['version']}: {known['id']}" + (f", fixed in {fixed}" if fixed else ", no fix yet")
            if fixed and name in direct - NOT_OURS:
                failures.append(f"FAILED {line}")
            else:
                notes.append(f"note   {line}")
    count = len(report["dependencies"]) - len(skipped)
    notes.insert(0, f"{count} packages audited" + (f", not these: {', '.join(skipped)}" if skipped else ""))
    return Finding(failures, notes)


def direct_dependencies() -> set[str]:
    """Return the names of what the package depends on, the extra `local` included."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    return {normal(re.split(r"[^A-Za-z0-9._-]", each)[0]) for each in wanted}


def normal(name: str) -> str:
    """Write the name of a package as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
