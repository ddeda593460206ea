"""API keys, rate limits, quotas and requests that are refused."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from backend.endpoint.access import TokenBucket
from backend.errors import NotFoundError, UsageError
from backend.store.api_keys import ApiKeyStore
from tests.support.endpoint_client import EndpointClient, open_endpoint
from tests.support.harness import make_png


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


def ask(call: EndpointClient, key: str, function: str = "1") -> int:
    path = f"/v1/functions/{function}/invoke"
    return call("POST", path, content=make_png("red", 1), headers=bearer(key)).status_code


def test_only_hashes_of_keys_are_stored_and_a_revoked_key_is_rejected(tmp_path: Path) -> None:
    keys = ApiKeyStore(tmp_path)
    key, text = keys.create("greenhouse", ("3",), rate=5, quota=10)
    assert text not in (tmp_path / "keys.json").read_text()
    assert text.split("_", 2)[2] not in (tmp_path / "keys.json").read_text()
    assert (tmp_path / "keys.json").stat().st_mode & 0o077 == 0
    assert ApiKeyStore(tmp_path).authenticate(text) == key
    assert keys.authenticate(text[:-1] + ("A" if text[-1] != "A" else "B")) is None
    assert keys.authenticate(f"plk_{key.id}_") is None
    assert keys.authenticate("") is None
    ApiKeyStore(tmp_path).revoke(key.id)  # by another process
    assert keys.authenticate(text) is None
    with pytest.raises(NotFoundError, match="keys list"):
        keys.revoke("nobody")
    with pytest.raises(UsageError, match="name"):
        keys.create(" ")


def test_without_a_valid_key_only_health_and_the_document_are_public(home: Path) -> None:
    _, text = ApiKeyStore(home).create("app", ("1",))
    with open_endpoint(home, open=False) as call:
        assert call("GET", "/health").status_code == 200
        assert call("GET", "/openapi.json").status_code == 200
        for path in ("/v1/functions", "/v1/functions/1", "/metrics"):
            denied = call("GET", path)
            assert denied.status_code == 401, path
            assert denied.headers["www-authenticate"] == "Bearer"
        assert ask(call, "plk_00000000_nonsense") == 401
        assert ask(call, text) == 200
        assert ask(call, text, "2") == 403
        assert call("GET", "/v1/functions/2", headers=bearer(text)).status_code == 403
        assert [f["id"] for f in call("GET", "/v1/functions", headers=bearer(text)).json()] == ["1"]
        ApiKeyStore(home).revoke(text.split("_")[1])
        assert ask(call, text) == 401


def test_the_first_key_closes_the_endpoint_and_revoking_the_last_does_not_open_it(
    home: Path,
) -> None:
    def asks(call: EndpointClient, **headers: str) -> int:
        return call("GET", "/v1/functions", headers=headers).status_code

    with open_endpoint(home, open=False, open_at_first=True) as call:
        assert asks(call) == 200
        key, text = ApiKeyStore(home).create("first")  # by another process
        assert asks(call) == 401
        assert asks(call, **bearer(text)) == 200
        ApiKeyStore(home).revoke(key.id)
        assert asks(call) == 401
        (home / "keys.json").unlink()
        assert asks(call) == 401, "once closed, it stays closed"
    ApiKeyStore(home).revoke(ApiKeyStore(home).create("revoked")[0].id)
    with open_endpoint(home, open=False, open_at_first=True) as call:
        assert asks(call) == 401
    with open_endpoint(home, open=True) as call:
        assert asks(call) == 200


def test_rate_limit_and_quota_of_a_key_are_enforced(home: Path) -> None:
    _, slow_text = ApiKeyStore(home).create("slow", rate=2)
    _, few_text = ApiKeyStore(home).create("few", quota=3)
    with open_endpoint(home, open=False) as call:
        path = "/v1/functions/1/invoke"
        headers = bearer(slow_text)
        answers = [
            call("POST", path, content=make_png("red", 1), headers=headers) for _ in range(4)
        ]
        assert [a.status_code for a in answers][:2] == [200, 200]
        assert 429 in [a.status_code for a in answers]
        refused = next(a for a in answers if a.status_code == 429)
        assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"] == "1"
        assert answers[0].headers["ratelimit-limit"] == "2"
        assert answers[0].headers["ratelimit-remaining"] == "1"
        assert [ask(call, few_text) for _ in range(4)] == [200, 200, 200, 429]
    with open_endpoint(home, open=False) as call:  # usage survives a restart
        assert ask(call, few_text) == 429
        answer = call("POST", path, content=make_png("red", 1), headers=bearer(few_text))
        assert "next month" in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0


def test_a_token_bucket_admits_a_large_batch_when_full_and_then_recovers() -> None:
    """Rate 2: two at once; a batch of ten is admitted by a full bucket, which is then at -8."""
    bucket = TokenBucket(2.0, now=0.0)
    assert [bucket.wait_seconds(n, 0.0) for n in (1, 2, 10)] == [0, 0, 0]
    bucket.consume(10, 0.0)
    assert bucket.level(0.0) == -8
    assert [bucket.wait_seconds(n, 0.0) for n in (1, 2, 7)] == [4.5, 5, 5]
    assert bucket.wait_seconds(1, 4.5) == 0
    bucket.consume(1, 4.5)
    assert bucket.wait_seconds(1, 4.5) == 0.5
    assert bucket.level(100.0) == 2
    slow = TokenBucket(0.1, now=0.0)
    slow.consume(1, 0.0)
    assert slow.wait_seconds(1, 0.0) == 10


def test_batches_of_all_sizes_share_one_rate_limit_and_the_quota_is_not_exceeded(
    home: Path,
) -> None:
    _, slow = ApiKeyStore(home).create("slow", rate=1)
    _, few = ApiKeyStore(home).create("few", quota=5)
    text = base64.b64encode(make_png("red", 1)).decode()
    path = "/v1/functions/1/invoke-batch"
    with open_endpoint(home, open=False, fetch_urls=True) as call:
        reader = call.app.state.parts.reader
        asked: list[str] = []

        def resolve(host: str, port: int) -> list[str]:
            asked.append(host)
            return []

        reader.web._resolve = resolve

        def batch(size: int, key: str) -> httpx.Response:
            return call("POST", path, json={"data": [text] * size}, headers=bearer(key))

        statuses = [batch(size, slow).status_code for size in range(20, 10, -1)]
        assert statuses == [200] + [429] * 9
        refused = batch(3, slow)
        assert int(refused.headers["retry-after"]) > 10
        assert refused.headers["ratelimit-remaining"] == "0"

        async def together() -> list[int]:
            one = f"{path.removesuffix('-batch')}"
            wait = (
                call.http.post(one, content=make_png("red", 1), headers=bearer(few))
                for _ in "x" * 20
            )
            return [answer.status_code for answer in await asyncio.gather(*wait)]

        assert sorted(call.loop.run_until_complete(together())) == [200] * 5 + [429] * 15
        address = {"data": ["https://images.example/x.png"] * 3}
        for key in (slow, few):
            assert call("POST", path, json=address, headers=bearer(key)).status_code == 429
        assert asked == [], "nothing is fetched for a request over its limits"


def test_every_response_has_the_remaining_limits_also_an_error(home: Path) -> None:
    _, text = ApiKeyStore(home).create("app", rate=50, quota=100)
    with open_endpoint(home, open=False) as call:
        path, headers = "/v1/functions/1/invoke", bearer(text)
        answers = [
            call("POST", path, content=content, headers=headers)
            for content in (make_png("red", 1), b"no image", b"")
        ]
        read = [call("GET", f"/v1/functions{more}", headers=headers) for more in ("", "/1", "/no")]
        read.append(call("GET", "/metrics", headers=headers))
    assert [answer.status_code for answer in read] == [200, 200, 404, 200]
    assert [answer.status_code for answer in answers] == [200, 415, 422]
    for answer in answers + read:
        assert answer.headers.get_list("ratelimit-limit") == ["50"]
        assert int(answer.headers["ratelimit-remaining"]) <= 49
    assert [answer.headers["x-quota-remaining"] for answer in answers] == ["99", "98", "97"]


def test_metrics_need_a_key_for_all_functions(home: Path) -> None:
    _, scoped = ApiKeyStore(home).create("one", ("1",))
    _, unscoped = ApiKeyStore(home).create("all")
    with open_endpoint(home, open=False) as call:
        assert call("GET", "/metrics", headers=bearer(scoped)).status_code == 403
        assert call("GET", "/metrics", headers=bearer(unscoped)).status_code == 200


def test_concurrent_processes_do_not_lose_each_others_key_changes(tmp_path: Path) -> None:
    revoked, _ = ApiKeyStore(tmp_path).create("revoked")
    code = (
        "import sys; from pathlib import Path; from backend.store.api_keys import ApiKeyStore\n"
        "keys = ApiKeyStore(Path(sys.argv[1]))\n"
        "[keys.create(f'{sys.argv[2]}-{n}') for n in range(20)]"
    )
    makers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "abc"]
    ApiKeyStore(tmp_path).revoke(revoked.id)
    assert [maker.wait(60) for maker in makers] == [0, 0, 0]
    found = ApiKeyStore(tmp_path).all()
    assert len({key.name for key in found}) == 61
    assert [key.name for key in found if key.revoked] == ["revoked"]


def test_each_image_of_a_batch_counts(home: Path) -> None:
    _, text = ApiKeyStore(home).create("few", quota=5)
    with open_endpoint(home, open=False) as call:
        path, files = (
            "/v1/functions/1/invoke-batch",
            [("data", make_png("red", i)) for i in range(3)],
        )
        first = call("POST", path, files=files, headers=bearer(text))
        assert first.headers["x-quota-remaining"] == "2"
        over = call("POST", path, files=files, headers=bearer(text))
        assert over.status_code == 429
        detail = "This API key has 2 of 5 images left this month: send fewer."
        assert over.json()["detail"] == detail
        assert "retry-after" not in over.headers
        assert call("POST", path, files=files[:2], headers=bearer(text)).status_code == 200
        used = call("POST", path, files=files, headers=bearer(text))
        assert "are used up" in used.json()["detail"]
        assert int(used.headers["retry-after"]) > 0


def test_a_request_that_is_too_large_is_refused_before_it_is_read(home: Path) -> None:
    with open_endpoint(home, max_request_bytes=1000, max_image_bytes=500) as call:
        path = "/v1/functions/1/invoke"
        assert call("POST", path, content=b"x" * 1001).status_code == 413

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 100

        assert call("POST", path, content=drip()).status_code == 413
        image = call("POST", path, content=b"x" * 600)
        assert image.status_code == 413
        assert "500 bytes" in image.json()["detail"]


def large_json(kind: str) -> bytes:
    """A body of 20 MB."""
    values = {"objects": b"{}", "lists": b"[]", "numbers": b"0", "nested": b"[" * 9 + b"]" * 9}
    value = values[kind]
    return b'{"data":[' + b",".join([value] * (20_000_000 // (len(value) + 1))) + b"]}"


@pytest.mark.parametrize("kind", ["objects", "lists", "numbers", "nested"])
def test_json_of_more_values_than_a_request_needs_is_refused_before_it_is_parsed(
    call: EndpointClient, kind: str
) -> None:
    headers = {"content-type": "application/json"}
    body = large_json(kind)
    for method, path in (("POST", "invoke-batch"), ("PUT", "samples/x/annotation")):
        tracemalloc.start()
        answer = call(method, f"/v1/functions/1/{path}", content=body, headers=headers)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert answer.status_code == 413
        assert answer.json()["type"] == "urn:prelabel:too-many-values"
        assert peak < 3 * len(body)


def test_a_correction_of_the_largest_size_is_read(call: EndpointClient) -> None:
    corner = {"x": 0.1, "y": 0.1}
    one = {"labelName": "disc", "boundingBox": {**corner, "width": 0.1, "height": 0.1}}
    largest = {"predictions": [{**one, "center": corner}] * 10_000, "control": "", "data": "eA=="}
    answer = call("PUT", "/v1/functions/3/samples/x/annotation", json=largest)
    assert answer.json()["type"] == "urn:prelabel:unreadable-image", "the first check that fails"


def test_a_promoted_version_goes_live_and_the_old_one_is_available_by_name(home: Path) -> None:
    from tests.support.published_models import publish_version, train_colour_model

    with open_endpoint(home) as call:
        before = call.invoke("1", make_png("red", 1)).json()["version"]
        after = publish_version(home, "1", *train_colour_model())
        call.wait(lambda: call_version(call) == after)
        assert call.invoke("1", make_png("red", 1)).json()["version"] == after
        assert call.invoke("1", make_png("red", 1), version=before).json()["version"] == before
        assert call.invoke("1", make_png("red", 1), version="live").json()["version"] == after


def call_version(call: EndpointClient) -> str:
    """Read it directly: the event loop that would serve a request is the one that waits."""
    functions = call.app.state.parts.functions
    return str(functions.live_version("1").card.version)


def test_a_damaged_project_affects_no_other_and_a_failed_version_is_loaded_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from backend.endpoint import functions

    monkeypatch.setattr(functions, "RELOAD_DELAY_SECONDS", 0.1)
    (home / "projects" / "2" / "live.json").write_text("{")
    for name in ("project.json", "project.json.backup"):
        (home / "projects" / "3" / name).write_text("[]")
    (card,) = (home / "projects" / "4" / "versions").glob("*/card.json")
    intact = card.read_text()
    card.write_text("{")
    with open_endpoint(home) as call:
        loaded = call.app.state.parts.functions._live_versions
        assert set(loaded) == {"1", "2", "5"}, "the history has the live version of 2"
        assert call.invoke("4", make_png("red", 1)).status_code == 503
        card.write_text(intact)
        call.wait(lambda: "4" in loaded, 30)
