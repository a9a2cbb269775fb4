"""The backend that runs llama.cpp, through llama-cpp-python's low-level bindings; their only importer."""
