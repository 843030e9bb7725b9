"""Load for any server of the KServe V2 protocol over gRPC.

`arrivals` and `warp` say when to send, `inputs` what; `sender` sends; `tally` counts, and `report`
says how it went. `run` does it all with processes of its own; `replay` sends from this one, for
those who want to see each answer.
"""
