"""The pairs that Slicer's Sample Data module offers for us, as it takes them."""

import sys
from types import ModuleType
from typing import Any

import pytest

from .conftest import ROOT


class SampleDataLogic:
    """Takes what Slicer's class of that name takes."""

    offered: list[dict[str, Any]]

    @classmethod
    def registerCustomSampleDataSource(
        cls,
        *,
        category: str,
        sampleName: str,
        uris: list[str],
        fileNames: list[str],
        nodeNames: list[str],
        checksums: list[str],
    ) -> None:
        assert len(uris) == len(fileNames) == len(nodeNames) == len(checksums)
        cls.offered.append({"category": category, "name": sampleName, "uris": uris, "nodes": nodeNames, "checksums": checksums})


def test_pairs_are_offered_once_slicer_has_started(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "SampleData", module)
    SampleDataLogic.offered = []
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    assert not SampleDataLogic.offered
    host.slicer.app.startupCompleted.emit()
    names = [one["name"] for one in SampleDataLogic.offered]
    assert "MRBrainTumorPair" in names
    for one in SampleDataLogic.offered:
        assert one["category"] == "RegistrationNet"
        assert len(one["nodes"]) == 2
        for uri, checksum in zip(one["uris"], one["checksums"], strict=True):
            kind, digest = checksum.split(":")
            assert (kind, len(digest)) == ("SHA256", 64)
            assert uri.startswith("https://")
            assert uri.endswith(f"/SHA256/{digest}")


def test_a_slicer_without_the_module_starts_all_the_same(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SampleData", None)
    host.loadModule(ROOT / "RegistrationNet" / "RegistrationNet.py")
    sys.modules["RegistrationNet"].register_sample_data()
    assert not hasattr(host.slicer.modules, "sampledata")
