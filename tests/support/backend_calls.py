"""Short ways to use a backend directly in tests, one sequence at a time."""

from daemons.worker.engine.backend import Backend, DecodeStatus, Span
from daemons.worker.engine.request import SamplingParams

GREEDY = SamplingParams(temperature=0.0)
PROMPT = "A bee named Luma left the hive at dawn."


def tokens_of(backend: Backend, text: str = PROMPT) -> list[int]:
    return backend.tokenize(text, add_special=True, parse_special=False)


def generate(
    backend: Backend, sequence: int, prompt: list[int], count: int, params: SamplingParams, *, start: int = 0
) -> list[int]:
    """Prompt from position `start` on, then `count` tokens, one at a time."""
    sampler = backend.sampler(params, prompt, ignore_eos=True)
    assert backend.decode([Span(sequence, start, prompt[start:], True)]) is DecodeStatus.OK
    out = [sampler.sample(len(prompt) - start - 1)]
    while len(out) < count:
        assert backend.decode([Span(sequence, len(prompt) + len(out) - 1, out[-1:], True)]) is DecodeStatus.OK
        out.append(sampler.sample(0))
    sampler.close()
    sampler.close()
    return out
