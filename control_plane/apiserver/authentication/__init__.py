"""Authentication: client certificates, service-account tokens, impersonation.

Owns who a caller is. Does not own what a caller may do (`authorization`).
"""
