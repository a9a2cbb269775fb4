"""Continuous batching over llama.cpp: plain Python and one thread; no HTTP, no event loop."""
