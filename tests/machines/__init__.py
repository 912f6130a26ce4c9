"""Machines out of namespaces, and clusters that are spread over them."""
