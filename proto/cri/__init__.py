"""The Container Runtime Interface v1 on the wire (package runtime.v1). Generated; no behaviour and no state."""
