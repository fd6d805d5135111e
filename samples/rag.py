"""Trace a retrieval chain: the question, the retrieved documents, and the answer."""

from __future__ import annotations

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import AzureChatOpenAI, AzureOpenAIEmbeddings

from azure_openai import azure
from langchain_mlflow_tracer import MlflowTracer, http_clients
from store import prepare_store
from trace_tree import show

HOUSE_RULES = [
    "Books are lent for four weeks and may be renewed twice.",
    "The library opens at nine on weekdays and at eleven on Saturdays.",
    "Parcels for neighbours are kept at the front desk until noon.",
    "Musical instruments may be played in the cellar rooms only.",
]
PROMPT = "Answer from the context only.\n\nContext:\n{context}\n\nQuestion: {question}"


def main() -> None:
    """Index the rules, ask about one of them, and show the trace."""
    prepare_store()
    with azure() as service, MlflowTracer() as tracer:
        # With these clients the tracer also records embedding calls and the retries of the SDK.
        embeddings = AzureOpenAIEmbeddings(**service.embeddings(), **http_clients())
        vectors = InMemoryVectorStore.from_texts(HOUSE_RULES, embeddings)
        context = vectors.as_retriever(search_kwargs={"k": 2}) | _as_text
        prompt = ChatPromptTemplate.from_template(PROMPT)
        model = AzureChatOpenAI(**service.chat(), **http_clients())
        chain = {"context": context, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()

        question = "How often may books be renewed?"
        print(chain.invoke(question, config={"callbacks": [tracer], "run_name": "rag"}))

        show(tracer)


def _as_text(documents: list[Document]) -> str:
    return "\n".join(document.page_content for document in documents)


if __name__ == "__main__":
    main()
