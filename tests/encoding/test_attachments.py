"""Sends pictures, sounds and files through chains, and finds them beside their traces, not in them."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableLambda
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI
from mlflow.entities import Trace

from langchain_mlflow_tracer.core.errors import PermanentExportError, TransientExportError
from langchain_mlflow_tracer.core.record import JsonText, Outcome, SpanEvent, SpanRecord, Status, TraceRecord
from langchain_mlflow_tracer.delivery.exporter import artifacts, http
from langchain_mlflow_tracer.encoding import attachments, otlp, unfinished
from langchain_mlflow_tracer.encoding.attachments import detach
from langchain_mlflow_tracer.encoding.masking import mask
from langchain_mlflow_tracer.encoding.payload import (
    join_attachments,
    read_attachments,
    read_spans,
    split_attachments,
)
from langchain_mlflow_tracer.encoding.redaction import Redactor
from langchain_mlflow_tracer.recording.content.freeze import Freezer
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer, wait_for
from tests.support.pictures import PDF, as_data_uri, as_text, picture, references, stored_content
from tests.support.proxy import HEALTHY, REFUSING, FaultProxy, answers_to
from tests.support.sending import exporter_to
from tests.support.stored import Client, experiment_id, named, root, stored_trace

PICTURE = picture()
SOUND = b"RIFF" + picture(seed=2)


def record(inputs: object, *, number: int = 1, **facts: object) -> TraceRecord:
    """Return a trace of one span."""
    span = SpanRecord(b"rootroot", None, "root", "CHAIN", 10**18, 10**18 + 10, Status.OK, inputs=inputs)
    span.outcome = Outcome.COMPLETED
    for name, value in facts.items():
        setattr(span, name, value)
    return TraceRecord(number.to_bytes(16, "big"), "name", spans=[span])


def said(*blocks: object) -> dict[str, object]:
    """Return a message of a user."""
    return {"role": "user", "content": [{"type": "text", "text": "What is it?"}, *blocks]}


def url(block: Any) -> str:
    """Return what a block of MLflow's chats points to."""
    assert block["type"] == "image_url"
    found: str = block["image_url"]["url"]
    return found


class TestContentBlocks:
    """Every form in which LangChain carries content becomes one that MLflow draws."""

    @pytest.mark.parametrize(
        ("block", "kind", "content"),
        [
            ({"type": "image_url", "image_url": {"url": as_data_uri(PICTURE)}}, "image/png", PICTURE),
            ({"type": "image", "base64": as_text(PICTURE), "mime_type": "image/jpeg"}, "image/jpeg", PICTURE),
            ({"type": "image", "base64": as_text(PICTURE)}, "image/png", PICTURE),
            (
                {
                    "type": "image",
                    "source_type": "base64",
                    "data": as_text(PICTURE),
                    "mime_type": "image/webp",
                },
                "image/webp",
                PICTURE,
            ),
            ({"type": "input_image", "image_url": as_data_uri(PICTURE)}, "image/png", PICTURE),
            ({"type": "audio", "base64": as_text(SOUND), "mime_type": "audio/flac"}, "audio/flac", SOUND),
            (
                {"type": "input_audio", "input_audio": {"data": as_text(SOUND), "format": "flac"}},
                "audio/flac",
                SOUND,
            ),
            (
                {"type": "file", "base64": as_text(PDF), "mime_type": "application/pdf"},
                "application/pdf",
                PDF,
            ),
            (
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": as_data_uri(PDF, "application/pdf")},
                },
                "application/pdf",
                PDF,
            ),
            (
                {
                    "type": "input_file",
                    "filename": "a.pdf",
                    "file_data": as_data_uri(PDF, "application/pdf"),
                },
                "application/pdf",
                PDF,
            ),
            (
                {"type": "media", "mime_type": "video/mp4", "data": as_text(PICTURE)},
                "video/mp4",
                PICTURE,
            ),
            (
                {"inline_data": {"mime_type": "image/png", "data": as_text(PICTURE)}},
                "image/png",
                PICTURE,
            ),
            (
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": as_text(PDF)},
                },
                "application/pdf",
                PDF,
            ),
        ],
    )
    def test_a_content_block_becomes_an_image_block_that_refers_to_the_attachment(
        self, block: dict[str, object], kind: str, content: bytes
    ) -> None:
        trace = record({"messages": [said(block)]})
        (found,) = detach(trace)
        shown: Any = trace.spans[0].inputs
        told, drawn = shown["messages"][0]["content"]
        assert told == {"type": "text", "text": "What is it?"}
        (read, *_) = references(url(drawn))
        assert read == {
            "attachment_id": str(found.id),
            "content_type": kind,
            "trace_id": "tr-00000000000000000000000000000001",
            "size": len(content),
        }
        assert found.content == content
        assert as_text(content)[:40] not in json.dumps(shown)
        assert {key: drawn.get(key) for key in ("filename", "mime_type")} == {
            key: block.get(key) for key in ("filename", "mime_type")
        }

    def test_a_content_block_that_mlflow_can_show_keeps_its_form(self) -> None:
        sound = {"type": "input_audio", "input_audio": {"data": as_text(SOUND), "format": "mp3"}}
        source = {"type": "base64", "media_type": "image/png", "data": as_text(PICTURE)}
        trace = record([said(sound, {"type": "image", "source": source})])
        assert [one.content for one in detach(trace)] == [SOUND, PICTURE]
        shown: Any = trace.spans[0].inputs
        _, heard, seen = shown[0]["content"]
        assert (heard["type"], heard["input_audio"]["format"]) == ("input_audio", "mp3")
        assert references(heard["input_audio"]["data"])[0]["content_type"] == "audio/mpeg"
        assert (seen["type"], seen["source"]["type"]) == ("image", "base64")
        assert references(seen["source"]["data"])[0]["content_type"] == "image/png"

    def test_an_image_that_a_model_generated_becomes_part_of_its_answer(self) -> None:
        made = {"type": "image_generation_call", "id": "ig", "result": as_text(PICTURE)}
        search = {"type": "web_search_call", "id": "ws"}
        message = {"role": "assistant", "content": "Here.", "content_blocks": [search, made]}
        trace = record(None, outputs={"choices": [{"message": message}]})
        (found,) = detach(trace)
        shown: Any = trace.spans[0].outputs
        answer = shown["choices"][0]["message"]
        assert answer["content"][0] == {"type": "text", "text": "Here."}
        assert references(url(answer["content"][1]))[0]["attachment_id"] == str(found.id)
        assert answer["content_blocks"] == [search]

    def test_audio_that_a_model_generated_is_detached_and_keeps_its_transcript(self) -> None:
        audio = {"id": "a", "data": as_text(SOUND), "transcript": "Hello"}
        trace = record(None, outputs={"role": "assistant", "content": "", "audio": audio})
        (found,) = detach(trace)
        shown: Any = trace.spans[0].outputs
        assert found.content == SOUND
        assert references(shown["audio"]["data"])[0]["content_type"] == "audio/wav"
        assert shown["audio"]["transcript"] == "Hello"


class TestDetaching:
    def test_a_picture_is_found_in_every_field_of_a_span_and_detached_once(self) -> None:
        uri = as_data_uri(PICTURE)
        trace = record(
            {"state": {"screens": [uri]}},
            outputs=uri,
            attributes={"custom": {"picture": uri}},
            events=[SpanEvent("seen", 1, {"data": uri})],
            status_message=uri,
        )
        (found,) = detach(trace)
        span = trace.spans[0]
        told = [span.inputs, span.outputs, span.attributes, span.events[0].attributes, span.status_message]
        assert [references(one)[0]["attachment_id"] for one in told] == [str(found.id)] * 5

    def test_a_picture_in_the_middle_of_a_text_is_detached(self) -> None:
        large = picture(32)
        trace = record(f"before ![]({as_data_uri(large)}) after")
        (found,) = detach(trace)
        shown = trace.spans[0].inputs
        assert isinstance(shown, str)
        assert re.fullmatch(rf"before !\[\]\(mlflow-attachment://{found.id}\?\S+\) after", shown)
        assert found.content == large

    def test_base64_with_line_breaks_or_the_url_alphabet_is_decoded(self) -> None:
        plain = as_text(PICTURE)
        lines = "\n".join(plain[start : start + 76] for start in range(0, len(plain), 76))
        safe = plain.replace("+", "-").replace("/", "_")
        for text in (lines, safe):
            (found,) = detach(record(f"data:image/png;base64,{text}"))
            assert found.content == PICTURE

    def test_a_picture_larger_than_one_decoding_chunk_is_detached_completely(self) -> None:
        large = picture(300)
        assert len(as_text(large)) > 4 * attachments.CHUNK
        (found,) = detach(record(as_data_uri(large)))
        assert found.content == large

    def test_equal_pictures_have_the_same_attachment_id_and_different_pictures_do_not(self) -> None:
        first, again = (detach(record(as_data_uri(PICTURE)))[0] for _ in range(2))
        (other,) = detach(record(as_data_uri(picture(seed=3))))
        assert first == again
        assert other.id != first.id

    def test_detaching_does_not_change_frozen_values(self) -> None:
        frozen = {"messages": [said({"type": "image_url", "image_url": {"url": as_data_uri(PICTURE)}})]}
        before = copy.deepcopy(frozen)
        trace = record(frozen)
        assert detach(trace)
        assert frozen == before
        assert trace.spans[0].inputs != before

    def test_tool_arguments_are_still_json_text_after_detaching(self) -> None:
        trace = record(JsonText({"picture": as_data_uri(PICTURE)}))
        assert detach(trace)
        assert isinstance(trace.spans[0].inputs, JsonText)


class TestValuesThatAreNotDetached:
    @pytest.mark.parametrize(
        "value",
        [
            "The table shows the data: it grew by a third; base64, by the way, is not encryption.",
            "data:" + " and more of it" * 200,
            "data:image/svg+xml,%3Csvg%20xmlns=%22http://www.w3.org/2000/svg%22%3E%3C/svg%3E" * 5,
            "data:image/png;base64,",
            "data:image/png;base64," + "this is no base64! " * 100,
            "data:image/png;base64," + as_text(PICTURE)[:-1],
            "data:image/png;base64," + as_text(PICTURE)[:500] + "é" + as_text(PICTURE)[501:],
            "see data:image/png;base64," + as_text(PICTURE[:50]) + " there",
            "data:" + ";x=y" * 100_000 + ";base64,AAAA",
            ";base64," * 50_000,
            "data:a/b" * 50_000,
            as_text(picture(64)),
            "https://example.com/" + "x" * 2000 + ".png",
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "image", "url": "https://example.com/a.png", "mime_type": "image/png"},
            {"type": "image", "file_id": "file-1", "mime_type": "image/png"},
            {"type": "image", "base64": "broken", "mime_type": "image/png"},
            {"type": "image", "base64": as_text(PICTURE)[:-3], "mime_type": "image/png"},
            {"type": "image", "base64": None, "mime_type": "image/png"},
            {"type": "image", "base64": [as_text(PICTURE)], "mime_type": "image/png"},
            {"type": "image_url", "image_url": None},
            {"type": "file", "mime_type": "text/plain", "data": "A" * 64},
            {"mime_type": "application/octet-stream", "data": "0123456789abcdef" * 4},
            {"mime_type": 5, "data": as_text(PICTURE)},
            {"type": ["image"], "data": as_text(PICTURE)},
            {"format": "png", "data": as_text(PICTURE)},
            {"b64_json": None},
            {"audio": "no mapping", "input_audio": None},
            {"role": "user", "content": [None, 1, "text", {"type": "text"}]},
            [1, 2.5, None, True],
        ],
    )
    def test_a_value_without_an_attachment_remains_the_same_object(self, value: object) -> None:
        trace = record(value)
        assert detach(trace) == []
        assert trace.spans[0].inputs is value

    def test_frozen_bytes_are_not_detached(self) -> None:
        for content in (b"small", PICTURE, picture(64)):
            frozen = Freezer()({"content": content})
            trace = record(frozen)
            assert detach(trace) == []
            assert trace.spans[0].inputs is frozen

    def test_an_attachment_that_exceeds_the_limit_of_a_trace_is_dropped_and_reported_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attachments, "MOST", 1000)
        reported: list[str] = []
        trace = record([as_data_uri(PICTURE), as_data_uri(picture(seed=5)), as_data_uri(picture(seed=5))])
        (found,) = detach(trace, reported.append)
        shown: Any = trace.spans[0].inputs
        assert found.content == PICTURE
        assert reported == ["image/png, 852 bytes"]
        assert (
            shown[1]
            == shown[2]
            == "[attachment dropped (image/png, 852 bytes): larger than a trace may hold]"
        )

    def test_equal_content_in_two_forms_counts_once_towards_the_attachment_limit(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attachments, "MOST", 2 * len(PICTURE) + 100)
        block = {"type": "image", "base64": as_text(PICTURE)}
        found = detach(record([as_data_uri(PICTURE), block, as_data_uri(picture(seed=5))]))
        assert [one.content for one in found] == [PICTURE, picture(seed=5)]


def encoded(trace: TraceRecord) -> bytes:
    """Return a trace with its attachments as it is sent."""
    found = detach(trace)
    return join_attachments(found, otlp.encode(trace))


class TestRedaction:
    def test_the_redact_function_of_the_user_receives_no_picture_and_no_attachment_reference(self) -> None:
        seen: list[str] = []

        def redact(text: str) -> str:
            seen.append(text)
            return "".join("#" if letter.isdigit() else letter for letter in text)

        trace = record({"card": "4111 1111", "picture": as_data_uri(PICTURE)})
        found = detach(trace)
        payload = join_attachments(found, otlp.encode(mask(trace, Redactor(redact))))
        assert str(found[0].id).encode() in payload
        assert b"4111" not in payload
        assert not [text for text in seen if "base64" in text or "mlflow-attachment" in text]

    def test_masking_by_patterns_keeps_an_attachment_reference_in_a_text(self) -> None:
        trace = record(f"token: ![]({as_data_uri(picture(32))})")
        found = detach(trace)
        assert (
            read_attachments(
                split_attachments(join_attachments(found, otlp.encode(mask(trace, Redactor()))))[0]
            )
            == found
        )

    def test_a_picture_under_the_name_of_a_secret_is_removed_from_the_payload(self) -> None:
        trace = record({"password": as_data_uri(PICTURE), "shown": as_data_uri(picture(seed=4))})
        found = detach(trace)
        payload = join_attachments(found, otlp.encode(mask(trace, Redactor())))
        assert PICTURE not in payload
        assert [one.content for one in read_attachments(split_attachments(payload)[0])] == [picture(seed=4)]

    def test_a_secret_after_the_prefix_of_an_attachment_reference_is_masked(self) -> None:
        text = "mlflow-attachment://x?content_type=a&password=hunter2hunter2"
        assert "hunter2" not in str(Redactor().value(text))


class TestPayload:
    def test_a_payload_splits_into_its_attachments_and_spans(self) -> None:
        trace = record(["a", as_data_uri(PICTURE), as_data_uri(picture(200))])
        found = detach(trace)
        payload = join_attachments(found, otlp.encode(trace))
        front, spans = split_attachments(payload)
        assert front + spans == payload
        assert read_attachments(front) == found
        assert spans == otlp.encode(trace)
        assert read_spans(payload) == read_spans(spans)

    def test_a_payload_without_attachments_has_only_the_otlp_bytes(self) -> None:
        spans = otlp.encode(record("text"))
        payload = join_attachments([], spans)
        assert payload is spans
        assert split_attachments(payload) == (b"", payload)
        assert split_attachments(payload)[1] is payload

    def test_splitting_a_truncated_payload_raises_no_error(self) -> None:
        trace = record([as_data_uri(PICTURE), as_data_uri(picture(64))])
        payload = join_attachments(found := detach(trace), otlp.encode(trace))
        for length in range(len(payload)):
            front, spans = split_attachments(payload[:length])
            assert front + spans == payload[:length]
            assert read_attachments(front) == (found if front else [])
            assert read_attachments(payload[:length]) == found[: len(read_attachments(payload[:length]))]

    @given(st.binary(max_size=100))
    def test_splitting_arbitrary_bytes_raises_no_error(self, junk: bytes) -> None:
        for payload in (junk, b"\0" + junk, b"\0" * 8 + junk):
            front, spans = split_attachments(payload)
            assert front + spans == payload
            read_attachments(front)

    def test_a_trace_that_was_cut_off_keeps_its_attachments(self) -> None:
        trace = record(as_data_uri(PICTURE), outcome=Outcome.RUNNING)
        found = detach(trace)
        ended = unfinished.as_cut_off(join_attachments(found, otlp.encode(trace)))
        assert read_attachments(split_attachments(ended)[0]) == found
        assert Outcome.CUT_OFF.value.encode() in ended


@pytest.fixture(params=["server", "server with a folder", "embedded"])
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return an address and an experiment: its artifacts go through the server, or straight into a folder."""
    if request.param == "embedded":
        return request.getfixturevalue("store_uri"), "pictures"
    server: str = request.getfixturevalue("server")
    name = re.sub(r"\W+", " ", request.node.name)
    if request.param == "server":
        Client(server).create_experiment(name, artifact_location=f"mlflow-artifacts:/{name}")
    return server, name


@pytest.fixture
def proxied(server: str, request: pytest.FixtureRequest) -> str:
    """Return an experiment of the server whose artifacts go through it."""
    name = re.sub(r"\W+", " ", request.node.name)
    Client(server).create_experiment(name, artifact_location=f"mlflow-artifacts:/{name}")
    return name


def look(picture: bytes = PICTURE) -> list[HumanMessage]:
    """Return a question with a picture."""
    shown = {"type": "image_url", "image_url": {"url": as_data_uri(picture)}}
    return [HumanMessage([{"type": "text", "text": "What is in the picture?"}, shown])]


def folder_of(trace: Trace) -> Path:
    """Return the folder in which the attachments of a trace are, where it is one of ours."""
    location = trace.info.tags["mlflow.artifactLocation"].removeprefix("file://")
    return Path(location) / "attachments"


class TestDelivery:
    def test_a_picture_is_stored_unchanged_once_per_trace_and_the_trace_contains_no_base64(
        self, place: tuple[str, str], make_tracer: MakeTracer, model: AzureChatOpenAI
    ) -> None:
        uri, experiment = place
        large = picture(300)
        chain: Runnable[Any, Any] = RunnableLambda(lambda messages: messages) | model
        tracer = make_tracer(uri, experiment)
        chain.invoke(look(large), {"callbacks": [tracer]})
        trace = stored_trace(uri, tracer)
        found = [one for span in trace.data.spans for one in references(span.inputs)]
        assert len(found) >= 3
        (identity,) = {one["attachment_id"] for one in found}
        assert {one["trace_id"] for one in found} == {trace.info.trace_id}
        assert stored_content(uri, trace, identity) == large
        assert as_text(large)[100:140] not in trace.to_json()
        asked = named(trace, "AzureChatOpenAI").inputs["messages"][0]
        assert asked["content"][0]["text"] == "What is in the picture?"
        assert url(asked["content"][1]).startswith("mlflow-attachment://")
        assert trace.info.request_preview is not None
        assert "base64" not in trace.info.request_preview

    def test_pictures_from_a_tool_and_from_a_model_are_stored(
        self, place: tuple[str, str], make_tracer: MakeTracer
    ) -> None:
        uri, experiment = place

        @tool
        def screenshot() -> list[dict[str, object]]:
            """Take a picture of the screen."""
            return [{"type": "image", "base64": as_text(PICTURE), "mime_type": "image/png"}]

        made = {"type": "image_generation_call", "id": "ig_1", "result": as_text(picture(seed=9))}
        painter = FakeMessagesListChatModel(responses=[AIMessage([{"type": "text", "text": "Here."}, made])])

        def run(question: str) -> Any:
            screenshot.invoke({})
            return painter.invoke(question)

        tracer = make_tracer(uri, experiment)
        RunnableLambda(run).invoke("Draw", {"callbacks": [tracer]})
        trace = stored_trace(uri, tracer)
        (seen,) = references(named(trace, "screenshot").outputs)
        assert stored_content(uri, trace, seen["attachment_id"]) == PICTURE
        answer = named(trace, "FakeMessagesListChatModel").outputs["choices"][0]["message"]["content"]
        assert answer[0] == {"type": "text", "text": "Here."}
        (drawn,) = references(url(answer[1]))
        assert stored_content(uri, trace, drawn["attachment_id"]) == picture(seed=9)

    def test_the_pictures_of_a_running_trace_are_stored_before_the_trace_ends(
        self, place: tuple[str, str], make_tracer: MakeTracer
    ) -> None:
        uri, experiment = place
        leave = threading.Event()
        chain: Runnable[Any, Any] = RunnableLambda(lambda value: value) | RunnableLambda(
            lambda _value: leave.wait(100)
        )
        tracer = make_tracer(uri, experiment)
        thread = threading.Thread(target=chain.invoke, args=(look(), {"callbacks": [tracer]}))
        thread.start()
        try:
            client = Client(uri)

            def running() -> Any:
                if client.get_experiment_by_name(experiment) is None:
                    return None
                found = client.search_traces(locations=[experiment_id(uri, experiment)])
                return found[0] if found else None

            wait_for(running, 30)
            trace = running()
            (one, *_) = [one for span in trace.data.spans for one in references(span.inputs)]

            def is_there() -> bool:
                try:
                    return stored_content(uri, trace, one["attachment_id"]) == PICTURE
                except Exception:  # noqa: BLE001 - not there yet
                    return False

            wait_for(is_there, 30)
        finally:
            leave.set()
            thread.join()
        assert root(stored_trace(uri, tracer)).inputs is not None

    def test_no_picture_is_recorded_when_only_metadata_is_captured(
        self, store_uri: str, make_tracer: MakeTracer, model: AzureChatOpenAI
    ) -> None:
        tracer = make_tracer(store_uri, capture="metadata")
        model.invoke(look(), {"callbacks": [tracer]})
        trace = stored_trace(store_uri, tracer)
        assert "mlflow-attachment" not in trace.to_json()
        assert not folder_of(trace).exists()

    def test_a_picture_is_kept_on_disk_while_the_server_is_down_and_is_sent_later(
        self, server: str, proxied: str, make_tracer: MakeTracer, model: AzureChatOpenAI, tmp_path: Path
    ) -> None:
        with FaultProxy(server) as proxy:
            proxy.fault = REFUSING
            tracer = make_tracer(proxy.address, proxied)
            model.invoke(look(), {"callbacks": [tracer]})
            assert not tracer.flush(timeout=1)
            tracer.close(timeout=0.1)
            on_disk = b"".join(file.read_bytes() for file in (tmp_path / "spool").glob("spool.db*"))
            assert PICTURE[:100] in on_disk
            assert as_text(PICTURE)[:100].encode() not in on_disk
            proxy.fault = HEALTHY
            make_tracer(proxy.address, proxied)
            spool = Spool(tmp_path / "spool", max_bytes=2**40)
            wait_for(spool.figures.is_empty, 60)
            spool.close()
        assert tracer.last_trace_id is not None
        trace = Client(server).get_trace(tracer.last_trace_id)
        (one,) = references(root(trace).inputs)
        assert stored_content(server, trace, one["attachment_id"]) == PICTURE

    def test_the_picture_of_a_running_trace_is_uploaded_once_when_the_trace_is_sent_repeatedly(
        self, server: str, proxied: str
    ) -> None:
        trace = record(as_data_uri(PICTURE), number=9_000, outcome=Outcome.RUNNING)
        payload = encoded(trace)
        with FaultProxy(server) as proxy:
            sender = exporter_to(proxy.address, proxied)
            for _ in range(3):
                sender.show([payload])
            sender.export([payload])
            assert [one.method for one in proxy.seen].count("PUT") == 1

    def test_the_request_preview_of_a_trace_with_metadata_is_the_text_beside_the_picture(
        self, server: str, proxied: str
    ) -> None:
        shown = {"type": "image_url", "image_url": {"url": as_data_uri(PICTURE)}}
        trace = record({"messages": [said(shown)]}, number=9_001)
        trace.metadata = {"tenant": "acme"}
        exporter_to(server, proxied).export([encoded(trace)])
        info = Client(server).get_trace(trace.mlflow_id).info
        assert (info.request_preview, info.trace_metadata["tenant"]) == ("What is it?", "acme")

    def test_a_trace_that_is_sent_twice_stores_its_picture_once(
        self, place: tuple[str, str], make_tracer: MakeTracer
    ) -> None:
        uri, experiment = place
        trace = record(as_data_uri(PICTURE), number=hash(place) % 2**60)
        payload = encoded(trace)
        for _ in range(2):  # as two processes would
            exporter_to(uri, experiment).export([payload])
        stored = Client(uri).get_trace(trace.mlflow_id)
        (one,) = references(root(stored).inputs)
        assert stored_content(uri, stored, one["attachment_id"]) == PICTURE
        if not stored.info.tags["mlflow.artifactLocation"].startswith("mlflow-artifacts"):
            assert len(list(folder_of(stored).iterdir())) == 1


@contextlib.contextmanager
def slow_reader(pause: float) -> Iterator[str]:
    """Yield the address of a server that takes 64 kB, then rests."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            left = int(self.headers["Content-Length"])
            while left:
                left -= len(self.rfile.read(min(left, 65536)))
                time.sleep(pause)
            self.send_response_only(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False) as server:
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        server.server_bind()
        server.server_activate()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestArtifactStore:
    @pytest.mark.parametrize(
        ("status", "text"),
        [
            (400, b"no"),
            (403, b"no"),
            (404, b"no"),
            (405, b"no"),
            (413, b"too large"),
            (501, b"no"),
            (503, b"Artifact serving is disabled. Run `mlflow server` with `--serve-artifacts` to enable."),
        ],
    )
    def test_a_trace_is_stored_without_a_picture_that_the_artifact_store_refuses_and_one_line_is_logged(
        self,
        status: int,
        text: bytes,
        server: str,
        proxied: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with FaultProxy(server) as proxy:
            proxy.fault = answers_to("PUT", status, text)
            sender = exporter_to(proxy.address, proxied)
            for number in range(2):
                trace = record(as_data_uri(PICTURE), number=(status << 8) + number)
                sender.export([encoded(trace)])
                stored = Client(server).get_trace(trace.mlflow_id)
                assert references(root(stored).inputs)
        (line,) = [one.getMessage() for one in caplog.records if "without attachments" in one.getMessage()]
        assert f"answered {status}" in line

    @pytest.mark.parametrize("status", [401, 429, 500, 502, 503, 504])
    def test_a_trace_with_a_picture_can_be_sent_after_a_temporary_failure_of_the_artifact_store(
        self, status: int, server: str, proxied: str
    ) -> None:
        trace = record(as_data_uri(PICTURE), number=(status << 16) + 1)
        payload = encoded(trace)
        with FaultProxy(server) as proxy:
            proxy.fault = answers_to("PUT", status)
            sender = exporter_to(proxy.address, proxied)
            with pytest.raises(
                TransientExportError, match=f"attachments of a trace cannot be stored: .*{status}"
            ) as caught:
                sender.export([payload])
            assert not caught.value.suspect
            proxy.fault = HEALTHY
            sender.export([payload])
        stored = Client(server).get_trace(trace.mlflow_id)
        (one,) = references(root(stored).inputs)
        assert stored_content(server, stored, one["attachment_id"]) == PICTURE

    def test_a_failing_artifact_store_does_not_delay_traces_without_pictures(
        self, server: str, proxied: str, make_tracer: MakeTracer
    ) -> None:
        echo: Runnable[Any, Any] = RunnableLambda(lambda value: value)
        with FaultProxy(server) as proxy:
            proxy.fault = answers_to("PUT", 503)
            tracer = make_tracer(proxy.address, proxied)
            echo.invoke(as_data_uri(PICTURE), {"callbacks": [tracer]})
            for number in range(5):
                echo.invoke(number, {"callbacks": [tracer]})
            wait_for(lambda: tracer.stats()["delivered"] == 5, 60)
            assert tracer.stats()["waiting"] == 1
            shown = Client(server).search_traces(locations=[experiment_id(server, proxied)])
            assert len(shown) == 6

    def test_no_attachment_is_written_to_a_local_folder_that_the_server_does_not_share(
        self, server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "elsewhere"
        Client(server).create_experiment(f"not shared {tmp_path}", artifact_location=str(folder))
        with FaultProxy(server) as proxy:
            proxy.fault = answers_to("HEAD", 404)
            sender = exporter_to(proxy.address, f"not shared {tmp_path}")
            for number in range(2):
                trace = record(as_data_uri(PICTURE), number=7_000 + number)
                sender.export([encoded(trace)])
        assert Client(server).get_trace(trace.mlflow_id).data.spans
        assert [file for file in folder.rglob("*") if file.is_file()] == []
        assert "a folder that is not shared with this machine" in caplog.text

    def test_sending_a_picture_to_a_slow_artifact_store_raises_no_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.3)
        with slow_reader(pause=0.01) as address:
            artifacts.send(http.Connection(address), "mlflow-artifacts:/1", "attachments/x", bytes(8_000_000))

    def test_an_upload_that_must_be_signed_has_a_body_of_bytes(self) -> None:
        for signs in ({"aws_sigv4": True, "auth": None}, {"aws_sigv4": False, "auth": "plugin"}):
            assert http._body(PICTURE, SimpleNamespace(**signs)) is PICTURE

    def test_an_artifact_location_of_an_unusable_kind_raises_a_permanent_error(self) -> None:
        for location in ("unheard-of://somewhere", "mlflow-artifacts:/1"):
            with pytest.raises(PermanentExportError, match="cannot be used"):
                artifacts.put("sqlite:///mlflow.db", location, "attachments/x", b"content")

    def test_an_artifact_store_whose_package_is_missing_raises_a_permanent_error(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "boto3", None)
        with pytest.raises(PermanentExportError, match=r"\(s3\) needs a package"):
            artifacts.put("sqlite:///mlflow.db", "s3://bucket/traces", "attachments/x", b"content")

    def test_an_artifact_folder_that_cannot_be_written_raises_a_transient_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(TransientExportError, match="does not accept a file"):
            artifacts.put("sqlite:///mlflow.db", str(tmp_path / "file"), "attachments/x", b"content")
