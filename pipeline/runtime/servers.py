"""Whether a server that the user names answers, asked before a library does that would retry for minutes."""

import contextvars
import re
import threading
from collections.abc import Callable, Iterator

import requests

ANSWER_SECONDS = 5

# Names of the classes of an error and its causes, and what they mean; the first that is found counts
MEANINGS = {
    "ProxyError": "the proxy does not let the question through",
    "gaierror|NameResolution": "no such host",
    "CertVerification|CertificateError": "its certificate is not trusted",
    "SSLError": "it does not speak https",
    "JSONDecodeError": "something else answers there",
    "InvalidU|InvalidS|MissingSchema|UnsupportedProtocol": "not an address of a server",
    "Timeout|timeout": "no answer in time",
    "Connect|Protocol|RemoteDisconnected": "the connection was refused or broken off",
}


def silence(ask: Callable[[], object]) -> str | None:
    """Why a server does not answer a question, in a few words; None where it does.

    Args:
        ask: asks it, best without retries; whatever it raises is a reason. It is left behind after `ANSWER_SECONDS`,
            because not every client, nor the look-up of a host's name, has a limit of its own.
    """
    reasons = [f"no answer within {ANSWER_SECONDS} s"]

    def run() -> None:
        try:
            ask()
        except Exception as error:
            reasons.append(_in_short(error))
        else:
            reasons.append("")

    asking = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return reasons[-1] or None


def get(address: str) -> None:
    """Ask for a page by http or https. Raises where the answer is an error of the server, or a web page."""
    answer = requests.get(address, timeout=ANSWER_SECONDS)
    if answer.status_code >= 500:
        answer.raise_for_status()
    if answer.text.lstrip().startswith("<"):
        raise requests.exceptions.JSONDecodeError("a web page", answer.text, 0)


def _in_short(error: BaseException) -> str:
    chain = list(_causes(error))
    for one in chain:
        if (status := getattr(getattr(one, "response", None), "status_code", None)) is not None:
            return f"it answers with error {status}"
    names = " ".join(type(one).__name__ for one in chain)
    for pattern, meaning in MEANINGS.items():
        if re.search(pattern, names):
            return meaning
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
