"""Vision encoders, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from common.errors import ConfigError
from policy.encoders.base import VisionEncoder
from policy.encoders.efficientnet import EfficientNetLite0
from policy.encoders.facexformer import FaceXFormerSwinB
from policy.encoders.mini_xception import MiniXception
from policy.encoders.tiny import TinyEncoder
from policy.encoders.umt import UmtL16

ENCODERS: dict[str, type[VisionEncoder]] = {
    "efficientnet_lite0": EfficientNetLite0,
    "facexformer_swin_b": FaceXFormerSwinB,
    "mini_xception": MiniXception,
    "tiny": TinyEncoder,
    "umt_l16": UmtL16,
}


def find_encoder(name: str) -> type[VisionEncoder]:
    """An encoder class by its key in :data:`ENCODERS` or as ``my_package.module:Class``.

    Raises:
        ConfigError: for a name that leads to no encoder.
    """
    if name in ENCODERS:
        return ENCODERS[name]
    module, colon, attribute = name.partition(":")
    rule = f"an encoder is one of {', '.join(ENCODERS)} or my_package.module:Class"
    if not colon:
        raise ConfigError(f"encoder {name!r}", rule, "correct the name")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"encoder {name!r}", rule, f"make it importable ({error})") from error
    if not (isinstance(found, type) and issubclass(found, VisionEncoder)):
        raise ConfigError(f"encoder {name!r}", rule, "subclass policy.encoders.base.VisionEncoder")
    return found


def build_encoder(name: str, options: Mapping[str, Any]) -> VisionEncoder:
    """An encoder with random weights.

    Raises:
        ConfigError: for a name that leads to no encoder, or options that it refuses.
    """
    encoder = find_encoder(name)
    return encoder(encoder.Options.of(options, name))
