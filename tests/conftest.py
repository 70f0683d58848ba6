"""Offline, one thread, and the same hypothesis examples on every run. Set before torch is imported anywhere."""

import gc
import os
import sys

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",  # several threads wait for each other longer than tiny models compute
    "MKL_NUM_THREADS": "1",
}

from pathlib import Path

import hypothesis
import pytest

# An assertion that fails in a helper shows its values, as one in a test does.
pytest.register_assert_rewrite(*(path.stem for path in (Path(__file__).parent / "helpers").glob("*.py")))

hypothesis.settings.register_profile(
    "grow",
    deadline=None,  # the machine is shared
    derandomize=True,
    database=None,
    max_examples=60,
)
hypothesis.settings.load_profile("grow")


imported = 0


@pytest.fixture(autouse=True)
def imports_are_no_garbage():
    """Closing a pair of models collects garbage; without this it walks all of torch and transformers every time.

    They are imported as late as they are needed: after a test that imported something, and never else.
    """
    global imported
    if imported != len(sys.modules):
        imported = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny("llama", "bfloat16")`: the folder of a random checkpoint of `models.VARIANTS`, made once per worker."""
    import models

    made = {}

    def get(variant: str, dtype: str = "float32"):
        if (variant, dtype) not in made:
            made[variant, dtype] = models.save(variant, tmp_path_factory.mktemp(variant) / dtype, dtype)
        return made[variant, dtype]

    return get


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """`still("gpt2")`: a checkpoint of `models.VARIANTS` in float64, without dropout."""
    import models

    dropout = {"opt": ("dropout",), "gpt2": ("attn_pdrop", "embd_pdrop", "resid_pdrop")}
    made = {}

    def get(variant: str):
        if variant not in made:
            off = dict.fromkeys(dropout.get(variant.split("-")[0], ()), 0.0)
            made[variant] = models.save(variant, tmp_path_factory.mktemp(variant) / "source", "float64", **off)
        return made[variant]

    return get


@pytest.fixture(scope="module")
def stepped(still, text, tmp_path_factory):
    """`stepped("gpt2")`: the checkpoint behind one step on the module's `text` that moved no weight, made once."""
    from grown_states import STILL

    import grow

    made = {}

    def get(variant: str):
        if variant not in made:
            out = tmp_path_factory.mktemp(variant) / "run"
            made[variant] = grow.train(still(variant), text, out=out, **STILL).checkpoint
        return made[variant]

    return get
