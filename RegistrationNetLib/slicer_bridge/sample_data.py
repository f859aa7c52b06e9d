"""Pairs to try the module with, offered in Slicer's Sample Data module; downloaded from Slicer's own server and verified there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import slicer

CATEGORY = "RegistrationNet"


class Sample(NamedTuple):
    """One volume."""

    node_name: str
    file_name: str
    sha256: str


TUMOUR_PAIR = "MRBrainTumorPair"
PAIRS: Mapping[str, Sequence[Sample]] = {
    TUMOUR_PAIR: (
        Sample("MRBrainTumor1", "RegLib_C01_1.nrrd", "998cb522173839c78657f4bc0ea907cea09fd04e44601f17c82ea27927937b95"),
        Sample("MRBrainTumor2", "RegLib_C01_2.nrrd", "1a64f3f422eb3d1c9b093d1a18da354b13bcf307907c66317e2463ee530b7a97"),
    ),
    "CTMRBrainPair": (
        Sample("CTBrain", "CT-brain.nrrd", "6a5b6caccb76576a863beb095e3bfb910c50ca78f4c9bf043aa42f976cfa53d1"),
        Sample("MRBrainT1", "MR-brain-T1.nrrd", "2da3f655ed20356ee8cdf32aa0f8f9420385de4b6e407d28e67f9974d7ce1593"),
    ),
}


def register_sample_data() -> None:
    """Offer the pairs; once each, however often it is called. A Slicer without its Sample Data module offers none."""
    try:
        import SampleData  # another module, there when Slicer has started
    except ImportError:
        return

    for name, samples in PAIRS.items():
        SampleData.SampleDataLogic.registerCustomSampleDataSource(
            category=CATEGORY,
            sampleName=name,
            uris=[f"{slicer.util.TESTING_DATA_URL}SHA256/{one.sha256}" for one in samples],
            fileNames=[one.file_name for one in samples],
            nodeNames=[one.node_name for one in samples],
            checksums=[f"SHA256:{one.sha256}" for one in samples],
        )
