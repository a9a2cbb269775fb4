"""The model that ships with rbee, and the scripts that made it.

Importing this package costs nothing: the scripts import numpy, gguf, torch and sentencepiece themselves.
"""

from pathlib import Path

DEMO_MODEL_PATH: Path = Path(__file__).with_name("demo.gguf")
"""The shipped GGUF file (llama architecture, Q8_0)."""
