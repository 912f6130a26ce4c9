"""rayplane's own gRPC services, by version. Generated; no behaviour and no state."""
