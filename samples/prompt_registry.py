"""Use a prompt of MLflow's registry in a chain, and search the traces by the prompt."""

from __future__ import annotations

import mlflow
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate
from langchain_openai import AzureChatOpenAI
from mlflow.entities.model_registry import PromptVersion

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show

NAME = "capital"


def load() -> PromptVersion:
    """Load the prompt, as an application does when it starts; register it if it does not exist."""
    version = mlflow.genai.load_prompt(f"prompts:/{NAME}/1", allow_missing=True)
    if version is None:
        template = "What is the capital of {{country}}? Answer in one sentence."
        version = mlflow.genai.register_prompt(name=NAME, template=template)
    assert isinstance(version, PromptVersion)  # noqa: S101 - mlflow's types do not say so
    return version


def main() -> None:
    """Ask twice with the prompt, link the traces to it, and search for them."""
    prepare_store()
    prompt = load()
    template = PromptTemplate.from_template(
        str(prompt.to_single_brace_format()),
        metadata={"mlflow_prompt": prompt.uri},  # links every trace that uses the template
    )
    with azure() as service, MlflowTracer() as tracer:
        chain = template | AzureChatOpenAI(**service.chat()) | StrOutputParser()
        for country in ("France", "Japan"):
            print(chain.invoke({"country": country}, {"callbacks": [tracer], "run_name": "capital"}))
        show(tracer)
    traces = mlflow.search_traces(filter_string=f"prompt = '{NAME}/{prompt.version}'", return_type="list")
    print(f"traces that used {prompt.uri}: {len(traces)}")


if __name__ == "__main__":
    main()
