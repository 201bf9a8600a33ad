"""Names and texts as SQL reads them."""


def name(identifier: str) -> str:
    """A name as SQL reads it."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: object) -> str:
    """A text as SQL reads it."""
    return "'" + str(value).replace("'", "''") + "'"
