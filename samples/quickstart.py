"""Trace one call of Azure OpenAI, and print the trace that MLflow stored."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show


def main() -> None:
    """Ask a question, print the answer, and show the trace."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        prompt = ChatPromptTemplate.from_messages(
            [("system", "You are a concise geographer."), ("user", "What is the capital of {country}?")]
        )
        chain = prompt | AzureChatOpenAI(**service.chat()) | StrOutputParser()

        print(chain.invoke({"country": "France"}, config={"callbacks": [tracer], "run_name": "quickstart"}))

        show(tracer)


if __name__ == "__main__":
    main()
