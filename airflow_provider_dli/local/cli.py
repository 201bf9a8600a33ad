"""The console script ``dli-local``: ``serve`` a local DLI, ``demo`` of a killed DAG run, ``probe`` of any DLI."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from airflow_provider_dli.local.dli.account.identity import Identity, env_name

DEFAULT_PORT = 18080

IDENTITY_HELP = {
    "user": "IAM user",
    "password": "its password",
    "domain": "account (domain) that owns the user",
    "access_key": "access key (AK)",
    "secret_key": "secret key (SK)",
    "security_token": "security token that makes the key pair a temporary one; requests may leave it out",
    "agency": "name of the agency whose temporary keys it hands out",
    "region": "region id",
    "project_id": "project id",
    "project_name": "project name",
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Entry point of the console script.

    :returns: The exit code.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    args = _parser(arguments[0] if arguments else None).parse_args(arguments)
    if args.command == "probe":
        from airflow_provider_dli.probe import command

        return command.run(args)
    if args.command == "demo":
        from airflow_provider_dli.local import demo

        return int(demo.run(args) or 0)
    return _serve(args)


def _serve(args: argparse.Namespace) -> int:
    from airflow_provider_dli.local.dli.server import serve

    identity = Identity(**{field.name: getattr(args, field.name) for field in fields(Identity)})
    return serve(
        identity,
        host=args.host,
        port=args.port,
        obs=args.obs,
        settings=dict(args.set),
        until_stdin_closes=args.until_stdin_closes,
        allow_hosts=args.allow_host,
        allow_published_keys=args.allow_published_keys,
    )


def _parser(command: str | None) -> argparse.ArgumentParser:
    """Return the parser. Of ``demo`` and ``probe``, only the one that is asked for is imported, and has options."""
    parser = argparse.ArgumentParser(
        prog="dli-local", description="A local Data Lake Insight (DLI), and a probe for any other."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_serve(commands.add_parser("serve", help="run the local DLI", formatter_class=_Defaults))
    demo_parser = commands.add_parser("demo", help="kill a DAG run of a real Airflow and see its job cancelled")
    probe_parser = commands.add_parser("probe", help="find out what a DLI answers, with a few cheap jobs")
    if command == "demo":
        from airflow_provider_dli.local import demo

        demo.add_arguments(demo_parser)
    elif command == "probe":
        from airflow_provider_dli.probe import command as probe

        probe.add_arguments(probe_parser)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Serves the SQL jobs, Spark batches and Flink jobs of DLI and the token part of IAM. SQL runs for real, in "
        "DuckDB; the Python file of a batch runs as a process of its own. "
        "Every identity option can also be given as an environment variable, DLI_LOCAL_USER and so on."
    )
    parser.add_argument("--host", default=os.environ.get("DLI_LOCAL_HOST", "127.0.0.1"), help="address to bind")
    names = os.environ.get("DLI_LOCAL_ALLOW_HOST", "")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[name.strip() for name in names.split(",") if name.strip()],
        metavar="NAME",
        help="a name by which it may be called, beside localhost and --host, such as that of its container; "
        "may be repeated",
    )
    parser.add_argument(
        "--allow-published-keys",
        action="store_true",
        help="with --host: let other machines in with the built-in password and keys, which everybody knows",
    )
    port = int(os.environ.get("DLI_LOCAL_PORT", DEFAULT_PORT))
    parser.add_argument("--port", type=int, default=port, help="port, 0 for a free one")
    parser.add_argument("--obs", type=Path, help="folder behind obs://, one sub-folder per bucket (temporary)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="a switch of POST /_local/settings, value in JSON; may be repeated",
    )
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="end when standard input ends, as with its owner's death"
    )
    identity = parser.add_argument_group("identity")
    known = Identity.from_env()
    for field in fields(Identity):
        # A value from the environment may be a real secret: it is not shown.
        from_env = env_name(field.name) in os.environ
        shown = f"${env_name(field.name)}" if from_env else field.default
        text = f"{IDENTITY_HELP[field.name]} (default: {shown})"
        option = f"--{field.name.replace('_', '-')}"
        identity.add_argument(option, default=getattr(known, field.name), metavar="TEXT", help=text)


class _Defaults(argparse.HelpFormatter):
    """Shows the defaults, unless the help text shows them itself."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.help and action.default not in (None, [], False, argparse.SUPPRESS):
            return action.help if "(default:" in action.help else f"{action.help} (default: %(default)s)"
        return action.help


def _setting(text: str) -> tuple[str, object]:
    import json

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


if __name__ == "__main__":
    sys.exit(main())
