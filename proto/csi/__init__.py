"""The Container Storage Interface v1 on the wire (package csi.v1). Generated; no behaviour and no state."""
