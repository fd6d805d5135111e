"""Evaluate a chain with two scorers: first its stored traces, then rows for which MLflow runs the chain."""

from __future__ import annotations

from typing import Any

import mlflow
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI
from mlflow.genai.scorers import scorer

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store, where_to_look

COUNTRIES = ("France", "Japan", "Peru", "Atlantis")


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_known(outputs: Any) -> bool:
    """Return whether the answer names a capital."""
    return str(outputs).startswith("The capital of")


@scorer  # type: ignore[untyped-decorator, unused-ignore]
def is_short(outputs: Any) -> bool:
    """Return whether the answer is short."""
    return len(str(outputs)) <= len("The capital of Peru is Lima.")


def main() -> None:
    """Run the chain, wait until MLflow has the traces, and score them; then let MLflow run the chain."""
    prepare_store()
    scorers = [is_known, is_short]
    with azure() as service, MlflowTracer() as tracer:
        prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
        chain = prompt | AzureChatOpenAI(**service.chat()) | StrOutputParser()

        def predict(country: str) -> str:
            return chain.invoke({"country": country}, {"callbacks": [tracer], "run_name": "capital"})

        trace_ids = []
        for country in COUNTRIES:
            predict(country)
            trace_ids.append(tracer.last_trace_id)
        tracer.flush(timeout=60)
        traces = [trace for one in trace_ids if one and (trace := mlflow.get_trace(one))]
        stored = mlflow.genai.evaluate(data=traces, scorers=scorers)

        rows = [{"inputs": {"country": country}} for country in COUNTRIES]
        asked = mlflow.genai.evaluate(data=rows, predict_fn=predict, scorers=scorers)
    for result in (stored, asked):
        print({name: float(value) for name, value in result.metrics.items()})
    print(where_to_look())


if __name__ == "__main__":
    main()
