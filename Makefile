# Needs python3 and make; everything else goes into .venv.
#
#   make demo    grow a bundled model, verify it, and let plain transformers compare the two
#   make quick   something of everything, in a minute or two: the tests that are marked with pytest.mark.quick,
#                which are laws, notation, messages, bad checkpoints, targets, and tests/test_quick.py
#   make test    the whole suite            make test ARGS="-k readme" JOBS=2
#   make large   models of real sizes, what a check says of its memory, and every fact of every family: gigabytes, and a
#                quarter of an hour
#   make check   ruff and mypy
#   make bench   measurements in tests/benchmarks      make bench ARGS=--help
#   make clean   remove .venv and everything that was made

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= auto
ARGS   ?=
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
TORCH  := $(shell grep '^torch==' constraints.txt)

.PHONY: demo quick test large check bench clean

define COMPARE
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging
from grow.zoo import bundled_path

logging.set_verbosity_error()
logging.disable_progress_bar()
source, grown = str(bundled_path("small")), "demo/small-base"
prompt = AutoTokenizer.from_pretrained(source)("Fellow citizens of the Senate", return_tensors="pt").input_ids
texts, logits = [], []
for folder in (source, grown):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    out = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False)
    texts.append(AutoTokenizer.from_pretrained(folder).decode(out[0]))
    logits.append(model(out).logits.detach())
    print(f"\n{model.num_parameters():,} parameters write\n  {texts[-1]}")
apart = float((logits[0] - logits[1]).abs().max() / logits[0].std())
same = texts[0] == texts[1] and apart < 1e-5  # stock norms and RoPE compute in float32
print(f"\ngreedy texts {'agree' if texts[0] == texts[1] else 'DIFFER'}; largest difference of the logits: {apart:.1e} of their std")
sys.exit(not same)
endef
export COMPARE

demo: $(VENV)/installed
	@mkdir -p demo
	HF_HUB_OFFLINE=1 $(BIN)/grow widen --from small --to base --out demo/small-base --overwrite
	HF_HUB_OFFLINE=1 $(BIN)/grow verify small demo/small-base --report demo/report.html
	@HF_HUB_OFFLINE=1 $(BIN)/python -c "$$COMPARE"

# Only files with the mark are looked into: collecting all others would take longer than running these.
quick: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) -m quick $(ARGS) $$(grep -rl --include='test_*.py' 'mark\.quick' tests)

# Neighbours stay with one process, which then makes what they share once.
test: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

large: $(VENV)/installed-dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m large $(ARGS) tests/test_real.py tests/test_real_sizes.py tests/test_memory_estimate.py \
		tests/deriving/test_facts_are_complete.py

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	@for script in tests/benchmarks/bench_*.py; do echo "$$script $(ARGS)"; $(BIN)/python $$script $(ARGS) || exit; done

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find grow tests recipes -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and alone: pip then takes a CPU wheel where its configuration offers one.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("grow needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) -e '.[dev]'
	@touch $@
