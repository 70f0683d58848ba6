"""The documents run.json and state/train.json."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from grow.planning.record import config_sha256
from grow.processes import World
from grow.training.text.inputs import Data, Source
from grow.version import __version__


def run_document(
    begun: Mapping[str, Any], sources: Sequence[Source], data: Data, config: Mapping[str, Any], world: World
) -> dict[str, Any]:
    """Of run.json, and of train.json with step and tokens.

    begun  {"source": SRC, "before": what its weights have cost, "carried": of the state that the run began from}
    """
    import transformers

    return {
        "schema": 1,
        "grow": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": world.device.type,
        "world": world.size,
        "source": begun["source"],
        "before": begun["before"],
        "carried": begun["carried"],
        "config_sha256": config_sha256(config),
        "objective": data.objective.kind,
        "data": [
            {"path": str(Path(source.path).absolute()), "weight": source.weight, **hashes}
            for source, hashes in zip(sources, data.document())
        ],
        "settings": data.settings.document(),
    }
