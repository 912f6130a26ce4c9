"""Matching of requests by admission webhooks and policies, and the reviews in which they are told.

Owns: rules and selectors that match requests, the AdmissionReview that is sent, and what its answer may say. Does not
own: in which order plugins run, or how a webhook is reached (`control_plane.apiserver`). Pure.
"""
