"""Flow control: whose request waits when there is much to do (the idea of API Priority and Fairness).

Owns the seats of a server, the turns of batches and the threads for large documents. Does not own limits of single
requests, which stand with what they limit.
"""
