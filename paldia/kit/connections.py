"""What connections may take of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may take of a server before they have said anything of use.

    Attributes:
        connections: at once; one more is closed as it opens.
        streams: calls at once on one connection; clients keep further ones to themselves.
        idle_s: after which a connection without calls is closed; clients open it again.
        handshake_s: by when a connection must speak HTTP/2, or it is closed.
        metadata_bytes: of a call, names and values together.
        ahead_bytes: of a call, taken in before anybody reads it.
    """

    connections: int = 16384
    streams: int = 4096
    idle_s: float = 300.0
    handshake_s: float = 10.0
    metadata_bytes: int = 16 << 10
    ahead_bytes: int = 64 << 10

    def options(self) -> list[tuple[str, int]]:
        """Give them in gRPC's words (channel_arg_names.h)."""
        return [
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.max_connection_idle_ms", round(self.idle_s * 1000)),
            ("grpc.server_handshake_timeout_ms", round(self.handshake_s * 1000)),
            # Between these two a part is refused by chance.
            ("grpc.max_metadata_size", self.metadata_bytes),
            ("grpc.absolute_max_metadata_size", self.metadata_bytes),
            # What a probe finds the network to hold may be many MiB, for each call.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", self.ahead_bytes),
        ]
