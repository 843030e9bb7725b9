"""Load for any server of the KServe V2 protocol over gRPC.

`trace` says when to send, `replay` sends, `report` says how it went.
"""
