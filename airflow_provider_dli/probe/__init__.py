"""``dli-local probe``: finds out, with a few cheap jobs, whether a DLI keeps what this package relies on."""
