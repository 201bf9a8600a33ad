"""The account, user, keys and project that a local DLI accepts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Identity:
    """There is exactly one of each."""

    user: str = "dli"
    password: str = "dli-local"  # noqa: S105 - public on purpose, printed by `dli-local serve --help`
    domain: str = "local"
    access_key: str = "local-access-key"
    secret_key: str = "local-secret-key"  # noqa: S105 - the same
    security_token: str = "local-security-token"  # noqa: S105 - the same
    agency: str = "local-agency"
    region: str = "eu-de"
    project_id: str = "48cc2c48765f481480c7db940d6409d1"
    project_name: str = "eu-de"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Identity:
        """The built-in identity, each field replaced by its variable (``DLI_LOCAL_USER``, ...) when set."""
        environ = os.environ if environ is None else environ
        names = [field.name for field in fields(cls)]
        return cls(**{name: environ[env_name(name)] for name in names if env_name(name) in environ})

    @property
    def is_published(self) -> bool:
        """Whether its password or its secret key is one that everybody knows."""
        return self.password in ("", type(self).password) or self.secret_key in ("", type(self).secret_key)

    def to_env(self) -> dict[str, str]:
        """The same identity as environment variables, for a server in another process."""
        return {env_name(field.name): getattr(self, field.name) for field in fields(self)}


def env_name(field: str) -> str:
    """Name of the environment variable behind an identity field."""
    return f"DLI_LOCAL_{field.upper()}"
