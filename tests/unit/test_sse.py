import pytest

from specialists.sse import EventTooLargeError, SSEParser

RECORDED = (
    b"\xef\xbb\xbf: a comment\n"
    b'data: {"a": 1}\n\n'
    b"event: message\r\nid: 7\r\ndata:no space\r\ndata:  two spaces\r\n\r\n"
    b"retry: 10\rdata: by CR\r\r"
    b"data\n\n"
    b"database: not data\n\n"
    b": ping\n\n" + "data: caf\u00e9 \u2028 \U0001f600\n\n".encode() + b"data: [DONE]\n\n"
    b"data: never ended\n"
)
EXPECTED = [
    b'{"a": 1}',
    b"no space\n two spaces",
    b"by CR",
    b"",
    "caf\u00e9 \u2028 \U0001f600".encode(),
    b"[DONE]",
]


def parse(*chunks):
    parser = SSEParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def test_the_events_of_a_recorded_stream():
    assert parse(RECORDED) == EXPECTED


def test_a_cut_at_any_byte_changes_nothing():
    for place in range(len(RECORDED) + 1):
        assert parse(RECORDED[:place], RECORDED[place:]) == EXPECTED, place


def test_two_cuts_and_single_bytes_change_nothing():
    assert parse(*(RECORDED[i : i + 1] for i in range(len(RECORDED)))) == EXPECTED
    for first in range(0, len(RECORDED), 3):
        for second in range(first, len(RECORDED), 7):
            assert parse(RECORDED[:first], RECORDED[first:second], b"", RECORDED[second:]) == EXPECTED


def test_every_line_ending_gives_the_same_events():
    for ending in (b"\n", b"\r\n", b"\r"):
        stream = ending.join([b"data: a", b"data: b", b"", b"data: c", b"", b""])
        for size in range(1, 8):
            chunks = [stream[i : i + size] for i in range(0, len(stream), size)]
            assert parse(*chunks) == [b"a\nb", b"c"], (ending, size)


def test_an_event_without_its_end_is_no_event():
    assert parse(b"data: half") == []
    assert parse(b"data: whole\n") == []


@pytest.mark.parametrize("piece", [b"x" * 100, b"data: " + b"x" * 50 + b"\n"], ids=["one line", "many lines"])
def test_an_endless_event_is_refused(piece):
    parser = SSEParser(max_event_bytes=1000)
    with pytest.raises(EventTooLargeError):
        for _ in range(100):
            parser.feed(piece)


def test_many_small_events_are_no_large_one():
    parser = SSEParser(max_event_bytes=1000)
    assert sum(len(parser.feed(b"data: " + b"x" * 500 + b"\n\n")) for _ in range(100)) == 100
