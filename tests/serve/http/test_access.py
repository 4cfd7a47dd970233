from __future__ import annotations

import os
from pathlib import Path

import pytest

from shunter.errors import BrokenFileError, InputError
from shunter.serve.http.app import make_app
from shunter.serve.http.settings import HttpSettings, read_api_keys
from tests.serve.http.stub import StubScheduler, play, running

KEYED = ("/v1/models", "/running", "/metrics", "/events", "/ready")


def test_keys() -> None:
    async def scene() -> None:
        async with running(api_keys=("first", "second")) as run:
            for path in KEYED:
                async with run.client.get(path) as got:
                    assert got.status == 401
                    assert got.headers["WWW-Authenticate"] == "Bearer"
                    error = (await got.json())["error"]
                    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
            for path in ("/health", "/"):
                async with run.client.get(path) as got:
                    assert got.status == 200
            for headers, status in (
                ({"Authorization": "Bearer first"}, 200),
                ({"Authorization": "bearer second"}, 200),
                ({"x-api-key": "second"}, 200),
                ({"Authorization": "Bearer of-another", "x-api-key": "first"}, 200),
                ({"Authorization": "Bearer firs"}, 401),
                ({"Authorization": "Bearer "}, 401),
                ({"Authorization": "Basic first"}, 401),
                ({"x-api-key": "fïrst"}, 401),
            ):
                async with run.client.get("/v1/models", headers=headers) as got:
                    assert got.status == status
            async with run.post() as got:
                assert got.status == 401
            assert run.stub.tickets == []

    play(scene)


def test_the_status_can_be_open() -> None:
    async def scene() -> None:
        async with running(api_keys=("first",), open_status=True) as run:
            for path in ("/running", "/metrics", "/ready"):
                async with run.client.get(path) as got:
                    assert got.status == 200
            async with run.client.post("/unload") as got:
                assert got.status == 401

    play(scene)


def test_every_route_but_the_page_and_health_wants_a_key() -> None:
    app = make_app(StubScheduler(), HttpSettings(api_keys=("k",)))
    routes = [
        (route.method, str(route.resource.canonical)) for route in app.router.routes() if route.resource
    ]

    async def scene() -> None:
        async with running(api_keys=("k",)) as run:
            for method, path in routes:
                async with run.client.request(method, path.replace("{id}", "small")) as got:
                    assert (got.status == 401) == (path not in ("/", "/health")), (method, path)
            assert run.stub.tickets == run.stub.unloaded == []

    assert len(routes) > len(KEYED)
    play(scene)


def test_other_hosts_are_refused_at_loopback() -> None:
    async def scene() -> None:
        async with running(hosts=("Box.lan",)) as run:
            for host, status in (
                ("evil.example", 403),
                ("evil.example:80", 403),
                ("127.0.0.1.evil.example", 403),
                ("[::1]evil.example", 403),
                ("127.0.0.1:80:evil.example", 403),
                ("localhost:1", 200),
                ("LOCALHOST", 200),
                ("[::1]:8080", 200),
                ("box.lan", 200),
            ):
                async with run.client.get("/v1/models", headers={"Host": host}) as got:
                    assert got.status == status, host

    play(scene)


def test_pages_of_other_origins_are_refused_unless_listed() -> None:
    async def scene() -> None:
        async with running(origins=("https://chat.example",), api_keys=("k",)) as run:
            key = {"x-api-key": "k"}
            async with run.client.post("/unload", headers=key | {"Origin": "https://evil.example"}) as got:
                assert got.status == 403
                assert "Access-Control-Allow-Origin" not in got.headers
            assert run.stub.unloaded == []
            async with run.client.get("/running", headers=key | {"Origin": run.url}) as got:
                assert got.status == 200
                assert "Access-Control-Allow-Origin" not in got.headers
            asks = {"Origin": "https://chat.example", "Access-Control-Request-Headers": "x-thing"}
            async with run.client.options("/v1/chat/completions", headers=asks) as got:
                assert got.status == 204
                assert got.headers["Access-Control-Allow-Origin"] == "https://chat.example"
                assert got.headers["Access-Control-Allow-Headers"] == "x-thing"
            run.upstream.streams("{}")
            async with run.client.post(
                "/v1/chat/completions", data=b'{"model":"small","stream":true}', headers=key | asks
            ) as got:
                assert got.status == 200
                assert got.headers["Access-Control-Allow-Origin"] == "https://chat.example"
            async with run.client.get("/running", headers=asks) as got:  # a page can read why it failed
                assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (
                    401,
                    "https://chat.example",
                )

    play(scene)


def test_keys_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# ours\n sk-one \n\nsk-two\n")
    path.chmod(0o600)
    assert read_api_keys(str(path)) == ("sk-one", "sk-two")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-one\n")
    path.chmod(mode)
    with pytest.raises(InputError) as caught:
        read_api_keys(str(path))
    text = f"{path}: its mode must let only its owner read it (chmod 600). Got '{mode:04o}' instead."
    assert str(caught.value) == text


def test_a_file_that_is_not_there_or_holds_none(tmp_path: Path) -> None:
    with pytest.raises(BrokenFileError, match="No such file"):
        read_api_keys(str(tmp_path / "none"))
    path = tmp_path / "keys"
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    with pytest.raises(InputError, match="at least one"):
        read_api_keys(str(path))


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUR_KEYS", "one\ntwo")
    assert read_api_keys("env:OUR_KEYS") == ("one", "two")
    with pytest.raises(InputError, match="env:NO_KEYS"):
        read_api_keys("env:NO_KEYS")
    monkeypatch.setenv("OUR_KEYS", "schlüssel")
    with pytest.raises(InputError, match="ASCII") as caught:
        read_api_keys("env:OUR_KEYS")
    assert "schl" not in str(caught.value)
