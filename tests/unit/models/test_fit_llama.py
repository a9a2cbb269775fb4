"""The formula against llama.cpp itself: a context with the engine's parameters, and what it says it took."""

import json
import subprocess
import sys

import pytest

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.fit import OUTPUT_ROWS, estimate_memory
from daemons.models.headers import read_header

MIB = 2**20

CONTEXT = """
import json, re, sys
import llama_cpp as llama

path, ctx, slots, batch, rows = sys.argv[1], *map(int, sys.argv[2:])
said = []

@llama.llama_log_callback
def keep(level, text, user_data):
    said.append(text.decode("utf-8", "replace"))

llama.llama_log_set(keep, None)
llama.llama_backend_init()
model_parameters = llama.llama_model_default_params()
model_parameters.n_gpu_layers = 0
model = llama.llama_model_load_from_file(path.encode(), model_parameters)
parameters = llama.llama_context_default_params()
parameters.n_ctx, parameters.n_seq_max = ctx * slots, slots
parameters.n_batch = parameters.n_ubatch = batch
parameters.n_outputs_max = min(batch, max(slots, rows))
parameters.n_threads = parameters.n_threads_batch = 1
parameters.kv_unified, parameters.swa_full = False, False
assert llama.llama_init_from_model(model, parameters)
text = "".join(said)
def total(pattern):
    return sum(float(size) for size in re.findall(pattern + r" = +([0-9.]+) MiB", text))
print(json.dumps({
    "weights": llama.llama_model_size(model) / 2**20,
    "kv_cache": total("KV buffer size"),
    "compute": total("compute buffer size") + total("output buffer size"),
}))
"""


@pytest.mark.real_llama
@pytest.mark.parametrize(("ctx", "slots", "batch"), [(2048, 4, 512), (512, 8, 128), (2048, 1, 2048)])
def test_estimate_is_what_llama_cpp_reserves(ctx: int, slots: int, batch: int) -> None:
    """Weights and cache exactly, compute buffers within 15 %, and the whole never below what was taken."""
    arguments = [str(DEMO_MODEL_PATH), *map(str, (ctx, slots, batch, OUTPUT_ROWS))]
    done = subprocess.run([sys.executable, "-c", CONTEXT, *arguments], capture_output=True, text=True, check=True)
    took = json.loads(done.stdout)
    estimate = estimate_memory(read_header(DEMO_MODEL_PATH), ctx, slots, batch)
    assert estimate.weights / MIB == pytest.approx(took["weights"], rel=0.001)
    assert estimate.kv_cache / MIB == pytest.approx(took["kv_cache"], abs=0.01)
    assert estimate.compute / MIB == pytest.approx(took["compute"], rel=0.15)
    assert estimate.total / MIB >= sum(took.values()) - 0.1
