"""Trace an answer that is streamed, token by token; the trace has the whole of it, and its usage."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer
from store import prepare_store
from trace_tree import show


def main() -> None:
    """Print the tokens as they come, then show the trace."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        prompt = ChatPromptTemplate.from_template("Tell me in one paragraph about {subject}.")
        chain = prompt | AzureChatOpenAI(**service.chat()) | StrOutputParser()
        config: RunnableConfig = {"callbacks": [tracer], "run_name": "streaming", "tags": ["sample"]}

        for token in chain.stream({"subject": "the tides of the Bay of Fundy"}, config=config):
            print(token, end="", flush=True)
        print()

        show(tracer)


if __name__ == "__main__":
    main()
