"""Measurements, as ratios within one run: against llama.cpp's and llama-cpp-python's servers, and through the queen."""
