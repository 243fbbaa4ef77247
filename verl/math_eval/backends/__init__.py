"""Where completions come from: base.py is the contract, every other file one backend."""
