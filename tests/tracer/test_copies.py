"""Copies, pickles and shares tracers, as graphs, pools and clusters do."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_mlflow_tracer import MlflowTracer
from langchain_mlflow_tracer.spool.spool import Spool
from tests.conftest import MakeTracer, wait_for


def increment(number: int) -> int:
    return number + 1


def run(tracer: MlflowTracer) -> None:
    assert RunnableLambda(increment).invoke(1, {"callbacks": [tracer]}) == 2


def work(tracer: MlflowTracer) -> str:
    run(tracer)
    tracer.close()
    return str(tracer.last_trace_id)


def waiting(folder: Path) -> dict[str, list[Any]]:
    """Return the keys of what waits in a spool, with their destinations."""
    spool = Spool(folder, 2**40)
    rows = spool._database.rows("SELECT key, destination FROM items")
    spool.close()
    return {key: json.loads(destination) for key, destination in rows}


@pytest.fixture
def tracer(make_tracer: MakeTracer) -> MlflowTracer:
    return make_tracer("http://127.0.0.1:9", "copies", forwarder="none", tags={"a": "b"})


class TestCopies:
    @pytest.mark.parametrize("how", [copy.copy, copy.deepcopy])
    def test_a_copy_of_a_tracer_is_the_tracer_itself(self, tracer: MlflowTracer, how: Any) -> None:
        assert how(tracer) is tracer

    def test_a_config_that_is_copied_during_a_run_makes_one_trace(self, tracer: MlflowTracer) -> None:
        def nested(value: int, config: Any) -> int:
            return RunnableLambda(increment).invoke(value, copy.deepcopy(config))

        assert RunnableLambda(nested).invoke(1, {"callbacks": [tracer]}) == 2
        wait_for(lambda: tracer.stats()["spooled"])
        assert tracer.stats()["spooled"] == 1


class TestPickles:
    def test_an_unpickled_tracer_shares_the_pipeline_of_the_same_process(self, tracer: MlflowTracer) -> None:
        other = pickle.loads(pickle.dumps(tracer))  # noqa: S301 - our own bytes
        assert isinstance(other, MlflowTracer)
        assert other is not tracer
        run(other)
        wait_for(lambda: tracer.stats()["spooled"] == 1)
        other.close(0)

    def test_a_spawned_process_records_to_the_destination_of_its_parent(
        self, tracer: MlflowTracer, tmp_path: Path
    ) -> None:
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            ids = pool.map(work, [tracer] * 4)
        assert len(set(ids)) == 4
        found = waiting(tmp_path / "spool")
        assert set(found) == set(ids)
        assert {tuple(place) for place in found.values()} == {("http://127.0.0.1:9", "copies", None)}

    def test_a_pickled_tracer_has_no_credentials_of_its_tracking_uri(self, make_tracer: MakeTracer) -> None:
        tracer = make_tracer("http://ada:hunter2@127.0.0.1:9", forwarder="none")
        assert b"hunter2" not in pickle.dumps(tracer)
        assert b"127.0.0.1:9" in pickle.dumps(tracer)

    def test_an_unpickled_tracer_uses_the_credentials_of_its_own_process(
        self, make_tracer: MakeTracer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pickled = pickle.dumps(make_tracer("http://127.0.0.1:9", forwarder="none"))
        monkeypatch.setenv("LANGCHAIN_MLFLOW_TRACER_TRACKING_URI", "http://bob:secret@127.0.0.1:9")
        arrived = pickle.loads(pickled)  # noqa: S301 - our own bytes
        assert arrived._settings.destination.tracking_uri == "http://bob:secret@127.0.0.1:9"
        arrived.close(0)

    def test_an_unpickled_tracer_uses_the_default_spool_if_its_folder_is_not_usable(
        self, make_tracer: MakeTracer, tmp_path: Path
    ) -> None:
        tracer = make_tracer("http://127.0.0.1:9", forwarder="none", spool_dir=tmp_path / "here")
        pickled = pickle.dumps(tracer)
        tracer.close(0)
        for file in (tmp_path / "here").iterdir():
            file.unlink()
        (tmp_path / "here").rmdir()
        (tmp_path / "here").write_text("another machine has a file of that name")
        arrived = pickle.loads(pickled)  # noqa: S301 - our own bytes
        run(arrived)
        arrived.close()
        assert len(waiting(tmp_path / "state" / "langchain-mlflow-tracer")) == 1


class TestSharedSpool:
    def test_tracers_that_share_a_spool_send_to_their_own_destinations(
        self, make_tracer: MakeTracer, tmp_path: Path
    ) -> None:
        for host in ("http://127.0.0.1:7", "http://127.0.0.1:8"):
            tracer = make_tracer(host, forwarder="none")
            run(tracer)
            tracer.close()
        found = waiting(tmp_path / "spool").values()
        assert sorted(place[0] for place in found) == ["http://127.0.0.1:7", "http://127.0.0.1:8"]

    def test_a_pending_trace_keeps_its_destination(
        self, make_tracer: MakeTracer, store_uri: str, tmp_path: Path
    ) -> None:
        old = make_tracer("http://127.0.0.1:7", forwarder="none")
        run(old)
        old.close()
        new = make_tracer(store_uri)
        run(new)
        assert new.flush(60)
        assert [place[0] for place in waiting(tmp_path / "spool").values()] == ["http://127.0.0.1:7"]

    def test_a_spool_path_that_is_a_file_raises_an_error_at_construction(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(ValueError, match=r"spool_dir=.*file.*folder this process can write to"):
            MlflowTracer("http://127.0.0.1:9", spool_dir=tmp_path / "file")
