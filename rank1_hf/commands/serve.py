"""The command `rank1-hf serve`. As in `cli.py`, what takes seconds to import waits until it is needed."""

import ipaddress
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rank1_hf.commands import options
from rank1_hf.commands.model_options import ModelOptions, takes_model_options
from rank1_hf.commands.options import BAD_INPUT, fail, note
from rank1_hf.files.inputs import InputError, read_text

if TYPE_CHECKING:
    from pydantic import SecretStr

KEY_VARIABLE = "RANK1_API_KEY"


@takes_model_options()
def serve(
    chosen: ModelOptions,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help=f"Clients must send the key in this file. The variable {KEY_VARIABLE} may hold it instead."),
    ] = None,
    max_documents: Annotated[int, typer.Option(min=1, help="The most documents of a request.")] = 1000,
    max_characters: Annotated[int, typer.Option(min=1, help="The longest document or query.")] = 100_000,
    max_queue: Annotated[
        int, typer.Option(min=1, help="The most documents of all requests that wait or are decoded.")
    ] = 4000,
    quiet: options.QuietOption = False,
) -> None:
    """Answer rerank requests over HTTP.

    In the form of Jina's, Cohere's, vLLM's and TEI's servers.

    POST /rerank, /v1/rerank, /v2/rerank, /score and /v1/score; /v1/models, /info, /health, /metrics for Prometheus, and
    /docs. All requests share one decode loop. Ctrl-C or SIGTERM finishes what was begun; a second Ctrl-C does not.
    """
    if options.n_processes() > 1:
        fail("serve works in one process; start one for each GPU, with its --device and --port", BAD_INPUT)
    if max_queue < max_documents:
        fail(f"--max-queue {max_queue} has no room for a request of --max-documents {max_documents}", BAD_INPUT)
    try:
        key = _api_key(api_key_file)
        arguments = chosen.arguments()
        listening = _bound(host, port)
    except InputError as error:
        fail(str(error), BAD_INPUT)
    try:
        import uvicorn

        from rank1_hf.serving.app import make_app
    except ImportError as error:
        fail(f"the server needs {error.name}; install it with: pip install 'rank1-hf[serve]'", BAD_INPUT)
    from rank1_hf.serving.engine import Engine
    from rank1_hf.serving.limits import Limits

    host, port = listening.getsockname()[:2]
    if key is None and not ipaddress.ip_address(host).is_loopback:
        note(
            f"anybody who reaches {host} may use the model: there is no API key ({KEY_VARIABLE}, --api-key-file)", quiet
        )
    reranker = chosen.load(quiet, **arguments)
    with Engine(reranker, max_pairs=max_queue) as engine:
        limits = Limits(max_documents, max_characters)
        app = make_app(engine, model=chosen.model or "rank1-tiny", api_key=key, limits=limits)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning" if quiet else "info"))
        listening.listen()  # so that who connects at once waits instead of being refused
        note(f"listening at http://{f'[{host}]' if ':' in host else host}:{port}; its pages are at /docs", quiet)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:
            note("stopped", quiet)


def _api_key(file: Path | None) -> "SecretStr | None":
    """The key that clients must send; never an argument, which other users of the machine could read.

    Raises:
        InputError: its file cannot be read, or there is none where one was named.
    """
    from pydantic import SecretStr

    try:
        key = os.environ.get(KEY_VARIABLE) if file is None else read_text(file)
    except InputError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else "it is no text"
        # Its name is not said: it is the key itself where somebody mistook the option.
        raise InputError(f"cannot read the file of --api-key-file ({reason}); give a file that holds the key") from None
    if key is None:
        return None
    key = key.strip()
    if not (key and key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"{file or KEY_VARIABLE} holds no API key: one word of ASCII is needed")
    return SecretStr(key)


def _bound(host: str, port: int) -> socket.socket:
    """A socket with this address, so that an address that is taken is found out before the model is loaded.

    Raises:
        InputError: it cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error.strerror or error}") from error
    return bound
