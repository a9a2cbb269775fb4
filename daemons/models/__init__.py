"""Models: how they are named, where their files lie, what a GGUF header says, and how much memory they need."""
