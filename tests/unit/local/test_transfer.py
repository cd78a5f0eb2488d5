import pytest

from flexinfer.local.downloads import environment, pause
from flexinfer.local.transfer import Done, Failed, Meter, Progress, Verifying, duration, read_event, size


@pytest.mark.parametrize(
    ("line", "event"),
    [
        pytest.param('{"event": "progress", "done": 1, "total": 2}', Progress(1, 2), id="progress"),
        pytest.param('{"event": "verifying", "file": "m.gguf"}', Verifying(), id="verifying, with words of its own"),
        pytest.param('{"event": "done", "path": "/x", "bytes": 7, "key": "k"}', Done("/x", 7), id="done"),
        pytest.param(
            '{"event": "failed", "reason": "Gated", "message": "no", "retryAfterS": null}',
            Failed("Gated", "no", None),
            id="failed for good",
        ),
        pytest.param(
            '{"event": "failed", "reason": "DiskFull", "message": "no", "retryAfterS": 15.0}',
            Failed("DiskFull", "no", 15.0),
            id="failed for now",
        ),
        pytest.param('{"event": "waiting"}', None, id="an event that is not known says nothing"),
        pytest.param('{"event": "progress", "done": "x"}', None, id="nor does one that is broken"),
        pytest.param("UserWarning: something", None, id="nor a library's warning"),
        pytest.param("", None, id="nor an empty line"),
    ],
)
def test_read_event(line, event):
    assert read_event(line) == event


@pytest.mark.parametrize(
    ("seen", "share", "left_s", "said"),
    [
        pytest.param([], None, None, "asking the hub what there is", id="nothing yet"),
        pytest.param([(0, 10, 100)], 0.1, None, "10% of 100 bytes", id="one look has no rate"),
        pytest.param([(0, 0, 100), (10, 50, 100)], 0.5, 10, "50% of 100 bytes, about 10 s left",
                     id="half in ten seconds"),
        pytest.param([(0, 40, 100), (10, 50, 100)], 0.5, 50, "50% of 100 bytes, about 50 s left",
                     id="what was there before took it no time"),
        pytest.param([(0, 0, 100), (5, 80, 100), (6, 10, 100), (8, 20, 100)], 0.2, 16,
                     "20% of 100 bytes, about 16 s left",
                     id="a restart forgets the rate"),
        pytest.param([(0, 0, 100), (10, 50, 100), (40, 50, 100)], 0.5, None, "50% of 100 bytes",
                     id="one that stands still has none"),
        pytest.param([(0, 0, 100), (10, 100, 100)], 0.99, 0, "99% of 100 bytes, about 0 s left",
                     id="never whole before it is verified"),
    ],
)  # fmt: skip
def test_meter(seen, share, left_s, said):
    meter = Meter()
    for at, done, total in seen:
        meter.read(Progress(done, total), at)
    assert (meter.share, meter.left_s, str(meter)) == (share, left_s, said)


def test_words_for_sizes_and_times():
    assert [size(count) for count in (12, 1500, 454_000, 4_100_000_000)] == ["12 bytes", "1.5 kB", "454 kB", "4.1 GB"]
    assert [duration(seconds) for seconds in (0.2, 119, 121, 7300)] == ["1 s", "119 s", "3 min", "3 h"]


@pytest.mark.parametrize(
    ("asked_s", "failures", "paused_s"),
    [
        pytest.param(15, 1, 15, id="as long as was asked for"),
        pytest.param(15, 3, 60, id="doubled with each failure in a row"),
        pytest.param(15, 50, 900, id="a quarter of an hour at most"),
        pytest.param(3600, 2, 3600, id="never shorter than was asked for"),
        pytest.param(0, 2, 2, id="and not at once for ever"),
    ],
)
def test_pause(asked_s, failures, paused_s):
    assert pause(asked_s, failures) == paused_s


def test_only_the_hubs_credentials_go_to_a_download(tmp_path):
    base = {"PATH": "/bin", "HF_TOKEN": "old", "HF_ENDPOINT": "http://hub", "OPENAI_API_KEY": "x", "HOME": "/home/u"}
    kept = {"PATH": "/bin", "HF_ENDPOINT": "http://hub", "HOME": "/home/u", "PYTHONUNBUFFERED": "1"}
    assert environment(base, None, "/state") == {**kept, "HF_TOKEN": "old"}
    (tmp_path / "token").write_text("  new\nrest\n")
    assert environment(base, tmp_path / "token", "/state") == {**kept, "HF_TOKEN": "new"}
    with pytest.raises(FileNotFoundError):
        environment(base, tmp_path / "none", "/state")
