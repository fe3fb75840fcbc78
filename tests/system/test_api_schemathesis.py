"""Whatever OpenAPI lets a client send, and much that it does not, gets an answer that OpenAPI describes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from requests.adapters import HTTPAdapter
from schemathesis.specs.openapi.checks import positive_data_acceptance
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from tests.harness import acting_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from schemathesis import Case

    from tests.harness import Daemon

pytestmark = [pytest.mark.root, pytest.mark.slow]

OPENAPI = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"
# /v1/events never ends by itself, and a stop would end what other tests of this service do.
schema = schemathesis.openapi.from_path(OPENAPI).exclude(path=["/v1/events", "/v1/stop"])


class OverTheSocket(HTTPAdapter):
    """requests over the service's Unix socket, connected as the agent."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._pool = Pool(daemon)

    def get_connection_with_tls_context(self, *_: object, **__: object) -> HTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()


class Pool(HTTPConnectionPool):
    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost")
        self._daemon = daemon

    def _new_conn(self) -> HTTPConnection:
        return UnixConnection(self._daemon)


class UnixConnection(HTTPConnection):
    def __init__(self, daemon: Daemon) -> None:
        super().__init__("localhost")
        self._daemon = daemon

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        with acting_as(self._daemon.agent):
            self.sock.connect(self._daemon.socket)


@pytest.fixture(scope="module")
def client(daemon: Daemon) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://localhost", OverTheSocket(daemon))
        yield session


@schema.parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_route_answers_as_it_says(case: Case, client: requests.Session) -> None:
    answered = case.call(base_url="http://localhost", session=client)
    assert answered.headers["x-request-id"]
    # A body of the right form may name a workspace or a combination that the service refuses; a schema cannot say that.
    left_out = [positive_data_acceptance] if case.operation.body else []
    case.validate_response(answered, excluded_checks=left_out)
