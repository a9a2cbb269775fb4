"""The queen: decides which worker answers which task, relays the tokens, keeps the history."""
