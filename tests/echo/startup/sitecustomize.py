"""Python imports this as it starts: the triggerer makes triggers by the name of their kind, and reads no DAG file."""

import echo.kind  # noqa: F401
