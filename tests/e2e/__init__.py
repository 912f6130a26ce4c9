"""The product as its users meet it: real processes, stock kubectl. Every test file starts its own clusters."""
