"""google.rpc: the status of a failed call, and details of it that every gRPC library knows to read."""
