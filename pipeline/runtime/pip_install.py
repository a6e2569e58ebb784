"""`pip install` for `make env`: the user's package index counts, whatever else pip is set to does not.

Run as a script, by the environment's own Python, before anything is installed: `python pip_install.py ARGUMENTS`.
A `user`, `target` or `constraint` in pip.conf or in a variable would install elsewhere, or other versions than those of
the lock.
"""

import ast
import os
import re
import subprocess
import sys

# Where packages come from, and how to get there
HONOURED = (
    "cache-dir", "cert", "client-cert", "default-timeout", "extra-index-url", "find-links", "index-url",
    "keyring-provider", "no-cache-dir", "no-index", "proxy", "pypi-url", "retries", "timeout", "trusted-host",
)  # fmt: skip
SECTIONS = ("global", "install", ":env:")  # a later one overrides an earlier one


def environment(listed: str, variables: dict[str, str]) -> dict[str, str]:
    """The variables for pip: the honoured settings, no configuration file.

    Args:
        listed: what `pip config list` prints, `section.name='value'` a line; other lines do not count.
        variables: of this process.
    """
    kept = {name: value for name, value in variables.items() if not name.startswith("PIP_")}
    found = re.findall(r"^([^\s=]+)\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    for section, name, value in sorted(found, key=lambda each: SECTIONS.index(each[0]) if each[0] in SECTIONS else -1):
        if name in HONOURED and section in SECTIONS:
            kept[f"PIP_{name.upper().replace('-', '_')}"] = " ".join(ast.literal_eval(value).split())
    return kept | {"PIP_CONFIG_FILE": os.devnull}


def main() -> None:
    """Install, and end with pip's exit code."""
    pip = [sys.executable, "-m", "pip"]
    # As loud as pip can be, because `quiet` in pip.conf would leave nothing to read
    asked = subprocess.run([*pip, "config", "list", "-vvv"], stdout=subprocess.PIPE, encoding="utf-8", check=False)
    if asked.returncode:
        sys.exit(f"error: pip can't read its settings ({asked.stdout.strip() or 'see above'}); mend or unset them")
    command = [*pip, "install", "--disable-pip-version-check", *sys.argv[1:]]
    code = subprocess.run(command, env=environment(asked.stdout, dict(os.environ)), check=False).returncode
    if code:
        print(
            "error: pip did not install (above). If it found no connection or no distribution, look at the network,\n"
            "  http_proxy and pip's index-url (docs/configuration.md#pip), then repeat the command",
            file=sys.stderr,
        )
    sys.exit(code)


if __name__ == "__main__":
    main()
