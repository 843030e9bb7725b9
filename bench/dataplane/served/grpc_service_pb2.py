"""Triton's messages under the name that their classes give as their module, to be pickled by."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403 - whatever there is
