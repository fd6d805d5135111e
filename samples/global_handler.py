"""Trace every chain of the process without passing callbacks, until `uninstall` is called."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer, install, uninstall
from store import prepare_store
from trace_tree import show


def main() -> None:
    """Ask twice, the second time without tracing, and show the one trace."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        prompt = ChatPromptTemplate.from_template("What is the capital of {country}?")
        chain = prompt | AzureChatOpenAI(**service.chat()) | StrOutputParser()

        install(tracer)
        print(chain.invoke({"country": "Japan"}))

        uninstall()
        print(chain.invoke({"country": "Kenya"}), "(not traced)")

        show(tracer)


if __name__ == "__main__":
    main()
