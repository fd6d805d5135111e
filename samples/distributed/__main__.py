"""Start two services, send one request, stop the services, and print the one trace.

Each service is a process on a free port of this machine. Run `python samples/distributed`.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parent.parent)
)  # the modules that the samples share are in the folder above

import httpx

from distributed import front, weather
from store import prepare_store, where_to_look

QUESTION = "What is the weather in Paris and in Tokyo?"
PATIENCE = 120.0  # seconds; the first request may create a new database


def listening() -> socket.socket:
    """Return a socket on a free port; it accepts connections before the service is ready."""
    return socket.create_server(("127.0.0.1", 0))


def address(listener: socket.socket) -> str:
    """Return the address of a socket."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def ask(url: str) -> str:
    """Send a question to the front service, print its answer, and return the id of the trace."""
    answer = (
        httpx.get(f"{url}/ask", params={"question": QUESTION}, timeout=PATIENCE).raise_for_status().json()
    )
    print(answer["answer"])
    return str(answer["trace_id"])


def main() -> None:
    """Run both services, and show the trace of one request."""
    prepare_store()
    processes = multiprocessing.get_context("spawn")
    with listening() as called, listening() as caller:
        services = [
            processes.Process(target=weather.serve, args=(called,)),
            processes.Process(target=front.serve, args=(caller, address(called))),
        ]
        for service in services:
            service.start()
        try:
            trace_id = ask(address(caller))
        finally:
            for service in services:
                service.terminate()
            for service in services:
                service.join(PATIENCE)
    # Imported here: a service, whose process imports this file too, starts faster without mlflow.
    import mlflow  # noqa: PLC0415

    from trace_tree import tree  # noqa: PLC0415

    trace = mlflow.get_trace(trace_id)
    if trace is None:
        sys.exit(f"MLflow has no trace {trace_id}.")
    print("", *tree(trace), "", where_to_look(), sep="\n")


if __name__ == "__main__":
    main()
