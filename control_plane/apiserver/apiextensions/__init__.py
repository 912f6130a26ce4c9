"""Custom resources: definitions, the resources they make this server serve, and their schemas.

Owns CustomResourceDefinitions' effects, and defaulting and validation by their OpenAPI v3 schemas. Does not own how
objects are written and read, which is the same for all kinds (`registry`).
"""
