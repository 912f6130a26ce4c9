"""Version 1 of rayplane's services: API objects, node hosts, volume replicas. Generated; no behaviour, no state."""
