"""Authentication: client certificates, tokens (of service accounts, issuers, webhooks, bootstrap), impersonation.

Owns who a caller is. Does not own what a caller may do (`authorization`).
"""
