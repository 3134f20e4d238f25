"""The server answers as its index does, also fifty at once, and refuses what is wrong in one clear line."""

import http.client
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

import pytest
from PIL import Image

from jax_itm.cli.main import main
from jax_itm.search.index import SearchIndex
from jax_itm.serve.limits import LIMITS, RateLimiter
from tests.helpers.errors import says
from tests.helpers.pictures import truncated_jpeg
from tests.helpers.searching import CAPTIONS, make, served, untrained_clip

MANY = LIMITS._replace(rate=1e6, burst=10**6)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    make(folder, untrained_clip(folder), score="maxmean")
    return folder


@pytest.fixture(scope="module")
def index(place):
    return SearchIndex(place / "index")


@pytest.fixture(scope="module")
def url(index):
    with served(index, MANY) as address:
        yield address


def call(url: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    """Status and contents of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def asked(url: str, body: bytes | None = None) -> dict:
    status, contents = call(url, body)
    assert status == 200, contents
    return json.loads(contents)


def same(rows, hits):
    assert [row["id"] for row in rows] == [hit.id for hit in hits]
    assert [row["name"] for row in rows] == [hit.name for hit in hits]
    assert [row["score"] for row in rows] == pytest.approx([hit.score for hit in hits], abs=1e-6)


def test_it_answers_as_the_index_does(url, index):
    about = asked(f"{url}/api/index")
    assert (about["pictures"], about["captions"], about["regions"]) == (12, len(CAPTIONS), True)
    for text in CAPTIONS:
        rows = asked(f"{url}/api/pictures?text={quote(text)}&top=5")["pictures"]
        same(rows, index.pictures_for_text(text, 5))
    file = index.images / rows[0]["name"]
    answer = asked(f"{url}/api/pictures?top=4", file.read_bytes())
    same(answer["pictures"], index.pictures_for_image(index.pixels(file), 4))
    same(answer["captions"], index.captions_for_image(index.pixels(file), 4))
    own = rows[0]["id"]
    answer = asked(f"{url}/api/pictures/{own}?top=4")
    same(answer["pictures"], index.pictures_for_picture(own, 4))
    same(answer["captions"], index.captions_for_picture(own, 4))
    regions = asked(f"{url}/api/pictures/{own}/regions?text=two%20cats")
    assert "".join(regions["words"]) == "twocats"
    assert len(regions["cosines"]) == len(regions["words"])
    assert {len(row) for row in regions["cosines"]} == {len(regions["boxes"])}
    status, jpeg = call(f"{url}/thumbnails/{own}")
    assert status == 200 and jpeg == index.store.thumbnail(own) and jpeg[:2] == b"\xff\xd8"
    status, page = call(url)
    assert (
        status == 200
        and b"<!DOCTYPE html>" in page
        and b"http" not in page.replace(b"http://www.w3.org", b"")
    )


def test_fifty_at_once_are_correct(url, index):
    expected = {text: index.pictures_for_text(text, 6) for text in CAPTIONS}
    texts = (CAPTIONS * 9)[:50]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda text: asked(f"{url}/api/pictures?text={quote(text)}&top=6"), texts))
    for text, answer in zip(texts, answers, strict=True):
        same(answer["pictures"], expected[text])


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/api/pictures", 400, "caption: empty caption"),
        ("/api/pictures?text=%20%09", 400, "caption: empty caption"),
        (f"/api/pictures?text={'a' * 1001}", 400, "a caption may have 1,000 characters"),
        ("/api/pictures?text=a&top=0", 400, "top: must be a whole number from 1 to 200"),
        ("/api/pictures?text=a&top=9999999999", 400, "top: must be"),
        ("/api/pictures?text=a&top=%C2%B2", 400, "top: must be"),
        ("/api/pictures/999", 404, "no picture 999"),
        (f"/api/pictures/{'9' * 40}", 404, "no picture 999"),
        ("/api/pictures/999/regions?text=a", 404, "no picture 999"),
        ("/api/pictures/1/regions", 400, "caption: empty caption"),
        ("/thumbnails/0", 404, "no picture 0"),
        ("/thumbnails/..%2f..%2findex.sqlite", 404, "Not Found"),
        ("/thumbnails/../../../etc/passwd", 404, "Not Found"),
        ("/index.sqlite", 404, "Not Found"),
        ("//etc/passwd", 404, "Not Found"),
    ],
)
def test_bad_questions_have_a_clear_answer(url, path, status, message):
    connection = http.client.HTTPConnection(urlsplit(url).netloc)  # sends paths as they are
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == status
    assert message in json.loads(answer.read())["error"]


def test_bad_pictures_have_a_clear_answer(url, tmp_path):
    pictures = f"{url}/api/pictures"
    for body in (b"no picture", truncated_jpeg(), b"%!PS-Adobe-3.0 EPSF-3.0"):
        status, answer = call(pictures, body)
        error = json.loads(answer)["error"]
        assert status == 400 and error.startswith("picture: not a readable image"), error
    status, answer = call(pictures, b"\0" * (LIMITS.body_bytes + 1))
    assert status == 413 and b"16,777,216 bytes" in answer
    Image.new("1", (8000, 8000)).save(tmp_path / "bomb.png")  # 64 million pixels in a few KB
    status, answer = call(pictures, (tmp_path / "bomb.png").read_bytes())
    assert status == 400 and b"8,000 x 8,000 pixels, more than the 50,000,000" in answer
    assert asked(f"{pictures}?text=rain")  # it still works


def test_other_methods_and_other_names_of_the_host_are_refused(url):
    assert call(f"{url}/api/index", b"x")[0] == 405
    assert call(url, Host="evil.example")[0] == 400  # a name that was rebound to this machine
    assert call(url, Host="localhost:80")[0] == 200


def test_rates_numbers_and_times_are_limited(index):
    with served(index, LIMITS._replace(rate=0.001, burst=3)) as url:
        assert [call(f"{url}/api/index")[0] for _ in range(5)] == [200] * 3 + [429] * 2
    with served(index, MANY._replace(at_once=2, seconds=1.0)) as url:
        slow = [_half_a_picture(url) for _ in range(2)]  # two uploads that never end
        time.sleep(0.3)
        status, answer = call(f"{url}/api/index")
        assert status == 503 and b"too many requests at once" in answer
        for connection in slow:
            assert b"504" in connection.recv(100)  # given up after a second
            connection.close()
        assert call(f"{url}/api/index")[0] == 200


def _half_a_picture(url: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    connection.sendall(b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc")
    return connection


def test_a_token_bucket():
    limiter = RateLimiter(rate=2.0, burst=3)
    assert [limiter.allows("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limiter.allows("b", 0.0)
    assert not limiter.allows("a", 0.4)
    assert limiter.allows("a", 0.5 + 1e-6)
    assert [limiter.allows("a", 100.0) for _ in range(4)] == [True, True, True, False]


def test_the_command_serves_until_ctrl_c(place, capsys):
    command = [sys.executable, "-m", "jax_itm", "serve", str(place / "index"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "12 pictures, 6 captions; Ctrl-C ends it\n"
        url = process.stdout.readline().strip()
        assert asked(f"{url}/api/index")["pictures"] == 12
        port = urlsplit(url).port
        says(
            capsys,
            main(["serve", str(place / "index"), "--port", str(port)]),
            "cannot be used",
            "try --port 0",
        )
    finally:
        process.send_signal(2)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 0 and error == ""


def test_the_command_refuses(place, capsys):
    says(capsys, main(["serve", str(place), "--port", "0"]), "no index there; make one")
    says(capsys, main(["serve", str(place / "index"), "--port", "70000"]), "--port 70000: must be")
    says(capsys, main(["serve", str(place / "index"), "--host", "no.such.host.invalid"]), "no such address")
