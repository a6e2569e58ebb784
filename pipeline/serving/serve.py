"""The Production model over REST: `busi serve`.

MLflow's own scoring server answers, in this process, on a copy of the version's files whose checksums were verified.
It stays with that version until it is started again, and listens on this machine only. A guard before it limits
requests, because MLflow takes a body of any size and kind, and answers some with a traceback.
"""

import contextlib
import copy
import json
import signal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from busi import DISCLAIMER
from busi.serving import MAX_BYTES
from pipeline.paths import STORE
from pipeline.registry import names, verify
from pipeline.runtime.errors import StageError
from pipeline.serving.ports import HOST, SERVE_PORTS, choose_port
from pipeline.tracking import connection, logged_model

MAX_BODY = MAX_BYTES // 3 * 4 + 1_000_000  # one image of the largest size in base64, and some more
MAX_VALUES = 10_000  # counted by brackets and commas, which base64 lacks; a parsed value takes over 100 bytes
ENDING_SECONDS = 10  # for requests that have begun when the server ends

# For one image, in any shell
CURL = """\
  printf '{{"dataframe_records": [{{"image": "%s"}}]}}' "$(base64 < {image} | tr -d '\\n')" |
    curl -s -H 'Content-Type: application/json' -d @- {address}"""
EXAMPLE = "pipeline/serving/examples/benign.png"


def run(port: int | None, model: str | None) -> None:
    """Serve the Production model of `model`, by default that of the data set, on this machine until Ctrl-C.

    Without `port`, on the first free one of `SERVE_PORTS`.

    Raises:
        StageError: the port is taken, there is no usable Production model, or the server did not start.
    """
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        port = choose_port(port, SERVE_PORTS)
        connection.connect()
        name = model or names.default_name()
        print(f"verifying the Production version of {name}", flush=True)
        path = STORE / f"serve-{port}.log"
        with verify.production_files(name) as (version, files), path.open("w", encoding="utf-8") as log:
            address = f"http://{HOST}:{port}/invocations"
            said = (
                f"{name} version {version.version} answers at {address}  (Ctrl-C ends it)\n"
                f"{CURL.format(image=EXAMPLE, address=address)}\n{DISCLAIMER}"
            )
            try:
                with contextlib.redirect_stderr(log):
                    app = limited(logged_model.scoring_app(files))
                    _Server(app, port, said).run()
            except SystemExit as ended:
                raise StageError(f"the server did not start\n  {path} has its own message") from ended


def limited(app: FastAPI) -> FastAPI:
    """Limit what reaches MLflow's scoring server, and answer every refusal with `{"error_code", "message"}` alone.

    Requests must be JSON of known length, at most `MAX_BODY` bytes and `MAX_VALUES` values.
    """

    @app.middleware("http")
    async def guard(request: Request, call_next):
        if request.method == "POST":
            refused = _refused_by_header(request)
            if refused is None and _values(await request.body()) > MAX_VALUES:
                refused = _refusal(413, f"more than {MAX_VALUES:,} values in one request; send fewer images at once")
            if refused is not None:
                return refused
        try:
            answer = await call_next(request)
        except (RecursionError, TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
            # Of MLflow's parser; what the model raises, MLflow answers itself
            return _refusal(400, f"the request can't be read as a table of images: {type(error).__name__}")
        if answer.status_code < 400:
            return answer
        return _without_traceback(answer.status_code, b"".join([part async for part in answer.body_iterator]))

    return app


class _Server(uvicorn.Server):
    """Prints a text once it listens."""

    def __init__(self, app: FastAPI, port: int, said: str):
        logging = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
        logging["handlers"]["access"]["stream"] = "ext://sys.stderr"  # into the log, as everything else
        super().__init__(
            uvicorn.Config(
                app,
                host=HOST,
                port=port,
                lifespan="off",
                log_config=logging,
                timeout_graceful_shutdown=ENDING_SECONDS,
            )
        )
        self._said = said

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        print(self._said, flush=True)


def _refused_by_header(request: Request) -> JSONResponse | None:
    kind = request.headers.get("content-type", "none")
    if kind.split(";")[0].strip().lower() != "application/json":
        return _refusal(415, f"the content type is {kind[:100]}; expected application/json")
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return _refusal(411, "the request does not say how long it is; expected the header Content-Length")
    if int(length) > MAX_BODY:
        return _refusal(413, f"{int(length):,} bytes in one request; expected at most {MAX_BODY:,}")
    return None


def _values(body: bytes) -> int:
    return body.count(b",") + body.count(b"[") + body.count(b"{")


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error_code": "BAD_REQUEST", "message": message}, status)


def _without_traceback(status: int, body: bytes) -> JSONResponse:
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode("utf-8", "replace")
    if not isinstance(found, dict):
        return _refusal(status, str(found))
    message = str(found.get("message") or found.get("detail") or "refused")
    return JSONResponse({"error_code": str(found.get("error_code", "BAD_REQUEST")), "message": message[:2000]}, status)
