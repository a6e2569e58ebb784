"""Whether a server that the user names answers, asked before a library does that would retry for minutes."""

import requests

ANSWER_SECONDS = 5


def silence(address: str) -> str | None:
    """Why nothing answers at an address, in a few words; None when anything does, right or wrong.

    Args:
        address: http:// or https://, without user and password in it unless the server needs them.
    """
    try:
        requests.get(address, timeout=ANSWER_SECONDS)
    except requests.Timeout:
        return f"no answer within {ANSWER_SECONDS} s"
    except requests.ConnectionError as error:
        return "no such host" if "resolve" in str(error) else "the connection was refused or broken off"
    except requests.RequestException as error:
        return f"not an address of a server ({type(error).__name__})"
    return None
