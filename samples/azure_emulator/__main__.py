"""Serve the emulator in the foreground: `python -m azure_emulator --port 8080`."""

from __future__ import annotations

import argparse
import threading
from contextlib import suppress

from azure_emulator.server import AzureEmulator


def main() -> None:
    """Serve until Ctrl-C, and print the settings for clients."""
    parser = argparse.ArgumentParser(prog="azure_emulator", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0 selects a free port")
    with AzureEmulator(port=parser.parse_args().port) as emulator, suppress(KeyboardInterrupt):
        print(f"export AZURE_OPENAI_ENDPOINT={emulator.endpoint}")
        print(f"export AZURE_OPENAI_API_KEY={emulator.api_key}")
        print(f"export AZURE_OPENAI_DEPLOYMENT={emulator.deployment}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
