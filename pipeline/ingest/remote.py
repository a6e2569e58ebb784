"""DVC's default remote: which it is, and whether anything answers there, before DVC asks and waits for minutes."""

import warnings

import requests

from pipeline.ingest import dvc_command
from pipeline.runtime import servers


def default() -> tuple[str, str] | None:
    """Name and address of the default remote; both empty where there are only others, None where there are none."""
    listed = dvc_command.dvc("config", "--list").stdout.splitlines()
    settings = dict(line.partition("=")[::2] for line in listed)
    if not any(name.startswith("remote.") for name in settings):
        return None
    name = settings.get("core.remote", "")
    return name, settings.get(f"remote.{name}.endpointurl") or settings.get(f"remote.{name}.url", "")


def silence(address: str) -> str | None:
    """Why nothing answers at a remote's address, in a few words; None where something does, or if it isn't http."""
    if not address.startswith(("http://", "https://")):
        return None
    return servers.silence(lambda: _ask(address))


def _ask(address: str) -> None:
    with warnings.catch_warnings(action="ignore"):
        # Whom to trust is DVC's setting; here nothing is sent and nothing believed
        requests.get(address, timeout=servers.ANSWER_SECONDS, stream=True, verify=False).close()  # noqa: S501
