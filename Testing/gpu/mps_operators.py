"""Which of torch's operators Apple's device has, by the list that the installed torch was built from.

torch comes with `native_functions.yaml`, which names the kernels of each operator by device. An operator runs there where it has a kernel
for MPS, or for all devices alike (composite), of which its parts are asked for in turn.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

FOR_EVERY_DEVICE = ("CompositeImplicitAutograd", "CompositeExplicitAutograd", "CompositeExplicitAutogradNonFunctional")


@cache
def _listed() -> dict[str, dict[str, Any]]:
    text = files("torchgen").joinpath("packaged/ATen/native/native_functions.yaml").read_text("utf-8")
    return {one["func"].partition("(")[0]: one for one in yaml.load(text, yaml.CSafeLoader)}


def runs_on_mps(operator: Any) -> bool:
    """Whether an `OpOverload` of torch runs on Apple's device."""
    name = operator._schema.name.removeprefix("aten::") + (
        f".{operator._overloadname}" if operator._overloadname != "default" else ""
    )
    one = _listed()[name]
    if delegate := one.get("structured_delegate"):
        one = _listed()[delegate]
    if "dispatch" not in one:
        return True
    devices = {device.strip() for key in one["dispatch"] for device in key.split(",")}
    return bool(devices & {"MPS", *FOR_EVERY_DEVICE})
