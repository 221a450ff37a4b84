"""Which signatures say what task a call is, as the clustering wrote it."""

from pathlib import Path

import pytest

from policies.classify import ClassifyInput, ClusterTable, TableClassifier
from policies.found_clusters import decode_found
from policies.two_stage import TwoStageClassifier
from registry.errors import ConfigError
from router_service.found_clusters import FoundClustersKeeper

A, B, C = "a" * 64, "b" * 64, "c" * 64
FILE = (
    b'{"version": 1, "digest": "d", "clusters": ['
    b'{"id": "t-1", "signatures": ["%s", "%s"], "volume": 9}, {"id": "t-2", "signatures": ["%s", "%s"]}]}'
    % (A.encode(), B.encode(), B.encode(), C.encode())
)


def test_a_signature_that_two_tasks_share_decides_nothing():
    assert decode_found(FILE, "x").by_signature() == {A: "t-1", C: "t-2"}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"version": 2}', b"\xff", b'{"version": 1, "clusters": [{}]}'])
def test_another_file_is_refused_by_name(content: bytes):
    with pytest.raises(ConfigError, match=r"clusters\.json: not a file of found clusters"):
        decode_found(content, "clusters.json")


def test_a_changed_file_is_taken_up_and_a_bad_one_is_not(tmp_path: Path):
    file = tmp_path / "clusters.json"
    classifier = TwoStageClassifier(TableClassifier(ClusterTable()))
    keeper = FoundClustersKeeper(file, classifier)

    def cluster():
        keeper.look()
        return classifier.classify(ClassifyInput(signature=A)).cluster

    assert cluster() == "unknown"
    file.write_bytes(FILE)
    assert cluster() == "t-1" and keeper.trouble == ""
    file.write_bytes(b"nonsense")
    assert cluster() == "t-1" and "clusters.json" in keeper.trouble
    file.unlink()
    assert cluster() == "unknown" and keeper.trouble == ""
