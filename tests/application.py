"""An application as people write them, run in a process of its own: `python -m tests.application`.

Arguments are JSON: the tracer's settings, `count` (invokes), `end` (exit, kill, os_exit, fork), `pace`
(seconds between invokes). Prints one line of JSON when its main job is done.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_mlflow_tracer import MlflowTracer


def main(settings: dict[str, Any], count: int, end: str = "exit", pace: float = 0.0) -> None:
    """Run a chain `count` times and end as told."""
    prompt = ChatPromptTemplate.from_messages([("system", "Be terse."), ("user", "{question}")])
    chain = prompt | FakeListChatModel(responses=["answer"]) | StrOutputParser()
    tracer = MlflowTracer(**settings)

    def ask(first: int) -> tuple[list[float], list[str]]:
        times, ids = [], []
        for number in range(first, first + count):
            began = time.perf_counter()
            assert chain.invoke({"question": f"question {number}"}, {"callbacks": [tracer]}) == "answer"
            times.append(time.perf_counter() - began)
            ids.append(str(tracer.last_trace_id))
            time.sleep(pace)
        return times, ids

    times, ids = ask(0)
    if end == "fork" and os.fork() == 0:
        ask(1_000)
        sys.exit(0)
    if end == "fork":
        os.wait()
    print(json.dumps({"done": time.time(), "slowest": max(times), "ids": ids}), flush=True)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "os_exit":
        os._exit(0)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
