"""Trace a streamed answer; the trace has the whole answer, its token usage and its content filter results."""

from __future__ import annotations

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig
from langchain_openai import AzureChatOpenAI

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer, http_clients
from store import prepare_store
from trace_tree import show


def main() -> None:
    """Print each token when it arrives, then show the trace."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        prompt = ChatPromptTemplate.from_template("Tell me in one paragraph about {subject}.")
        # With these clients the tracer also records the content filter results of streams.
        model = AzureChatOpenAI(**service.chat(), **http_clients(), stream_usage=True)
        chain = prompt | model | StrOutputParser()
        config: RunnableConfig = {"callbacks": [tracer], "run_name": "streaming", "tags": ["sample"]}

        for token in chain.stream({"subject": "the tides of the Bay of Fundy"}, config=config):
            print(token, end="", flush=True)
        print()

        show(tracer)


if __name__ == "__main__":
    main()
