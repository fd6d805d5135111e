"""Use a prompt of MLflow's registry in a chain, and find the trace by the prompt."""

from __future__ import annotations

import mlflow
from langchain_core.runnables import RunnableLambda

from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show

NAME = "greeting"


def greet(who: str) -> str:
    """Load the prompt inside the run: so MLflow knows that this trace used it."""
    prompt = mlflow.genai.load_prompt(f"prompts:/{NAME}/1")
    return str(prompt.format(name=who))


def main() -> None:
    """Register the prompt if it is not there, greet, and search."""
    prepare_store()
    if mlflow.genai.load_prompt(f"prompts:/{NAME}/1", allow_missing=True) is None:
        mlflow.genai.register_prompt(name=NAME, template="Hello {{name}}!")
    with MlflowTracer() as tracer:
        print(RunnableLambda(greet).invoke("Ada", {"callbacks": [tracer], "run_name": "greet"}))
        show(tracer)
    found = mlflow.search_traces(filter_string=f"prompt = '{NAME}/1'", return_type="list")
    print(f"traces that used {NAME}/1: {len(found)}")


if __name__ == "__main__":
    main()
