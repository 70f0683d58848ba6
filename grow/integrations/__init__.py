"""Growing inside the stock `Trainer` and Accelerate.

    from grow.integrations import GrowCallback
    Trainer(…, callbacks=[GrowCallback(at_step=1000, to="2x")]).train()

torch, transformers and accelerate are imported when a name is looked up.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grow.integrations.callback import GrowCallback as GrowCallback
    from grow.integrations.groups import parameter_groups as parameter_groups
    from grow.integrations.in_place import grow_in_place as grow_in_place
    from grow.integrations.trainer_state import load_trainer_state as load_trainer_state
    from grow.integrations.updates import NewEntryUpdates as NewEntryUpdates

_MODULES = {
    "GrowCallback": "callback",
    "NewEntryUpdates": "updates",
    "grow_in_place": "in_place",
    "load_trainer_state": "trainer_state",
    "parameter_groups": "groups",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
