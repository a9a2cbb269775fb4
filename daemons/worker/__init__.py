"""The worker daemon: one loaded model, its slots, and the HTTP in front of them."""
