"""The Production model over REST: `python -m pipeline.serve`, or `make serve`. Ends with Ctrl-C.

The server is MLflow's own scoring server on a copy of the version's files whose checksums were verified, so that what
answers is what was registered; it stays with that version until it is started again. It listens on this machine only.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from busi import DISCLAIMER
from pipeline import production, promotion, tracking, ui
from pipeline.outputs import StageError, stage

PORT = 5001
LOG = tracking.FOLDER / "serve.log"

# For one image, in any shell
CURL = """\
  printf '{{"dataframe_records": [{{"image": "%s"}}]}}' "$(base64 < {image} | tr -d '\\n')" |
    curl -s -H 'Content-Type: application/json' -d @- {address}"""
EXAMPLE = "pipeline/examples/benign.png"


def main(
    model: Annotated[str | None, typer.Option(help="registered model; by default that of the data set")] = None,
    port: Annotated[int, typer.Option(help="port on this machine", min=1, max=65535)] = PORT,
) -> None:
    """Serve the Production model over REST. For research and education only. Not a medical device."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with stage("serve"), contextlib.suppress(KeyboardInterrupt):
        ui.choose_port(str(port))
        tracking.connect()
        name = model or production.default_name()
        print(f"verifying the Production version of {name}", flush=True)
        with promotion.production_files(name) as (version, files), LOG.open("w") as log:
            server = _start(files, port, log)
            try:
                ui.wait_until_up(server, port, LOG)
                address = f"http://{ui.HOST}:{port}/invocations"
                print(f"{name} version {version.version} answers at {address}  (Ctrl-C ends it)")
                print(CURL.format(image=EXAMPLE, address=address))
                print(DISCLAIMER, flush=True)
                if server.wait():
                    raise StageError(f"the server ended with code {server.returncode}\n  {LOG} has its own message")
            finally:
                ui.end(server)


def _start(files: Path, port: int, log) -> subprocess.Popen:
    programs = str(Path(sys.executable).parent)  # MLflow starts `uvicorn` by its name
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(files.resolve())),
            # The environment is the installed one: nothing is built at the start
            *("--env-manager", "local", "--host", ui.HOST, "--port", str(port), "--workers", "1"),
        ],
        stdout=log,
        stderr=log,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": tracking.store_address(),
            "PATH": os.pathsep.join([programs, os.environ.get("PATH", "")]),
        },
        start_new_session=True,
    )


if __name__ == "__main__":
    typer.run(main)
