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
    """The document of run.json; with step and tokens also that of train.json.

    begun  {"source": SRC, "before": what its weights have cost, "carried": what the training state says of its run}
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
