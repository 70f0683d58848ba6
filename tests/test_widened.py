"""Large weights in float64 that stay as they are stored: the same numbers, wherever they are used."""

from __future__ import annotations

import pytest
import tiny
import torch
import transformers

import grow
from grow.verify import held, widened
from grow.verify.compare import difference
from grow.verify.float64 import forward, load, stored, tensors
from grow.verify.outputs import storage_floor
from grow.verify.pair import Pair
from grow.verify.widened import Widened
